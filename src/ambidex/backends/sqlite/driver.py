"""The SQLite leaf pair.

The same statements, run on the calling thread or for an event loop; :class:`SqliteBackend` holds both.

Blocking reads use the thread's own connection. Asynchronous reads run *inline* on the loop's thread, because a point
read takes microseconds and a hand-over takes tens; one that turns out longer than a few dozen microseconds is
interrupted and run again on a worker thread. All writes go to the one writer. The invariant: an asynchronous call
never holds the loop for longer than the bounded inline try, and a cancelled one leaves either its whole effect or
none.
"""

from __future__ import annotations

import asyncio
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import apsw
import msgspec

from ambidex.backends.relational.kv import SqlKeyValue
from ambidex.backends.relational.log import SqlLog
from ambidex.backends.relational.sql import Args, Dialect, Row, Statement
from ambidex.backends.sqlite.connection import LongRead
from ambidex.backends.sqlite.database import NOW, Database
from ambidex.backends.sqlite.errors import translate
from ambidex.backends.sqlite.jobs import Job, Lease, LeaseJob, Work, set_done
from ambidex.backends.sqlite.search import SqliteSearch
from ambidex.core.runtime import check_deadline, current_deadline, remaining
from ambidex.errors import DeadlineExceeded

__all__ = ["DIALECT", "AsyncSqliteLeaf", "BlockingSqliteLeaf"]

T = TypeVar("T")


def _listing(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()


DIALECT = Dialect(
    now=NOW,
    version="(random() & 0xFFFFFFFFFFFFF) + 1",
    in_list="{column} IN (SELECT value FROM json_each(?))",
    listing=_listing,
)


class _Leaf(ABC):
    """What both colours do alike; each says how reads are run and how a job is waited for."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._lease = database.lease
        self.kv = SqlKeyValue(self, DIALECT)
        self.log = SqlLog(self, DIALECT)
        self.search = SqliteSearch(self)

    @abstractmethod
    async def row(self, sql: str, args: Args = ()) -> Row | None:
        """See :class:`ambidex.backends.relational.sql.SqlLeaf`."""

    @abstractmethod
    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        """See :class:`ambidex.backends.relational.sql.SqlLeaf`."""

    @abstractmethod
    async def heavy(self, sql: str, args: Args = ()) -> list[Row]:
        """Read rows with a statement that is known to take long (full text, say)."""

    @abstractmethod
    async def _wait(self, job: Job, submit: Callable[[Job], object]) -> Any:
        """Submit the job and wait for its outcome."""

    @abstractmethod
    async def _open(self) -> None:
        """See :meth:`Database.ensure_open`."""

    async def open(self) -> None:
        """Create the file and its tables."""
        await self._open()

    async def ping(self) -> None:
        """Read the schema's version from the file."""
        await self.rows("SELECT max(version) FROM ambidex_schema")

    async def write(self, sql: str, args: Args = ()) -> list[Row]:
        return await self._write(lambda conn: conn.execute(sql, args).fetchall(), single=True)  # type: ignore[no-any-return]

    async def write_many(self, sql: str, rows: Sequence[Args]) -> None:
        await self._write(lambda conn: conn.executemany(sql, rows).fetchall(), single=False)

    async def script(self, statements: Sequence[Statement]) -> list[list[Row]]:
        def work(conn: apsw.Connection) -> list[list[Row]]:
            return [conn.execute(sql, args).fetchall() for sql, args in statements]

        return await self._write(work, single=False)  # type: ignore[no-any-return]

    async def _write(self, work: Work, single: bool) -> Any:
        if not self._db.ready:
            await self._open()
        job = Job(work, single, current_deadline(self._db.timeout))
        lease = self._lease.get()
        return await self._wait(job, self._submit_job if lease is None else lease.submit)

    @abstractmethod
    def _submit_job(self, job: Job) -> None:
        """Give the job to the writer."""

    async def _in_lease(self, lease: Lease, sql: str, args: Args) -> list[Row]:
        """Read on the writer's connection, so that a transaction sees its own writes."""
        job = Job(
            lambda conn: conn.execute(sql, args).fetchall(), single=True, deadline=current_deadline(self._db.timeout)
        )
        return await self._wait(job, lease.submit)  # type: ignore[no-any-return]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Run what this task or thread does as one transaction on the writer; inside another one.

        As a savepoint of it.
        """
        if self._lease.get() is not None:
            async with self._savepoint():
                yield
            return
        if not self._db.ready:
            await self._open()
        lease = Lease(self._db.settings.lease_timeout)
        try:
            await self._wait(LeaseJob(lease, current_deadline(self._db.timeout)), self._db.writer.enqueue)
        except BaseException:
            self._end(lease, "ROLLBACK")  # it may be granted after we stopped waiting
            raise
        token = self._lease.set(lease)
        try:
            yield
        except BaseException:
            self._lease.reset(token)
            if not lease.over:
                await self._wait(*self._ending(lease, "ROLLBACK"))
            raise
        self._lease.reset(token)
        await self._wait(*self._ending(lease, "COMMIT"))

    def _ending(self, lease: Lease, statement: str) -> tuple[Job, Callable[[Job], object]]:
        deadline = (
            time.monotonic() + self._db.timeout
        )  # not the caller's: a unit whose time is over must still be undone
        job = Job(lambda conn: conn.execute(statement).fetchall(), single=True, deadline=deadline)
        return job, functools.partial(lease.submit, last=True)

    def _end(self, lease: Lease, statement: str) -> None:
        job, submit = self._ending(lease, statement)
        if not lease.over:
            submit(job)

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        await self.write("SAVEPOINT inner_unit")
        try:
            yield
        except BaseException:
            lease = self._lease.get()
            if lease is not None and not lease.over:
                # not one script: that would stand in a savepoint of its own, which the first statement ends
                await self.write("ROLLBACK TO inner_unit")
                await self.write("RELEASE inner_unit")
            raise
        await self.write("RELEASE inner_unit")


class BlockingSqliteLeaf(_Leaf):
    """Everything on the calling thread."""

    async def _open(self) -> None:
        self._db.ensure_open()

    async def close(self) -> None:
        """Close every connection of this process."""
        self._db.close()

    async def row(self, sql: str, args: Args = ()) -> Row | None:
        lease = self._lease.get()
        if lease is not None:
            return next(iter(await self._in_lease(lease, sql, args)), None)
        db = self._db
        if not db.ready:
            db.ensure_open()
        try:
            reader = db.readers.get()
            reader.until(current_deadline(db.timeout))
            return reader.execute(sql, args).fetchone()
        except apsw.Error as error:
            raise translate(error, db.path, "reading") from None

    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        lease = self._lease.get()
        if lease is not None:
            return await self._in_lease(lease, sql, args)
        if not self._db.ready:
            self._db.ensure_open()
        return self._db.read(sql, args, LongRead(current_deadline(self._db.timeout)))

    heavy = rows

    def _submit_job(self, job: Job) -> None:
        self._db.writer.run(job)

    async def _wait(self, job: Job, submit: Callable[[Job], object]) -> Any:
        job.wait_in_thread()
        submit(job)
        try:
            job.wait(remaining(job.deadline))
        except BaseException:  # Ctrl-C while waiting: nobody wants the result any more
            job.cancelled = True
            raise
        return _outcome(job, self._db)


class AsyncSqliteLeaf(_Leaf):
    """For event loops; serves any number of them."""

    async def _open(self) -> None:
        await self._offload(self._db.ensure_open)

    async def close(self) -> None:
        """Close every connection of this process."""
        await asyncio.get_running_loop().run_in_executor(None, self._db.close)

    async def row(self, sql: str, args: Args = ()) -> Row | None:
        lease = self._lease.get()
        if lease is not None:
            return next(iter(await self._in_lease(lease, sql, args)), None)
        db = self._db
        if not db.ready:
            await self._open()
        try:
            reader = db.readers.get()
            reader.bound()
            return reader.execute(sql, args).fetchone()
        except (apsw.InterruptError, apsw.BusyError):
            return next(iter(await self.heavy(sql, args)), None)
        except apsw.Error as error:
            raise translate(error, db.path, "reading") from None

    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        lease = self._lease.get()
        if lease is not None:
            return await self._in_lease(lease, sql, args)
        db = self._db
        if not db.ready:
            await self._open()
        try:
            reader = db.readers.get()
            reader.bound()
            return reader.execute(sql, args).fetchall()
        except (apsw.InterruptError, apsw.BusyError):
            return await self.heavy(sql, args)
        except apsw.Error as error:
            raise translate(error, db.path, "reading") from None

    async def heavy(self, sql: str, args: Args = ()) -> list[Row]:
        lease = self._lease.get()
        if lease is not None:
            return await self._in_lease(lease, sql, args)
        if not self._db.ready:
            await self._open()
        read = LongRead(current_deadline(self._db.timeout))
        try:
            return await self._offload(lambda: self._db.read(sql, args, read))
        except BaseException:
            read.stopped = True
            raise

    async def _offload(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._db.executor(), call)

    def _submit_job(self, job: Job) -> None:
        self._db.writer.enqueue(job)

    async def _wait(self, job: Job, submit: Callable[[Job], object]) -> Any:
        check_deadline(job.deadline, "the write")
        loop = asyncio.get_running_loop()
        future = job.wait_in_loop(loop)
        submit(job)
        timer = loop.call_later(remaining(job.deadline), set_done, (future,))
        try:
            await future
        except BaseException:
            job.cancelled = True
            raise
        finally:
            timer.cancel()
        return _outcome(job, self._db)


def _outcome(job: Job, db: Database) -> Any:
    """Return or raise what came of a job, also of one whose waiter's time ran out first."""
    if job.told:
        return job.outcome()
    if db.writer.withdraw(job):
        raise DeadlineExceeded(f"the deadline passed while a write waited for the writer of {db.path}", applied="no")
    job.cancelled = True
    raise DeadlineExceeded(f"the deadline passed while a write to {db.path} was under way")
