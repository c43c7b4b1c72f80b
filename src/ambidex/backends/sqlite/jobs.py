"""What is queued for the writer, and how whoever waits is told; the leaf pair makes jobs, the writer runs them.

The invariant: a job ends exactly once, as done or failed, and its waiter is told after that, never before.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

import apsw

from ambidex.errors import DeadlineExceeded

__all__ = ["Job", "Lease", "LeaseJob", "Work", "set_done", "tell"]

Work = Callable[[apsw.Connection], Any]


class Job:
    """One unit of writing.

    Args:
        work: what to do with the connection, inside a transaction; may be run again after a rollback.
        single: one statement, which SQLite itself undoes when it fails, so that no savepoint is needed.
        deadline: the absolute monotonic moment after which it must not be begun.
    """

    __slots__ = ("_done", "_loop", "cancelled", "deadline", "error", "future", "result", "single", "told", "work")

    def __init__(self, work: Work, single: bool, deadline: float) -> None:
        self.work, self.single, self.deadline = work, single, deadline
        self.result: Any = None
        self.error: BaseException | None = None
        self.cancelled = False
        self.told = False
        self.future: asyncio.Future[None] | None = None
        self._done: threading.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, now: float) -> bool:
        """Tell whether the job should be run; one that nobody waits for any more, or whose time is over, is not."""
        if self.cancelled:
            return False
        if now > self.deadline:
            self.fail(DeadlineExceeded("the deadline passed while the write waited for its turn", applied="no"))
            return False
        return True

    def again(self) -> None:
        """Forget the outcome of a try that was rolled back."""
        self.result = self.error = None

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has one."""
        if self.error is None:
            self.error = error
            self.result = None

    def outcome(self) -> Any:
        """Return the result or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result

    def wait_in_thread(self) -> None:
        """Prepare to be waited for by a thread; call before submitting."""
        self._done = threading.Lock()
        self._done.acquire()

    def wait(self, seconds: float) -> bool:
        """Block until told; False when ``seconds`` have passed first."""
        assert self._done is not None  # noqa: S101  # wait_in_thread comes first
        return self._done.acquire(timeout=max(0.0, seconds))

    def wait_in_loop(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Prepare to be awaited on the running loop; call before submitting."""
        self._loop = loop
        self.future = loop.create_future()
        return self.future

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the task that waits, if one does."""
        return self._loop

    def tell_thread(self) -> None:
        """Release the waiting thread, if one waits."""
        if self._done is not None:
            self._done.release()


def tell(jobs: Iterable[Job]) -> None:
    """Wake everybody who waits for these jobs; tasks of one loop by a single call into it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for job in jobs:
        job.told = True
        if job.future is not None and job.loop is not None:
            by_loop.setdefault(job.loop, []).append(job.future)
        else:
            job.tell_thread()
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(set_done, futures)
        except RuntimeError:
            continue  # the loop was closed, and its tasks with it


def set_done(futures: Iterable[asyncio.Future[None]]) -> None:
    """Wake the tasks that await these futures, unless they were woken before."""
    for future in futures:
        if not future.done():
            future.set_result(None)


class Lease:
    """A transaction's hold on the writer: its statements come in through ``inbox``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = float("inf")
        self.inbox: SimpleQueue[Job] = SimpleQueue()
        self.last: Job | None = None
        self.broken = False
        self._guard = threading.Lock()
        self._ended: BaseException | None = None

    def start(self) -> None:
        """Begin to count the time."""
        self.deadline = time.monotonic() + self.seconds

    def alive(self) -> bool:
        """Tell whether its time is not over."""
        return time.monotonic() < self.deadline

    @property
    def over(self) -> bool:
        """True once it has ended, in whatever way."""
        return self._ended is not None

    def submit(self, job: Job, last: bool = False) -> None:
        """Hand a statement over; ``last`` marks COMMIT or ROLLBACK.

        Raises:
            LeaseLost: the transaction was rolled back because its time was over.
            Closed: it has ended.
        """
        with self._guard:
            if self._ended is not None:
                raise self._ended
            if last:
                self.last = job
            self.inbox.put(job)

    def end(self, reason: BaseException, refused: Job | None) -> None:
        """Refuse what comes from now on, and what came and was not served, for ``reason``."""
        with self._guard:
            self._ended = reason
            waiting = [] if refused is None else [refused]
            while not self.inbox.empty():
                waiting.append(self.inbox.get_nowait())
        for job in waiting:
            job.fail(reason)
        tell(waiting)


class LeaseJob(Job):
    """The request for a lease, queued among the other jobs."""

    __slots__ = ("lease",)

    def __init__(self, lease: Lease, deadline: float) -> None:
        super().__init__(lambda _conn: lease, single=False, deadline=deadline)
        self.lease = lease
