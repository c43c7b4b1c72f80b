"""The one writer of a SQLite database.

A FIFO queue of jobs, group commit, and transactions that lease it; both leaf colours submit to it.

The invariant: jobs take effect in the order in which they were submitted; a job is acknowledged only after the COMMIT
that holds it; a job that fails takes nothing of its neighbours with it; whoever waits is told, whatever happens to the
thread that does the work.

How it works: whoever finds the writer idle makes it busy. A blocking caller then runs its own job on its own thread,
which costs no hand-over. Everything that arrives while the writer is busy is queued, and the writer's thread commits
all that is queued at once: 64 writers share one flush to disk. A transaction leases the thread: its statements run
there in order, until its end or its time limit, after which it is rolled back, so that slow user code never wedges the
others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty

import apsw

from ambidex.backends.sqlite.connection import abandon
from ambidex.backends.sqlite.errors import translate
from ambidex.backends.sqlite.jobs import Job, Lease, LeaseJob, tell
from ambidex.errors import Closed, LeaseLost, OutcomeUnknown

__all__ = ["Writer"]

_MOST_TOGETHER = 1024
_MAINTENANCE_SECONDS = 1.0


class Writer:
    """Owns the writing connection.

    Args:
        path: the database, for messages.
        connect: opens the writing connection and brings its schema up to date.
        maintain: bounded housekeeping, run inside a write transaction about once a second.
    """

    def __init__(
        self, path: str, connect: Callable[[], apsw.Connection], maintain: Callable[[apsw.Connection], None]
    ) -> None:
        self._path, self._connect, self._maintain = path, connect, maintain
        self._conn: apsw.Connection | None = None
        self.reset()

    def reset(self) -> None:
        """Start anew: empty queue, nobody at work, no connection (an inherited one is abandoned)."""
        if self._conn is not None:
            abandon(self._conn)
        self._conn = None
        self._guard = threading.Lock()
        self._idle = threading.Condition(self._guard)
        self._queue: deque[Job] = deque()
        self._busy = False
        self._wake: threading.Lock | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._maintained = time.monotonic()

    # Submitting.

    def run(self, job: Job) -> None:
        """Run the job here if the writer is idle, otherwise queue it."""
        with self._guard:
            if self._busy:
                self._queue.append(job)
                return
            self._busy = True
        try:
            self._commit([job])
        finally:
            self._hand_over()

    def enqueue(self, job: Job) -> None:
        """Queue the job for the writer's thread."""
        with self._guard:
            self._queue.append(job)
            if not self._busy:
                self._busy = True
                self._start_thread()

    def withdraw(self, job: Job) -> bool:
        """Take a job back that nobody has begun; False if it is too late."""
        with self._guard:
            try:
                self._queue.remove(job)
            except ValueError:
                return False
            return True

    def open(self) -> None:
        """Connect now, so that what is wrong with the file shows early."""
        with self._idle:
            while self._busy:
                self._idle.wait()
            self._busy = True
        try:
            self._connection()
        except Exception as error:
            raise translate(error, self._path, "opening") from None
        finally:
            self._hand_over()

    def close(self) -> None:
        """Finish what is queued, stop the thread and close the connection; usable again afterwards."""
        with self._idle:
            while self._busy:
                self._idle.wait()
            self._busy = True  # nobody else may begin
            thread, wake = self._thread, self._wake
            self._thread = self._wake = None
        try:
            if thread is not None and wake is not None:
                self._stopping = True
                wake.release()
                if thread is not threading.current_thread():
                    thread.join()
                self._stopping = False
            if self._conn is not None:
                conn, self._conn = self._conn, None
                conn.close()
        except apsw.Error as error:
            raise translate(error, self._path, "closing") from None
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        """Stop being the one at work: pass the queue to the thread, or become idle."""
        with self._guard:
            if self._queue:
                self._start_thread()
            else:
                self._busy = False
                self._idle.notify_all()

    def _start_thread(self) -> None:
        """Wake the thread, with the guard held and the writer marked busy on its behalf."""
        if self._thread is None:
            self._wake = threading.Lock()
            self._wake.acquire()
            self._thread = threading.Thread(
                target=self._serve, args=(self._wake,), name="ambidex-sqlite-writer", daemon=True
            )
            self._thread.start()
        assert self._wake is not None  # noqa: S101  # made together with the thread
        self._wake.release()

    # Working. Only the one who made the writer busy is ever below this line.

    def _serve(self, wake: threading.Lock) -> None:
        while True:
            wake.acquire()
            if self._stopping:
                return
            while True:
                batch, lease = self._take()
                if batch:
                    self._commit(batch)
                if lease is not None:
                    self._lend(lease)
                with self._guard:
                    if not self._queue:
                        self._busy = False
                        self._idle.notify_all()
                        break

    def _take(self) -> tuple[list[Job], LeaseJob | None]:
        """Take what is queued, up to and including the first lease."""
        batch: list[Job] = []
        with self._guard:
            while self._queue and len(batch) < _MOST_TOGETHER:
                job = self._queue.popleft()
                if isinstance(job, LeaseJob):
                    return batch, job
                batch.append(job)
        return batch, None

    def _commit(self, batch: Sequence[Job]) -> None:
        """Run the jobs in one transaction, each on its own if that fails, and tell who waits."""
        now = time.monotonic()
        todo = [job for job in batch if job.begin(now)]
        try:
            if not self._together(todo):
                for job in todo:
                    self._together([job], alone=True)
        except Exception as raised:
            self._drop_connection()
            error = translate(raised, self._path, "writing to")
            for job in todo:
                job.fail(error)
        except BaseException:  # Ctrl-C: the transaction goes with its connection
            self._drop_connection()
            raise
        finally:
            tell(batch)

    def _together(self, jobs: Sequence[Job], alone: bool = False) -> bool:
        """Run jobs in one transaction; False if they should rather be run one by one."""
        if not jobs:
            return True
        conn = self._connection()
        try:
            conn.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._one(conn, job, savepoint=len(jobs) > 1)
            self._housekeep(conn)
            conn.execute("COMMIT")
        except apsw.Error as raised:
            error = translate(raised, self._path, "writing to", conn.system_errno)
            self._roll_back(conn)
            if not alone and len(jobs) > 1 and not isinstance(error, OutcomeUnknown):
                for job in jobs:
                    job.again()
                return False
            for job in jobs:
                job.fail(error)
        return True

    def _one(self, conn: apsw.Connection, job: Job, savepoint: bool) -> None:
        """Run one job inside the transaction. Its own refusal stays its own; what ends the transaction is raised."""
        savepoint = savepoint and not job.single
        if savepoint:
            conn.execute("SAVEPOINT job")
        try:
            job.result = job.work(conn)
        except Exception as raised:
            if not conn.in_transaction or isinstance(raised, apsw.FullError | apsw.IOError):
                raise
            if savepoint:
                conn.execute("ROLLBACK TO job")
            elif not job.single:
                conn.execute("ROLLBACK")
                conn.execute("BEGIN IMMEDIATE")
            job.fail(translate(raised, self._path, "writing to", conn.system_errno))
        finally:
            if savepoint and conn.in_transaction:
                conn.execute("RELEASE job")

    def _housekeep(self, conn: apsw.Connection) -> None:
        now = time.monotonic()
        if now - self._maintained >= _MAINTENANCE_SECONDS:
            self._maintained = now
            self._maintain(conn)

    def _connection(self) -> apsw.Connection:
        if self._conn is None:
            self._conn = self._connect()
        return self._conn

    def _roll_back(self, conn: apsw.Connection) -> None:
        try:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
        except apsw.Error:
            self._drop_connection()

    def _drop_connection(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close(True)

    # Transactions.

    def _lend(self, job: LeaseJob) -> None:
        """Serve one transaction to its end, then tell how it ended."""
        if not job.begin(time.monotonic()):
            tell([job])
            return
        lease = job.lease
        try:
            conn = self._connection()
            conn.execute("BEGIN IMMEDIATE")
        except Exception as error:
            job.fail(translate(error, self._path, "beginning a transaction on"))
            tell([job])
            return
        job.result = lease
        lease.start()
        tell([job])
        try:
            self._serve_lease(conn, lease)
        except Exception as error:
            lease.end(translate(error, self._path, "running a transaction on"), None)
        finally:
            self._roll_back(conn)

    def _serve_lease(self, conn: apsw.Connection, lease: Lease) -> None:
        while True:
            try:
                job = lease.inbox.get(timeout=max(0.0, lease.deadline - time.monotonic()))
            except Empty:
                job = None
            if job is None or not lease.alive():
                lease.end(
                    LeaseLost(
                        f"a transaction held the writer of {self._path} for more than {lease.seconds:g} s "
                        "and was rolled back; do slow work before it, or raise lease_timeout"
                    ),
                    job,
                )
                return
            if job.begin(time.monotonic()):
                self._lease_step(conn, lease, job)
            finished = job is lease.last
            if finished:
                lease.end(Closed("the transaction has ended"), None)
            tell([job])
            if finished:
                return

    def _lease_step(self, conn: apsw.Connection, lease: Lease, job: Job) -> None:
        try:
            if job is lease.last:
                job.result = job.work(conn)
            else:
                self._one(conn, job, savepoint=True)
        except apsw.Error as raised:
            job.fail(translate(raised, self._path, "writing to", conn.system_errno))
            if not conn.in_transaction and job is not lease.last:
                lease.broken = True
