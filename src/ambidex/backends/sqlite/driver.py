"""What both colours of SQLite's leaf do alike, and the blocking one; :class:`SqliteBackend` holds both.

The same statements are run on the calling thread or, by ``aio.py``, for an event loop. Blocking reads use the thread's
own connection. All writes go to the one writer. The invariant: a write that is given up, in either colour, leaves
either its whole effect or none.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import apsw
import msgspec

from ambidex.backends.relational.kv import SqlKeyValue
from ambidex.backends.relational.log import SqlLog
from ambidex.backends.relational.records import Column
from ambidex.backends.relational.sql import Args, Dialect, Row, Statement
from ambidex.backends.sqlite.columns import RECORDS
from ambidex.backends.sqlite.connection import LongRead
from ambidex.backends.sqlite.database import Database
from ambidex.backends.sqlite.errors import translate
from ambidex.backends.sqlite.jobs import EndJob, Job, Lease, LeaseJob, SqlJob, Work
from ambidex.backends.sqlite.records import SqliteRecords
from ambidex.backends.sqlite.schema import NOW
from ambidex.core.lazy import lazy
from ambidex.core.runtime import check_deadline, current_deadline, remaining
from ambidex.errors import AmbidexError, Busy, Closed, DeadlineExceeded, LeaseLost, UsageError

if TYPE_CHECKING:
    from ambidex.backends.files.blobs import FileBlobs
    from ambidex.backends.sqlite.search import SqliteSearch

__all__ = ["DIALECT", "BlockingSqliteLeaf", "SqliteLeaf"]

T = TypeVar("T")


def _listing(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()


DIALECT = Dialect(
    now=NOW,
    version="(random() & 0xFFFFFFFFFFFFF) + 1",
    in_list="{column} IN (SELECT value FROM json_each(?))",
    listing=_listing,
    whole="typeof(ambidex_kv.value) = 'integer' AND typeof(ambidex_kv.value + excluded.value) = 'integer'",
)


class SqliteLeaf(ABC):
    """What both colours do alike; each says how reads are run and how a job is waited for."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._lease = database.lease
        self.kv = SqlKeyValue(self, DIALECT)
        self.log = SqlLog(self, DIALECT)
        self.records = SqliteRecords(self, RECORDS)
        database.on_close.append(self.records.forget)

    @lazy
    def search(self) -> SqliteSearch:
        """See :class:`ambidex.core.ports.Leaf`."""
        from ambidex.backends.sqlite.search import SqliteSearch

        return SqliteSearch(self, lambda: self._db.spaces)

    @lazy
    def blobs(self) -> FileBlobs:
        """See :class:`ambidex.core.ports.Leaf`."""
        return self._make_blobs(self._db.blob_folder, self._db.settings.durability == "durable", self._db.timeout)

    @abstractmethod
    def _make_blobs(self, root: Callable[[], str], durable: bool, timeout: float) -> FileBlobs:
        """See :class:`ambidex.backends.files.blobs.FileBlobs`."""

    @abstractmethod
    async def row(self, sql: str, args: Args = ()) -> Row | None:
        """See :class:`ambidex.backends.relational.sql.SqlLeaf`."""

    @abstractmethod
    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        """See :class:`ambidex.backends.relational.sql.SqlLeaf`."""

    @abstractmethod
    async def heavy(self, sql: str, args: Args = ()) -> list[Row]:
        """Read rows with a statement that is known to take long."""

    @abstractmethod
    async def together(self, call: Callable[[Callable[[str, Args], list[Row]]], T]) -> T:
        """Run a function of several reads, and of work between them, where it may take long.

        Args:
            call: receives the function that reads.
        """

    @abstractmethod
    async def apart(self, call: Callable[[], T]) -> T:
        """Run a function that needs no connection where it may take long."""

    async def change(self, work: Work) -> Any:
        """Run a function of the writer's connection as one atomic step; it may be run again after a rollback."""
        return await self._run(Job(work, False, current_deadline(self._db.timeout)))

    @abstractmethod
    async def close(self) -> None:
        """Close every connection of this process."""

    @abstractmethod
    async def _open(self) -> None:
        """See :meth:`Database.ensure_open`."""

    @abstractmethod
    async def _run(self, job: Job, submit: Callable[[Job], object] | None = None, keep: bool = False) -> Any:
        """Submit a job, wait until it was told or its deadline has passed, and return its result or raise its error.

        Where waiting is interrupted, the job is withdrawn if nobody has begun it, unless it is to be kept.

        Args:
            job: what to do.
            submit: to whom; None: the lease of this task or thread, or else the writer.
            keep: whether it must happen although nobody may wait for it any more.
        """

    @abstractmethod
    def _into(self, lease: Lease) -> Callable[[Job], object]:
        """Return what gives a job to a transaction."""

    async def open(self) -> None:
        """Create the file and its tables."""
        await self._open()

    async def ping(self) -> None:
        """Read the schema's version from the file."""
        await self.rows("SELECT max(version) FROM ambidex_schema")

    def write(self, sql: str, args: Args = ()) -> Coroutine[Any, Any, list[Row]]:
        # no coroutine of its own: each that a task waits in costs a tenth of what the event loop does for a write
        return self._run(SqlJob(sql, args, current_deadline(self._db.timeout)))

    async def write_many(self, sql: str, rows: Iterable[Args]) -> list[Row]:
        return await self.change(lambda conn: conn.executemany(sql, rows).fetchall())  # type: ignore[no-any-return]

    async def script(self, statements: Sequence[Statement]) -> list[list[Row]]:
        return await self.change(_all_of(statements))  # type: ignore[no-any-return]

    async def define(self, table: str, work: Callable[[], Awaitable[None]]) -> bool:
        async with self.transaction():
            await work()
        return not self.in_transaction()

    def in_transaction(self) -> bool:
        return self._lease.get() is not None

    async def columns(self, table: str) -> dict[str, Column]:
        sql = 'SELECT name, type, NOT "notnull", pk > 1, dflt_value IS NOT NULL FROM pragma_table_info(?)'
        return {name: Column(type_, *map(bool, facts)) for name, type_, *facts in await self.rows(sql, (table,))}

    async def indexes(self, table: str) -> list[str]:
        return [name for (name,) in await self.rows("SELECT name FROM pragma_index_list(?)", (table,))]

    async def explain(self, sql: str, args: Args) -> str:
        return "; ".join(row[-1] for row in await self.rows(f"EXPLAIN QUERY PLAN {sql}", args))

    async def _in_lease(self, lease: Lease, sql: str, args: Args) -> list[Row]:
        """Read on the writer's connection, so that a transaction sees its own writes."""
        return await self._run(SqlJob(sql, args, current_deadline(self._db.timeout)), self._into(lease))  # type: ignore[no-any-return]

    async def _together_in_lease(self, lease: Lease, call: Callable[[Callable[[str, Args], list[Row]]], T]) -> T:
        def work(conn: apsw.Connection) -> T:
            return call(lambda sql, args: conn.execute(sql, args).fetchall())

        job = Job(work, single=True, deadline=current_deadline(self._db.timeout))
        return await self._run(job, self._into(lease))  # type: ignore[no-any-return]

    def _late(self, job: Job) -> AmbidexError:
        """Withdraw a job that was not told before its deadline, if that can still be, and return the error to raise."""
        path, locked = self._db.path, self._db.writer.locked
        if not job.withdraw():
            return DeadlineExceeded(f"the deadline passed while a write to {path} was under way")
        if locked:
            return Busy(f"another process held the write lock of {path} until the deadline", retry_after=0.05)
        return DeadlineExceeded(f"the deadline passed while a write waited for the writer of {path}", applied="no")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Run what this task or thread does as one transaction on the writer; inside another one, as its savepoint."""
        outer = self._lease.get()
        if outer is not None:
            async with self._savepoint(outer):
                yield
            return
        lease = Lease(self._db.settings.lease_timeout)
        try:
            await self._run(LeaseJob(lease, current_deadline(self._db.timeout)))
        except BaseException:
            _abort(lease)  # it may have been granted after we stopped waiting
            raise
        try:
            try:
                self._lease.set(lease)
                yield
            finally:
                self._lease.set(None)  # a token could be lost to Ctrl-C
        except BaseException:
            await self._undo(EndJob(False, time.monotonic() + self._db.timeout), lease)
            raise
        # Not the caller's deadline: a unit that has come this far should not fail half a second before its end.
        try:
            await self._run(EndJob(True, time.monotonic() + self._db.timeout), self._into(lease))
        except BaseException:
            _abort(lease)  # Ctrl-C may have come before the end was handed over
            raise

    @asynccontextmanager
    async def _savepoint(self, lease: Lease) -> AsyncIterator[None]:
        await self.write("SAVEPOINT inner_unit")
        mine = object()
        lease.units.append(mine)
        try:
            yield
            self._leave(lease, mine)
        except BaseException:
            if mine in lease.units:
                self._leave(lease, mine)
                undo = _all_of([("ROLLBACK TO inner_unit", ()), ("RELEASE inner_unit", ())])
                await self._undo(Job(undo, True, time.monotonic() + self._db.timeout), lease)
            raise
        await self.write("RELEASE inner_unit")

    def _leave(self, lease: Lease, mine: object) -> None:
        """Check that the savepoint that ends is the innermost one."""
        innermost = lease.units[-1] is mine
        lease.units.remove(mine)
        if not innermost:
            lease.broken = UsageError(
                "two tasks had a transaction inside the same transaction open at once, and undoing one would undo the "
                "other; the whole was rolled back. Run them one after the other"
            )
            raise lease.broken

    async def _undo(self, job: Job, lease: Lease) -> None:
        """Undo a unit, which must happen although its caller is being cancelled; its end may have come before."""
        try:
            await self._run(job, self._into(lease), keep=True)
        except (Closed, LeaseLost):
            pass


def _abort(lease: Lease) -> None:
    """Have a lease that nobody uses rolled back if it is ever granted."""
    try:
        lease.submit(EndJob(False, float("inf")))
    except (Closed, LeaseLost):
        pass


def _all_of(statements: Sequence[Statement]) -> Work:
    def work(conn: apsw.Connection) -> list[list[Row]]:
        return [conn.execute(sql, args).fetchall() for sql, args in statements]

    return work


class BlockingSqliteLeaf(SqliteLeaf):
    """Everything on the calling thread."""

    def _make_blobs(self, root: Callable[[], str], durable: bool, timeout: float) -> FileBlobs:
        from ambidex.backends.files.blobs import BlockingFileBlobs

        return BlockingFileBlobs(root, durable, timeout)

    async def _open(self) -> None:
        self._db.ensure_open(current_deadline(self._db.timeout))

    async def close(self) -> None:
        self._db.close()

    def _into(self, lease: Lease) -> Callable[[Job], object]:
        return lease.run

    async def row(self, sql: str, args: Args = ()) -> Row | None:
        lease = self._lease.get()
        if lease is not None:
            return next(iter(await self._in_lease(lease, sql, args)), None)
        db = self._db
        if not db.ready:
            db.ensure_open(current_deadline(db.timeout))
        try:
            return db.readers.get().row(sql, args)
        except Exception as error:
            raise translate(error, db.path, "reading") from None

    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        lease = self._lease.get()
        if lease is not None:
            return await self._in_lease(lease, sql, args)
        until = current_deadline(self._db.timeout)
        if not self._db.ready:
            self._db.ensure_open(until)
        return self._db.read(sql, args, LongRead(until))

    heavy = rows

    async def together(self, call: Callable[[Callable[[str, Args], list[Row]]], T]) -> T:
        lease = self._lease.get()
        if lease is not None:
            return await self._together_in_lease(lease, call)
        until = current_deadline(self._db.timeout)
        if not self._db.ready:
            self._db.ensure_open(until)
        read = LongRead(until)
        return call(lambda sql, args: self._db.read(sql, args, read))

    async def apart(self, call: Callable[[], T]) -> T:
        return call()

    async def _run(self, job: Job, submit: Callable[[Job], object] | None = None, keep: bool = False) -> Any:
        db = self._db
        if not db.ready:
            db.ensure_open(job.deadline)
        check_deadline(job.deadline, "the write")
        if submit is None:
            lease = self._lease.get()
            submit = db.writer.run if lease is None else lease.run
        try:
            submit(job)
            if not job.told:
                job.wait(remaining(job.deadline))
        except BaseException:  # Ctrl-C, most likely
            if not keep:
                job.withdraw()
            raise
        if not job.told:
            raise self._late(job)
        return job.outcome()
