"""Crossing between synchronous callers and event loops: a persistent loop thread, and worker threads.

:mod:`ambidex.bridge` uses these for clients that exist in one colour only, and the runtime of synchronous callers for
what an application gives in asynchronous form (an embedder, say); nothing else in the package crosses. The
invariants: what runs on the loop thread belongs to it for good, so a client made there is never seen by another loop;
a caller that gives up cancels its work there; a forked child starts a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ambidex.core.runtime import remaining
from ambidex.errors import DeadlineExceeded, NestedCheckout
from ambidex.runtime.process import ForkLock, reset_after_fork

__all__ = ["LOOP_THREAD", "LoopThread", "WorkerThreads"]

T = TypeVar("T")


class LoopThread:
    """One event loop in a daemon thread, started at first use."""

    def __init__(self) -> None:
        self._guard = ForkLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's thread, which does not exist here."""
        self._loop = self._thread = None

    def run(self, call: Callable[[], Awaitable[T]], until: float) -> T:
        """Run ``call`` on the loop and block until it is done.

        Raises:
            DeadlineExceeded: ``until`` passed; the call was cancelled.
            NestedCheckout: this is the loop's own thread, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise NestedCheckout(
                "what runs on the loop thread of synchronous callers called it synchronously itself; await it there"
            )
        future = asyncio.run_coroutine_threadsafe(_awaited(call), self._running())
        try:
            return future.result(min(max(0.0, remaining(until)), threading.TIMEOUT_MAX))
        except concurrent.futures.TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended in this moment, or raised a TimeoutError of its own
            future.cancel()
            raise DeadlineExceeded(
                "the deadline passed while asynchronous code worked for a synchronous caller; its work was cancelled"
            ) from None
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="ambidex-bridge", daemon=True)
                self._thread.start()
            return self._loop

    def stop(self) -> None:
        """End the loop and its thread, cancelling what runs there; the next call starts new ones."""
        with self._guard:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


LOOP_THREAD = LoopThread()
"""One for all of the process: an idle loop costs a thread."""


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


class WorkerThreads:
    """A bounded set of threads for blocking calls made from event loops.

    The caller's context variables (its deadline, say) are seen by the call, as with ``asyncio.to_thread``.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._guard = ForkLock()
        self._executor: ThreadPoolExecutor | None = None
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's threads, which do not exist here."""
        self._executor = None

    async def run(self, call: Callable[[], T], until: float) -> T:
        """Run ``call`` in a thread.

        A thread cannot be stopped: when the caller is cancelled or out of time the call goes on and its outcome is
        dropped.

        Raises:
            DeadlineExceeded: ``until`` passed.
        """
        with self._guard:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._size, "ambidex-bridge")
            executor = self._executor
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(executor, lambda: context.run(call))
        future.add_done_callback(_retrieved)
        done, _ = await asyncio.wait((future,), timeout=max(0.0, remaining(until)))
        if not done:
            future.cancel()  # which keeps it from beginning, if it has not
            raise DeadlineExceeded("the deadline passed while a bridged client worked")
        return future.result()

    def stop(self) -> None:
        """Wait for what runs, and end the threads; the next call starts new ones."""
        with self._guard:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()


def _retrieved(future: asyncio.Future[T]) -> None:
    """Mark an outcome as seen: whoever asked for it may have gone."""
    if not future.cancelled():
        future.exception()
