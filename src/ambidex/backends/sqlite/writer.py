"""The one writer of a SQLite database.

A FIFO queue of jobs, group commit, and transactions that lease it; both leaf colours submit to it.

The invariant: jobs take effect in the order in which they were submitted; a job is acknowledged only after the COMMIT
that holds it; a job that fails takes nothing of its neighbours with it; whoever waits is told.

How it works: whoever finds the writer idle becomes its owner. A blocking caller then runs its own job on its own
thread, which costs no hand-over. Everything that arrives while the writer has an owner is queued, and the writer's
thread commits all that is queued at once: 64 writers share one flush to disk. A transaction leases the thread: its
statements run there in order, until its end or its time limit, after which it is rolled back, so that slow user code
never wedges the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import groupby
from queue import Empty

import apsw

from ambidex.backends.sqlite.connection import LONG_STEPS, pause
from ambidex.backends.sqlite.errors import translate
from ambidex.backends.sqlite.jobs import EndJob, Job, Lease, LeaseJob, SqlJob, tell
from ambidex.errors import (
    AmbidexError,
    Busy,
    Closed,
    Corrupted,
    LeaseLost,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    StorageFull,
    Unavailable,
)

__all__ = ["Writer"]

_MOST_TOGETHER = 1024
_FOREVER = float("inf")
_FEW = 4  # neighbouring statements of one kind from which they are run at once

KeepWaiting = Callable[[int], bool]


class Writer:
    """Owns the writing connection.

    Args:
        path: the database, for messages.
        connect: opens the writing connection with a busy handler and brings its schema up to date.
        maintain: bounded housekeeping, run inside a write transaction when its time has come; returns the seconds
            until the next.
    """

    def __init__(
        self,
        path: str,
        connect: Callable[[KeepWaiting], apsw.Connection],
        maintain: Callable[[apsw.Connection], float],
    ) -> None:
        self._path, self._connect, self._maintain = path, connect, maintain
        self.reset()

    def reset(self) -> None:
        """Start anew: empty queue, nobody at work, no connection."""
        self._conn: apsw.Connection | None = None
        self._guard = threading.Lock()
        self._idle = threading.Condition(self._guard)
        self._queue: deque[Job] = deque()
        self._owner: object | None = None
        self._claimants = 0  # those who want to become the owner before anything more is begun
        self._wake: threading.Lock | None = None
        self._thread: threading.Thread | None = None
        self._lease: Lease | None = None
        self._maintenance = time.monotonic() + 1.0
        self._wanted: Callable[[float], bool] = lambda _now: False
        self._until = _FOREVER
        self.locked = False
        """True while another process holds the lock that the job at the head needs."""

    # Submitting. An owner gives the writer up by _pass_on, which is repeated where Ctrl-C may have interrupted it.

    def run(self, job: Job) -> None:
        """Run the job here if the writer is idle, otherwise queue it."""
        try:
            with self._guard:
                if self._owner is not None or self._claimants or isinstance(job, LeaseJob):
                    job.wait_in_thread()
                    self._queue.append(job)
                    if self._owner is None and not self._claimants:
                        self._start_thread()
                    return
                self._owner = job
            self._commit([job])
        finally:
            try:
                if self._owner is job:
                    self._pass_on(job)
            except BaseException:
                self._pass_on(job)
                raise

    def enqueue(self, job: Job) -> None:
        """Queue the job for the writer's thread."""
        with self._guard:
            self._queue.append(job)
            if self._owner is None and not self._claimants:
                self._start_thread()

    def open(self, until: float) -> None:
        """Connect now, so that what is wrong with the file shows early.

        Args:
            until: the absolute monotonic moment up to which to wait for others.

        Raises:
            Busy: another process, or another job, held the database until then.
        """

        def connect() -> None:
            self._wanted = lambda now: now < until
            self._connection()

        if not self._as_owner(connect, until):
            raise Busy(f"the writer of the SQLite database {self._path} was at work until the deadline of opening it")

    def close(self) -> None:
        """Finish what is queued now, stop the thread and close the connection; usable again afterwards."""
        last = Job(lambda _conn: None, single=True, deadline=_FOREVER)
        last.wait_in_thread()
        with self._guard:
            busy = self._owner is not None
            if busy:
                self._queue.append(last)
        if busy:
            last.wait(threading.TIMEOUT_MAX)
        self._as_owner(self._shut, _FOREVER)

    def rest(self, until: float) -> object | None:
        """Finish the work at hand, close the connection, and begin nothing before :meth:`resume`.

        Returns:
            What to hand to ``resume``; None if the writer did not come to rest in time. A transaction of the calling
            thread cannot end while that waits, so it is not waited for.
        """
        token = object()
        if not self._claim(token, until, lambda lease: lease.thread == threading.get_ident()):
            return None
        self._drop_connection()
        return token

    def resume(self, token: object) -> None:
        """Begin with what was queued since :meth:`rest`."""
        self._pass_on(token)

    def _as_owner(self, call: Callable[[], None], until: float) -> bool:
        """Call when nobody else is the owner; False if ``until`` passed first."""
        token = object()
        try:
            if not self._claim(token, until, lambda _lease: False):
                return False
            call()
        finally:
            try:
                self._pass_on(token)
            except BaseException:
                self._pass_on(token)
                raise
        return True

    def _claim(self, token: object, until: float, hopeless: Callable[[Lease], bool]) -> bool:
        """Become the owner as soon as the work at hand is done, before all that is queued.

        False: ``until`` passed first, or the transaction at hand is hopeless to wait for.
        """
        with self._idle:
            self._claimants += 1
            try:
                while self._owner is not None:
                    left = until - time.monotonic()
                    if left <= 0 or (self._lease is not None and hopeless(self._lease)):
                        return False
                    self._idle.wait(min(left, 0.05))  # a lease may be granted meanwhile, which notifies nobody
                self._owner = token
            finally:
                self._claimants -= 1
                if self._owner is None and self._queue and not self._claimants:
                    self._start_thread()
        return True

    def _shut(self) -> None:
        thread, wake = self._thread, self._wake
        self._thread = self._wake = None
        if thread is not None and wake is not None:
            wake.release()  # it finds that it is no longer the writer's thread, and ends
            thread.join()
        self._drop_connection()

    def _pass_on(self, owner: object) -> None:
        """Stop being the owner: pass the queue to the thread, or become idle."""
        with self._guard:
            if self._owner is not owner:
                return
            if self._queue and not self._claimants:
                self._start_thread()
            else:
                if self._claimants:
                    self._idle.notify_all()
                self._owner = None

    def _start_thread(self) -> None:
        """Wake the thread and make it the owner; call with the guard held."""
        if self._wake is None:
            wake = threading.Lock()
            wake.acquire()
            thread = threading.Thread(target=self._serve, args=(wake,), name="ambidex-sqlite-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._refuse(Overloaded(f"no thread can be started to write to {self._path}: {error}"))
                return
            self._thread, self._wake = thread, wake
        self._owner = self._wake
        self._wake.release()

    def _refuse(self, error: AmbidexError) -> None:
        """Fail what is queued and become idle; call with the guard held."""
        jobs = list(self._queue)
        self._queue.clear()
        for job in jobs:
            job.fail(error)
        tell(jobs)
        self._idle.notify_all()
        self._owner = None

    # Working. Only the owner is ever below this line.

    def _serve(self, wake: threading.Lock) -> None:
        while True:
            wake.acquire()
            if self._wake is not wake:
                return
            while self._owner is wake:
                batch, lease = self._take()
                if batch:
                    self._commit(batch)
                if lease is not None:
                    self._lend(lease)
                with self._guard:
                    if not self._queue or self._claimants:
                        self._idle.notify_all()
                        self._owner = None

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
        """Run the jobs in one transaction, or each in its own if that fails, and tell who waits."""
        try:
            if len(batch) > 1 or not self._lone(batch[0]):
                self._begin(batch)
                now = time.monotonic()
                jobs = [job for job in batch if job.begin(now)]
                if not self._together(jobs):
                    for job in jobs:
                        self._alone(job)
        except Exception as raised:
            self._give_up(batch, raised)
        except BaseException:  # Ctrl-C on the caller's own thread: the transaction goes with its connection
            self._drop_connection()
            raise
        finally:
            tell(batch)

    def _lone(self, job: Job) -> bool:
        """Run a statement that nobody else waits with as a transaction of SQLite's own, which spares two statements.

        False: that cannot be, and nothing has happened.
        """
        now = time.monotonic()
        if self._conn is None or type(job) is not SqlJob or now >= self._maintenance or not job.begin(now):
            return False
        self._wanted = _never  # while another process has the lock, the job must stay free to be withdrawn
        self._until = job.deadline
        try:
            job.result = job.do(self._conn)
            job.finish()
        except apsw.BusyError:
            job.unclaim()
            return False
        except Exception as raised:
            self._fail_all([job], raised)
        finally:
            self._until = _FOREVER
        return True

    def _alone(self, job: Job) -> None:
        """Run a job again, in a transaction of its own."""
        job.again()
        if not job.in_time(time.monotonic()):
            return
        try:
            self._begin([job])
            self._together([job])
        except Exception as raised:
            self._give_up([job], raised)

    def _give_up(self, jobs: Sequence[Job], raised: Exception) -> None:
        """End the jobs whose transaction could not begin, or could not even be undone."""
        error = self._translate(raised)
        if not isinstance(error, Busy):
            self._drop_connection()
        for job in jobs:
            job.fail(error)

    def _begin(self, jobs: Sequence[Job]) -> None:
        """Open a transaction; while another process holds the lock, wait as long as any of the jobs is wanted."""
        self._wanted = lambda now: any(job.wanted(now) for job in jobs)
        try:
            self._connection().execute("BEGIN IMMEDIATE")
        finally:
            self.locked = False

    def _together(self, jobs: Sequence[Job]) -> bool:
        """Run jobs in the open transaction and commit it.

        False: it was rolled back, and the jobs should be run one by one.
        """
        conn = self._connection()
        try:
            if not self._in_groups(conn, jobs):
                conn.execute("ROLLBACK")
                self._begin(jobs)
                for job in jobs:
                    job.again()
                    self._one(conn, job, savepoint=True)
            self._housekeep(conn)
            conn.execute("COMMIT")
        except Exception as raised:
            return self._fail_all(jobs, raised)
        for job in jobs:
            job.finish()
        return True

    def _fail_all(self, jobs: Sequence[Job], raised: Exception) -> bool:
        """Undo a transaction that could not be committed; its jobs end, or (False) should be run one by one."""
        error = self._translate(raised)
        if self._conn is not None:
            self._roll_back(self._conn)
        if isinstance(error, Corrupted | Unavailable | OutcomeUnknown | PermissionDenied):
            self._drop_connection()  # a new one may find the file replaced or the disk back
        if len(jobs) > 1 and not isinstance(error, OutcomeUnknown):
            return False
        for job in jobs:
            job.fail(error)
        return True

    def _in_groups(self, conn: apsw.Connection, jobs: Sequence[Job]) -> bool:
        """Run jobs inside the transaction; neighbours that are one statement with different arguments at once.

        False: such a group was refused, and which of it were run is not known.
        """
        for kind, neighbours in groupby(jobs, _kind):
            group = list(neighbours)
            if not kind or len(group) < _FEW:
                for job in group:
                    self._one(conn, job, savepoint=len(jobs) > 1)
                continue
            self._until = min(job.deadline for job in group)
            try:
                conn.executemany(kind, [job.args for job in group if isinstance(job, SqlJob)]).fetchall()
            except Exception as raised:
                if not conn.in_transaction or _ends_all(raised, self._translate(raised)):
                    raise
                return False
            finally:
                self._until = _FOREVER
            for job in group:
                job.result = []
        return True

    def _one(self, conn: apsw.Connection, job: Job, savepoint: bool) -> None:
        """Run one job inside the transaction. Its own refusal stays its own; what ends the transaction is raised."""
        savepoint = savepoint and not job.single
        self._until = job.deadline if self._lease is None else min(job.deadline, self._lease.deadline)
        try:
            if savepoint:
                conn.execute("SAVEPOINT job")
            job.result = job.do(conn)
            if savepoint:
                conn.execute("RELEASE job")
        except Exception as raised:
            self._until = _FOREVER
            error = self._translate(raised)
            if not conn.in_transaction or _ends_all(raised, error) or not (savepoint or job.single):
                raise
            if savepoint:
                conn.execute("ROLLBACK TO job")
                conn.execute("RELEASE job")
            job.fail(error)
        finally:
            self._until = _FOREVER

    def _housekeep(self, conn: apsw.Connection) -> None:
        now = time.monotonic()
        if now >= self._maintenance:
            self._maintenance = now + 1.0  # also if it fails: then not at once again
            self._maintenance = now + self._maintain(conn)

    def _connection(self) -> apsw.Connection:
        if self._conn is None:
            conn = self._connect(self._keep_waiting)
            conn.set_progress_handler(self._over, LONG_STEPS)
            self._conn = conn
        return self._conn

    def _keep_waiting(self, tries: int) -> bool:
        """Be SQLite's busy handler."""
        if not self._wanted(time.monotonic()):
            return False
        self.locked = True
        pause(tries)
        return True

    def _over(self) -> bool:
        return time.monotonic() > self._until

    def _translate(self, raised: Exception) -> AmbidexError:
        return translate(raised, self._path, "writing to", self._conn.system_errno if self._conn is not None else 0)

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
        lease = job.lease
        granted = False
        try:
            self._begin([job])
            granted = job.begin(time.monotonic())
            if granted:
                job.result = lease
                job.finish()
        except Exception as raised:
            job.fail(self._translate(raised))
            self._drop_connection()
        if granted:
            lease.step = partial(self._lease_turn, lease, self._connection())
            lease.start()
            self._lease = lease
        tell([job])
        ended: AmbidexError = Closed("the transaction has ended")
        try:
            if granted:
                ended = self._serve_lease(lease) or ended
        except Exception as raised:
            ended = self._translate(raised)
        finally:
            with lease.turn:
                self._lease = None
                if self._conn is not None:
                    self._roll_back(self._conn)
                lease.end(ended)

    def _serve_lease(self, lease: Lease) -> AmbidexError | None:
        """Run the statements of a transaction as they come, up to its end; return what went wrong with the lease."""
        conn = self._connection()
        while True:
            try:
                job = lease.inbox.get(timeout=max(0.0, lease.deadline - time.monotonic()))
            except Empty:
                return self._lost(lease)
            try:
                with lease.turn:
                    lost = self._lease_turn(lease, conn, job)
                if lost is not None or isinstance(job, EndJob):
                    return lost
            finally:
                tell([job])

    def _lease_turn(self, lease: Lease, conn: apsw.Connection, job: Job) -> LeaseLost | None:
        """Run one statement of a transaction, on the writer's thread or the caller's; tell if its time is over."""
        if not lease.alive():
            lost = self._lost(lease)
            job.fail(lost)
            return lost
        if job.begin(time.monotonic()):
            self._lease_step(conn, lease, job)
        return None

    def _lost(self, lease: Lease) -> LeaseLost:
        return LeaseLost(
            f"a transaction held the writer of {self._path} for more than {lease.seconds:g} s and was rolled back; "
            "do slow work before it, or raise lease_timeout"
        )

    def _lease_step(self, conn: apsw.Connection, lease: Lease, job: Job) -> None:
        if lease.broken is not None and not (isinstance(job, EndJob) and not job.commit):
            job.fail(lease.broken)
            return
        try:
            if isinstance(job, EndJob):
                if conn.in_transaction:
                    job.result = job.do(conn)
            else:
                self._one(conn, job, savepoint=True)
            job.finish()
        except Exception as raised:
            error = self._translate(raised) if lease.alive() else self._lost(lease)
            job.fail(error)
            if not conn.in_transaction or _ends_all(raised, error):
                lease.broken = error


def _kind(job: Job) -> str:
    """Return the statement of a job that returns no rows, or "": with others of its kind it can be run at once."""
    return _without_rows(job.sql) if type(job) is SqlJob else ""


@lru_cache(256)
def _without_rows(sql: str) -> str:
    return sql if sql.startswith("INSERT") and "RETURNING" not in sql else ""


def _never(_now: float) -> bool:
    return False


def _ends_all(raised: Exception, error: AmbidexError) -> bool:
    """Tell whether an error concerns the whole transaction rather than one statement of it."""
    return isinstance(raised, apsw.InterruptError) or isinstance(error, StorageFull | Corrupted | Unavailable)
