"""The runtime of asynchronous callers, on whichever asyncio loop is running.

The invariant: nothing here is bound to a loop when it is made; a lock or flight is created per (process, loop) at
first use, so one runtime serves many loops.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, TypeVar

from ambidex.core.runtime import current_deadline, remaining
from ambidex.errors import DeadlineExceeded
from ambidex.runtime.loops import PerLoop

__all__ = ["AsyncRuntime"]

T = TypeVar("T")


class _Flight(NamedTuple):
    """One call in progress, and the deadline of the task that began it."""

    task: asyncio.Task[Any]
    until: float


class AsyncRuntime:
    """Implements :class:`ambidex.core.runtime.Runtime` for asyncio."""

    blocking = False

    def __init__(self) -> None:
        self._flights: PerLoop[dict[Hashable, _Flight]] = PerLoop(dict)

    async def sleep(self, seconds: float) -> None:
        """Let the loop run other tasks for ``seconds``."""
        await asyncio.sleep(seconds)

    def lock(self) -> AbstractAsyncContextManager[None]:
        """Return a lock whose waiting tasks yield to the loop; each loop has its own."""
        return _LoopLock()

    async def gather(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run the calls at once; when one fails the others are cancelled and awaited, and its error is raised."""
        tasks = [asyncio.ensure_future(call()) for call in calls]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def side_by_side(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run the calls at once, as :meth:`gather` does."""
        return await self.gather(calls)

    async def single_flight(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Run ``call`` in one task for all who ask meanwhile.

        A waiter that is cancelled, or whose deadline passes, does not cancel the others.
        """
        flights, until = self._flights.get(), current_deadline(math.inf)
        flight = flights.get(key)
        if flight is None:
            task = asyncio.ensure_future(_run(call))
            flights[key] = _Flight(task, until)
            task.add_done_callback(lambda done: _finish(flights, key, done))
            return await asyncio.shield(task)  # what it calls ends it at the deadline, which is this caller's
        if flight.task is asyncio.current_task():
            return await call()  # asked from inside its own flight: waiting for itself would never end
        if until < flight.until:
            await asyncio.wait({flight.task}, timeout=max(remaining(until), 0.0))
            if not flight.task.done():
                raise DeadlineExceeded("the deadline passed while another task was asking the same", applied="no")
        try:
            return await asyncio.shield(flight.task)
        except DeadlineExceeded:
            if flight.until >= until:
                raise
            return await self.single_flight(key, call)  # it had less time than this caller has

    async def offload(self, call: Callable[[], T]) -> T:
        """Run the function in the loop's default executor."""
        return await asyncio.get_running_loop().run_in_executor(None, call)

    async def awaited(self, made: Awaitable[T]) -> T:
        """Await it here."""
        return await made


async def _run(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


def _finish(flights: dict[Hashable, _Flight], key: Hashable, done: asyncio.Task[Any]) -> None:
    flights.pop(key, None)
    if not done.cancelled():
        done.exception()  # mark it retrieved: every waiter may have been cancelled


class _LoopLock:
    def __init__(self) -> None:
        self._locks: PerLoop[asyncio.Lock] = PerLoop(asyncio.Lock)

    async def __aenter__(self) -> None:
        await self._locks.get().acquire()

    async def __aexit__(self, *_exc: object) -> None:
        self._locks.get().release()
