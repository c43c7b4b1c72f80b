"""What is queued for the writer, and how whoever waits is told; the leaf pair makes jobs, the writer runs them.

The invariant: a job is claimed once, either by the writer, which then ends it as done or failed and tells the waiter
after that, or by its waiter, after which it is never run.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import apsw

from ambidex.backends.relational.sql import Args
from ambidex.errors import AmbidexError, Closed, DeadlineExceeded, ForkedUse, UsageError

if TYPE_CHECKING:
    import asyncio

__all__ = ["EndJob", "Job", "Lease", "LeaseJob", "SqlJob", "Work", "set_done", "tell"]

Work = Callable[[apsw.Connection], Any]


class Job:
    """One unit of writing.

    Args:
        work: what to do with the connection, inside a transaction; may be run again after a rollback.
        single: one statement, which SQLite itself undoes when it fails, so that no savepoint is needed.
        deadline: the absolute monotonic moment after which it must not be begun or go on.
    """

    __slots__ = (
        "_done",
        "_error",
        "_free",
        "deadline",
        "ended",
        "future",
        "loop",
        "result",
        "single",
        "told",
        "withdrawn",
        "work",
    )

    def __init__(self, work: Work, single: bool, deadline: float) -> None:
        self.work, self.single, self.deadline = work, single, deadline
        self.result: Any = None
        self._error: BaseException | None = None
        self._free = [True]  # popping is atomic, and only one caller can succeed
        self.ended = self.told = self.withdrawn = False
        self.future: asyncio.Future[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._done: threading.Lock | None = None

    def do(self, conn: apsw.Connection) -> Any:
        """Do the work and return its result."""
        return self.work(conn)

    def claim(self) -> bool:
        """Take the job, to run it or to withdraw it; True for one caller only."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def withdraw(self) -> bool:
        """Keep the job from being run; False if it was claimed before."""
        if not self.claim():
            return False
        self.withdrawn = True
        return True

    def wanted(self, now: float) -> bool:
        """Tell whether somebody waits for the job, and may."""
        return now < self.deadline and not self.withdrawn

    def begin(self, now: float) -> bool:
        """Claim the job for running; one whose time is over ends instead."""
        return self.claim() and (now <= self.deadline or self.in_time(now))

    def unclaim(self) -> None:
        """Let the job be claimed again: nothing came of running it."""
        self._free.append(True)

    def in_time(self, now: float) -> bool:
        """Tell whether the deadline has not passed; if it has, the job ends."""
        if now <= self.deadline:
            return True
        self.fail(DeadlineExceeded("the deadline passed before the write was done; nothing was written", applied="no"))
        return False

    def finish(self) -> None:
        """End well, with the result that is there; what has ended stays as it is."""
        self.ended = True

    def fail(self, error: BaseException) -> None:
        """End with an error of the job's own, unless it has ended."""
        if not self.ended:
            # One error may be the end of many jobs, and each is raised, with a traceback, where its waiter is.
            self._error = copy.copy(error) if isinstance(error, AmbidexError) else error
            self.result = None
            self.ended = True

    def again(self) -> None:
        """Forget the outcome of a try that was rolled back."""
        self.result = self._error = None
        self.ended = False

    def outcome(self) -> Any:
        """Return the result or raise the error."""
        if self._error is not None:
            raise self._error
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
        self.loop = loop
        self.future = loop.create_future()
        return self.future

    def tell_thread(self) -> None:
        """Release the waiting thread, if one waits."""
        if self._done is not None:
            self._done.release()


class SqlJob(Job):
    """One statement."""

    __slots__ = ("args", "sql")

    def __init__(self, sql: str, args: Args, deadline: float) -> None:
        super().__init__(_nothing, single=True, deadline=deadline)
        self.sql, self.args = sql, args

    def do(self, conn: apsw.Connection) -> Any:
        """Run the statement and return its rows."""
        return conn.execute(self.sql, self.args).fetchall()


def _nowhere(_job: Job) -> None:
    raise Closed("the transaction was not begun")


def _nothing(_conn: apsw.Connection) -> None: ...


class LeaseJob(Job):
    """The request for a lease, queued among the other jobs."""

    __slots__ = ("lease",)

    def __init__(self, lease: Lease, deadline: float) -> None:
        super().__init__(lambda _conn: lease, single=False, deadline=deadline)
        self.lease = lease


class EndJob(Job):
    """The end of a transaction."""

    __slots__ = ("commit",)

    def __init__(self, commit: bool, deadline: float) -> None:
        statement = "COMMIT" if commit else "ROLLBACK"
        super().__init__(lambda conn: conn.execute(statement).fetchall(), single=True, deadline=deadline)
        self.commit = commit


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
    """A transaction's hold on the writer.

    Statements of event loops come in through ``inbox`` and run on the writer's thread, which waits there for the end. A
    blocking caller runs its own on its own thread meanwhile: the connection belongs to whoever holds ``turn``.

    Args:
        seconds: how long it may last from the moment it is granted.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = float("inf")
        self.inbox: SimpleQueue[Job] = SimpleQueue()
        self.broken: BaseException | None = None
        """Why the database has rolled the transaction back before its end."""
        self.units: list[object] = []
        """The savepoints that are open inside, outermost first."""
        self.thread = threading.get_ident()
        """The thread, or the thread of the loop, that asked for it."""
        self.turn = threading.Lock()
        self.step: Callable[[Job], object] = _nowhere
        """Runs one statement; set when the lease is granted, called by whoever holds the turn."""
        self._runner = 0
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._ended: AmbidexError | None = None

    def start(self) -> None:
        """Begin to count the time."""
        self.deadline = time.monotonic() + self.seconds

    def alive(self) -> bool:
        """Tell whether its time is not over."""
        return time.monotonic() < self.deadline

    def submit(self, job: Job) -> None:
        """Hand a statement over.

        Raises:
            LeaseLost: the transaction was rolled back because its time was over.
            Closed: it has ended.
            ForkedUse: it belongs to the process that this one was forked from.
        """
        with self._guard:
            self._check()
            self.inbox.put(job)

    def run(self, job: Job) -> None:
        """Run a statement on the calling thread. An end is then handed over, so that the writer's thread goes on.

        Raises:
            LeaseLost: as :meth:`submit`; likewise Closed and ForkedUse.
            UsageError: this thread is inside a statement of the transaction.
        """
        self._check()  # a forked child may never get the turn
        last = isinstance(job, EndJob)
        me = threading.get_ident()
        if self._runner == me:
            raise UsageError("a statement of this transaction is under way in this thread: was a signal handled?")
        try:
            with self.turn:
                with self._guard:
                    self._check()
                try:
                    self._runner = me
                    self.step(job)
                except BaseException:  # Ctrl-C
                    self.broken = UsageError("a statement of this transaction was interrupted; the whole is undone")
                    raise
                finally:
                    self._runner = 0
                    if last:
                        self._ended = Closed("the transaction has ended")
        finally:
            if last:
                try:
                    self.inbox.put(job)
                except BaseException:  # Ctrl-C; without it the writer's thread would wait for the time limit
                    self.inbox.put(job)
                    raise
        job.told = True

    def _check(self) -> None:
        """Refuse what cannot be part of this transaction."""
        if self._process != os.getpid():
            raise ForkedUse("a transaction stays with the process that began it; this one was forked inside it")
        if self._ended is not None:
            raise copy.copy(self._ended)

    def end(self, reason: AmbidexError) -> None:
        """Refuse what comes from now on, and what came and was not served, for ``reason``."""
        waiting = []
        with self._guard:
            self._ended = reason
            while not self.inbox.empty():
                waiting.append(self.inbox.get_nowait())
        for job in waiting:
            job.fail(reason)
        tell(waiting)
