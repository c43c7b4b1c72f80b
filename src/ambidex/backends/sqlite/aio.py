"""SQLite's leaf for event loops; :class:`SqliteBackend` makes one when asynchronous code first uses it.

Reads run *inline* on the loop's thread, because a point read takes microseconds and a hand-over takes tens; one that
turns out longer than a few dozen microseconds, or meets a large value, is interrupted and run again on a worker
thread. The invariant: a call never holds the loop for longer than the bounded inline try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from ambidex.backends.relational.sql import Args, Row
from ambidex.backends.sqlite.alarm import Alarms
from ambidex.backends.sqlite.database import Database
from ambidex.backends.sqlite.driver import SqliteLeaf
from ambidex.backends.sqlite.errors import translate
from ambidex.backends.sqlite.jobs import Job, Lease
from ambidex.core.runtime import check_deadline, current_deadline

if TYPE_CHECKING:
    from ambidex.backends.files.blobs import FileBlobs

__all__ = ["AsyncSqliteLeaf"]

T = TypeVar("T")

_TOO_MUCH_INLINE = (apsw.InterruptError, apsw.BusyError, apsw.TooBigError)


class AsyncSqliteLeaf(SqliteLeaf):
    """For event loops; serves any number of them."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._alarms = Alarms()

    def _make_blobs(self, root: Callable[[], str], durable: bool, timeout: float) -> FileBlobs:
        from ambidex.backends.files.blobs import AsyncFileBlobs

        return AsyncFileBlobs(root, durable, timeout)

    async def _open(self) -> None:
        until = current_deadline(self._db.timeout)
        await self._in_worker(lambda: self._db.ensure_open(until))

    def _into(self, lease: Lease) -> Callable[[Job], object]:
        return lease.submit

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._db.close)

    async def row(self, sql: str, args: Args = ()) -> Row | None:
        lease = self._lease.get()
        if lease is not None:
            return next(iter(await self._in_lease(lease, sql, args)), None)
        db = self._db
        if not db.ready:
            await self._open()
        try:
            return db.inline.get().row(sql, args)
        except _TOO_MUCH_INLINE:
            pass
        except Exception as error:
            raise translate(error, db.path, "reading") from None
        return next(iter(await self.heavy(sql, args)), None)

    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        lease = self._lease.get()
        if lease is not None:
            return await self._in_lease(lease, sql, args)
        db = self._db
        if not db.ready:
            await self._open()
        try:
            return db.inline.get().rows(sql, args)
        except _TOO_MUCH_INLINE:
            pass
        except Exception as error:
            raise translate(error, db.path, "reading") from None
        return await self.heavy(sql, args)

    async def heavy(self, sql: str, args: Args = ()) -> list[Row]:
        return await self.together(lambda read: read(sql, args))

    async def together(self, call: Callable[[Callable[[str, Args], list[Row]]], T]) -> T:
        lease = self._lease.get()
        if lease is not None:
            return await self._together_in_lease(lease, call)
        db = self._db
        if not db.ready:
            await self._open()
        read = db.long_read(current_deadline(db.timeout))
        try:
            return await self._in_worker(lambda: call(lambda sql, args: db.read_in_worker(sql, args, read)))
        finally:
            read.stopped = True

    async def apart(self, call: Callable[[], T]) -> T:
        return await self._in_worker(call)

    async def _in_worker(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._db.submit(call))

    async def _run(self, job: Job, submit: Callable[[Job], object] | None = None, keep: bool = False) -> Any:
        db = self._db
        if not db.ready:
            await self._open()
        check_deadline(job.deadline, "the write")
        if submit is None:
            lease = self._lease.get()
            submit = db.writer.enqueue if lease is None else lease.submit
        loop = asyncio.get_running_loop()
        future = job.wait_in_loop(loop)
        alarm = self._alarms.of(loop)
        submit(job)
        alarm.add(future, job.deadline)
        try:
            await future
        except BaseException:
            if not keep:
                job.withdraw()
            raise
        finally:
            alarm.remove(future)
        if not job.told:
            raise self._late(job)
        return job.outcome()
