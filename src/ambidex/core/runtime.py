"""What differs between the two modes (sleeping, locks, gathering, single flight), as a protocol.

And the call's deadline.

Stores and policies receive a :class:`Runtime` and never import ``asyncio`` or ``threading``. The invariant of
deadlines: a call has one absolute point on the monotonic clock, set where the call enters, and everything below it
only ever makes it earlier. Where an operation runs its caller's own code (an embedder, a factory), the clock of the
operation's own limit stands still; a :func:`deadline` that the caller has set never moves.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar, Token
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from ambidex.errors import AmbidexError, DeadlineExceeded, UsageError

__all__ = [
    "Runtime",
    "check_deadline",
    "current_deadline",
    "current_operation",
    "deadline",
    "in_unit",
    "off_the_clock",
    "one_deadline",
    "operation_id",
    "partly_applied",
    "remaining",
    "time_limit",
    "unit",
]

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Limit:
    """Until when the calls that are made now must end.

    Attributes:
        fixed: what callers asked for with :func:`deadline`; infinite where nobody did.
        until: that, or the end of the operation's own time, whichever is earlier.
        operation: whether an operation's own time is in it.
    """

    __slots__ = ("fixed", "operation", "until")

    def __init__(self, fixed: float, until: float, operation: bool) -> None:
        self.fixed, self.until, self.operation = fixed, until, operation


_deadline: ContextVar[_Limit | None] = ContextVar("ambidex_deadline", default=None)
_operation: ContextVar[str | None] = ContextVar("ambidex_operation", default=None)
_MAX_OPERATION_ID = 200

_units: ContextVar[int] = ContextVar("ambidex_units", default=0)


@contextmanager
def unit() -> Iterator[None]:
    """Mark what this task or thread does inside as part of a transaction, which may yet be undone."""
    token = _units.set(_units.get() + 1)
    try:
        yield
    finally:
        _units.reset(token)


def in_unit() -> bool:
    """Tell whether this task or thread is inside a transaction: what cannot be undone must wait for its end."""
    return _units.get() > 0


class deadline:  # noqa: N801  # used as a function in a with statement
    """Give every call made inside the ``with`` block at most ``seconds`` from now.

    An outer deadline that is earlier stays.

    Works in both modes with a plain ``with``.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        outer, moment = _deadline.get(), time.monotonic() + self._seconds
        if outer is None:
            limit = _Limit(moment, moment, operation=False)
        else:
            limit = _Limit(min(outer.fixed, moment), min(outer.until, moment), outer.operation)
        self._token = _deadline.set(limit)

    def __exit__(self, *_exc: object) -> None:
        _deadline.reset(self._token)


class time_limit:  # noqa: N801  # as deadline
    """Give the calls of one operation, or of one step of a long one, ``seconds`` together.

    Inside another operation the outermost's limit is the only one. See :class:`one_deadline`.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._token: Token[_Limit | None] | None = None

    def __enter__(self) -> None:
        outer = _deadline.get()
        if outer is not None and outer.operation:
            return
        fixed = math.inf if outer is None else outer.fixed
        limit = _Limit(fixed, min(fixed, time.monotonic() + self._seconds), operation=True)
        self._token = _deadline.set(limit)

    def __exit__(self, *_exc: object) -> None:
        if self._token is not None:
            _deadline.reset(self._token)


def one_deadline(
    fn: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Give all calls that an operation makes one deadline together: ``self._timeout`` seconds from its start.

    For operations whose work is bounded by their arguments. One that makes a single call of a port needs it not,
    because each driver has that limit; one that works through any amount of data has a :class:`time_limit` a step.
    """

    @functools.wraps(fn)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with time_limit(self._timeout):
            return await fn(self, *args, **kwargs)

    return method


@contextmanager
def off_the_clock() -> Iterator[None]:
    """Do inside what an operation's own time does not count: its caller's code, or the passing of data of any size.

    Calls made inside have a limit each, as if they were no part of the operation.
    """
    limit = _deadline.get()
    if limit is None or not limit.operation:
        yield
        return
    began = time.monotonic()
    token = _deadline.set(None if limit.fixed == math.inf else _Limit(limit.fixed, limit.fixed, operation=False))
    try:
        yield
    finally:
        _deadline.reset(token)
        limit.until = min(limit.fixed, limit.until + time.monotonic() - began)


@contextmanager
def partly_applied() -> Iterator[None]:
    """Say of what fails inside that its operation may have taken effect, because it had written already.

    Inside a transaction errors stay as they are: the transaction as a whole is undone or not.
    """
    try:
        yield
    except AmbidexError as error:
        if error.applied != "no" or in_unit():
            raise
        again = copy.copy(error)  # others may be told of the same failure
        again.applied, again.retryable = "unknown", False
        raise again.with_traceback(error.__traceback__) from None


def current_deadline(default: float) -> float:
    """Return this call's absolute monotonic deadline: the ambient one, at most ``default`` seconds from now."""
    ambient = _deadline.get()
    own = time.monotonic() + default
    if ambient is None:
        return own
    return min(ambient.until, own)


def remaining(until: float) -> float:
    """Return the seconds left until an absolute deadline (negative when it has passed)."""
    return until - time.monotonic()


def check_deadline(until: float, what: str) -> None:
    """Raise DeadlineExceeded (nothing applied) if ``until`` has passed before ``what`` was started."""
    if until <= time.monotonic():
        raise DeadlineExceeded(f"the deadline passed before {what} was started", applied="no")


@contextmanager
def operation_id(name: str) -> Iterator[None]:
    """Name the one write made inside the ``with`` block, so that it takes effect once however often it is repeated.

    A backend that keeps such names (Redis for ``incr`` and for appends to a log) stores the name with the effect, in
    one atomic step, for a while; a repeated call with the same name on the same key returns the first one's result.
    With a name, these writes are also repeated by themselves when their reply was lost.

    Args:
        name: text that no other write of the same key uses, e.g. a random UUID or an order's number; 1 to 200
            characters.

    Raises:
        UsageError: the name is empty, too long or no text.
    """
    if type(name) is not str or not 0 < len(name) <= _MAX_OPERATION_ID:
        raise UsageError(f"an operation id is text of 1 to {_MAX_OPERATION_ID} characters, not {name!r:.60}")
    token = _operation.set(name)
    try:
        yield
    finally:
        _operation.reset(token)


def current_operation() -> str | None:
    """Return the name given to this write by :func:`operation_id`, or None."""
    return _operation.get()


class Runtime(Protocol):
    """The services whose implementation depends on the mode."""

    @property
    def blocking(self) -> bool:
        """True where operations are driven on the calling thread."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def lock(self) -> AbstractAsyncContextManager[None]:
        """Return a new mutual-exclusion lock for the users of this runtime."""
        ...

    async def gather(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run the calls, at once where the mode can, and return their results in order.

        The first error cancels the rest.
        """
        ...

    async def side_by_side(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run calls that wait for different servers at once, in both modes, and return their results in order.

        Unlike :meth:`gather`, it has threads in blocking mode; so they must not share a transaction. All are ended when
        it returns or raises the first error.
        """
        ...

    async def single_flight(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Run ``call`` once for all who ask for ``key`` at the same time in this process and mode.

        Each gets its result or its error.
        """
        ...

    async def offload(self, call: Callable[[], T]) -> T:
        """Run a blocking or CPU-heavy plain function without holding up other callers."""
        ...

    async def awaited(self, made: Awaitable[T]) -> T:
        """Await what code of the application's own has made, which may need an event loop: in both modes."""
        ...
