"""Both modes for a client that exists in one only; authors of backends and stores call this.

Each function returns a pair of :class:`Runner`, one a mode, over the same way of making the client::

    blocking, aio = async_only(lambda: connect(...))  # a client that must be awaited
    value = await aio.run(lambda client: client.get("key"))

Code written once over a runner works in both modes, as over a port. The invariants: the blocking runner never
suspends; a client that belongs to a loop is made, used and closed on that loop; a forked child makes clients anew.

Crossing costs: a call from synchronous code to the loop thread takes 30 to 80 µs, one from a loop to a worker thread
about as much. Worker threads come from ``concurrent.futures``, which does what asgiref's
``sync_to_async(thread_sensitive=False)`` does without one more dependency.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from ambidex.core.dual import drive
from ambidex.core.runtime import current_deadline
from ambidex.runtime.aio import AsyncRuntime
from ambidex.runtime.blocking import BlockingRuntime
from ambidex.runtime.loops import PerLoop
from ambidex.runtime.portal import LOOP_THREAD, WorkerThreads
from ambidex.runtime.process import reset_after_fork

__all__ = ["Runner", "async_only", "sync_only"]

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
T = TypeVar("T")


class Runner(Protocol[C_co]):
    """A client, as one mode reaches it."""

    async def run(self, work: Callable[[C_co], Any]) -> Any:
        """Call ``work`` with the client where the client lives; return its result, awaited if it is awaitable.

        Raises:
            DeadlineExceeded: the ambient deadline, or the runner's timeout, passed.
        """
        ...

    async def close(self) -> None:
        """Close the client, if one was made; the next call makes another."""
        ...


def async_only(
    make: Callable[[], C | Awaitable[C]],
    close: Callable[[C], Awaitable[object]] | None = None,
    *,
    timeout: float = 30.0,
) -> tuple[Runner[C], Runner[C]]:
    """Return the (blocking, asynchronous) runners of a client that has only an asynchronous form.

    Args:
        make: makes the client, awaitable or not; called on the loop that the client will belong to.
        close: closes it, on the same loop.
        timeout: seconds for a call.
    """
    return _OnLoopThread(make, close, timeout), _OnEachLoop(make, close)


def sync_only(
    make: Callable[[], C],
    close: Callable[[C], object] | None = None,
    *,
    timeout: float = 30.0,
    threads: int = 8,
) -> tuple[Runner[C], Runner[C]]:
    """Return the (blocking, asynchronous) runners of a thread-safe client that has only a synchronous form.

    Args:
        make: makes the one client that all threads use.
        close: closes it.
        timeout: seconds for a call from an event loop.
        threads: calls from event loops that run at once; more wait.
    """
    client = _OneClient(make, close)
    return _Here(client), _InWorkerThread(client, WorkerThreads(threads), timeout)


class _OnLoopThread(Generic[C]):
    """Blocks while the loop thread works."""

    def __init__(self, make: Callable[[], Any], close: Callable[[C], Awaitable[object]] | None, timeout: float) -> None:
        self._inner = _OnEachLoop(make, close)
        self._timeout = timeout

    async def run(self, work: Callable[[C], Any]) -> Any:
        return LOOP_THREAD.run(lambda: self._inner.run(work), current_deadline(self._timeout))

    async def close(self) -> None:
        LOOP_THREAD.run(self._inner.close, current_deadline(self._timeout))


class _OnEachLoop(Generic[C]):
    """A client a loop."""

    def __init__(self, make: Callable[[], Any], close: Callable[[C], Awaitable[object]] | None) -> None:
        self._make, self._close = make, close
        self._runtime = AsyncRuntime()
        self._clients: PerLoop[list[C]] = PerLoop(list)

    async def run(self, work: Callable[[C], Any]) -> Any:
        have = self._clients.get()
        client = have[0] if have else await self._runtime.single_flight(id(self), self._made)
        return await _settled(work(client))

    async def close(self) -> None:
        have = self._clients.get()
        if have:
            client = have.pop()
            if self._close is not None:
                await self._close(client)

    async def _made(self) -> C:
        client: C = await _settled(self._make())
        self._clients.get().append(client)
        return client


class _OneClient(Generic[C]):
    """A client a process, made at first use."""

    def __init__(self, make: Callable[[], C], close: Callable[[C], object] | None) -> None:
        self._make, self._close = make, close
        self._runtime = BlockingRuntime()
        self._have: list[C] = []
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Leave the parent's client to the parent."""
        self._have, self._runtime = [], BlockingRuntime()

    async def get(self) -> C:
        have = self._have
        return have[0] if have else await self._runtime.single_flight(id(self), self._made)

    async def _made(self) -> C:
        self._have.append(self._make())
        return self._have[0]

    def close(self) -> None:
        have, self._have = self._have, []
        if have and self._close is not None:
            self._close(have[0])


class _Here(Generic[C]):
    """Calls on the caller's thread."""

    def __init__(self, client: _OneClient[C]) -> None:
        self._client = client

    async def run(self, work: Callable[[C], Any]) -> Any:
        return work(await self._client.get())

    async def close(self) -> None:
        self._client.close()


class _InWorkerThread(Generic[C]):
    """Calls in a worker thread while the loop goes on."""

    def __init__(self, client: _OneClient[C], threads: WorkerThreads, timeout: float) -> None:
        self._client, self._threads, self._timeout = client, threads, timeout
        self._here = _Here(client)

    async def run(self, work: Callable[[C], Any]) -> Any:
        return await self._threads.run(lambda: drive(self._here.run(work)), current_deadline(self._timeout))

    async def close(self) -> None:
        await self._threads.run(self._client.close, current_deadline(self._timeout))
        self._threads.stop()


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
