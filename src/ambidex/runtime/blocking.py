"""The runtime of synchronous callers: everything happens on the calling thread.

The invariant: no method here ever suspends, so any coroutine that uses only this runtime and blocking leaf drivers can
be driven by ``send(None)``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from typing import Any, TypeVar

from ambidex.core.dual import drive
from ambidex.core.runtime import current_deadline, remaining
from ambidex.errors import DeadlineExceeded
from ambidex.runtime.process import reset_after_fork

__all__ = ["BlockingRuntime"]

T = TypeVar("T")


class _Flight:
    """One call in progress and the threads that wait for it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.owner = threading.get_ident()
        self.until = current_deadline(math.inf)
        self.result: Any = None
        self.error: BaseException | None = None


class BlockingRuntime:
    """Implements :class:`ambidex.core.runtime.Runtime` for synchronous code. Thread-safe."""

    blocking = True

    def __init__(self) -> None:
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's flights: in a child no thread will ever end them."""
        self._guard = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    async def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    def lock(self) -> AbstractAsyncContextManager[None]:
        """Return a lock that blocks the waiting thread."""
        return _ThreadLock()

    async def gather(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run the calls one after another."""
        return [await call() for call in calls]

    async def side_by_side(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run the first call here and each other one in a thread of its own, with this call's deadline."""
        if not calls:
            return []
        others = [_Aside(call) for call in calls[1:]]
        try:
            first = await calls[0]()
        finally:
            for other in others:
                other.join()
        return [first, *(other.outcome() for other in others)]

    async def single_flight(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Let one thread run ``call``; threads that come meanwhile wait for its outcome, until their own deadline.

        A thread that asks again for a key it is already computing runs the call itself instead of waiting for itself.
        """
        with self._guard:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if not mine:
            if flight.owner == threading.get_ident():
                return await call()
            until = current_deadline(math.inf)
            if not flight.done.wait(min(max(remaining(until), 0.0), threading.TIMEOUT_MAX)):
                raise DeadlineExceeded("the deadline passed while another thread was asking the same", applied="no")
            if flight.error is None:
                return flight.result  # type: ignore[no-any-return]  # flights of all types share one table
            hurried = isinstance(flight.error, DeadlineExceeded) and flight.until < until
            if isinstance(flight.error, Exception) and not hurried:
                raise flight.error
            # The runner was interrupted, or had less time than this caller has, which refuses nothing: run it here.
            return await self.single_flight(key, call)
        try:
            flight.result = await call()
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._guard:
                self._flights.pop(key, None)  # gone where the call itself has forked
            flight.done.set()
        return flight.result  # type: ignore[no-any-return]

    async def offload(self, call: Callable[[], T]) -> T:
        """Run the function here: the caller is blocking anyway."""
        return call()

    async def awaited(self, made: Awaitable[T]) -> T:
        """Wait while it is awaited on the loop thread that all blocking callers share."""
        from ambidex.runtime.portal import LOOP_THREAD  # with asyncio, which blocking callers else do without

        return LOOP_THREAD.run(lambda: made, current_deadline(math.inf))


class _Aside(threading.Thread):
    """One call in a thread, begun at once."""

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(name="ambidex-aside", daemon=True)
        self._call, self._context = call, copy_context()
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._context.run(drive, _awaited(self._call))
        except BaseException as error:
            self._error = error

    def outcome(self) -> Any:
        """Return the result or raise the error of a call that has ended."""
        if self._error is not None:
            raise self._error
        return self._result


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


class _ThreadLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(self, *_exc: object) -> None:
        self._lock.release()
