"""What differs between the two modes (sleeping, locks, gathering, single flight), as a protocol.

And the call's deadline.

Stores and policies receive a :class:`Runtime` and never import ``asyncio`` or ``threading``. The invariant of
deadlines: a call has one absolute point on the monotonic clock, set where the call enters, and everything below it
only ever makes it earlier.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from ambidex.errors import DeadlineExceeded, UsageError

__all__ = [
    "Runtime",
    "check_deadline",
    "current_deadline",
    "current_operation",
    "deadline",
    "in_unit",
    "operation_id",
    "remaining",
    "unit",
]

T = TypeVar("T")

_deadline: ContextVar[float | None] = ContextVar("ambidex_deadline", default=None)
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


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Give every call made inside the ``with`` block at most ``seconds`` from now.

    An outer deadline that is earlier stays.

    Works in both modes with a plain ``with``.
    """
    outer = _deadline.get()
    moment = time.monotonic() + seconds
    token = _deadline.set(moment if outer is None else min(outer, moment))
    try:
        yield
    finally:
        _deadline.reset(token)


def current_deadline(default: float) -> float:
    """Return this call's absolute monotonic deadline: the ambient one, at most ``default`` seconds from now."""
    ambient = _deadline.get()
    own = time.monotonic() + default
    return own if ambient is None or own < ambient else ambient


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

    async def single_flight(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Run ``call`` once for all who ask for ``key`` at the same time in this process and mode.

        Each gets its result or its error.
        """
        ...

    async def offload(self, call: Callable[[], T]) -> T:
        """Run a blocking or CPU-heavy plain function without holding up other callers."""
        ...
