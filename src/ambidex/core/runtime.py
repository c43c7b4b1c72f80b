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

from ambidex.errors import DeadlineExceeded

__all__ = ["Runtime", "check_deadline", "current_deadline", "deadline", "remaining"]

T = TypeVar("T")

_deadline: ContextVar[float | None] = ContextVar("ambidex_deadline", default=None)


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
    if remaining(until) <= 0:
        raise DeadlineExceeded(f"the deadline passed before {what} was started", applied="no")


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
