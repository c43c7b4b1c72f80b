"""The PostgreSQL leaf pair: the same statements, run on the calling thread or for an event loop.

:class:`PostgresBackend` holds both. The invariant: every call ends at its deadline at the latest, because whoever waits
for the server closes the connection then; a read that met a broken connection is repeated once on a new one; a write is
repeated only if nothing of it was sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

from ambidex.backends.postgres.aio import AsyncConnection, AsyncPool
from ambidex.backends.postgres.batches import Answer, Late, Lookup, Lookups, Upsert, Upserts
from ambidex.backends.postgres.blocking import BlockingConnection, Expired, expired
from ambidex.backends.postgres.columns import Tables, records_dialect
from ambidex.backends.postgres.database import Database
from ambidex.backends.postgres.errors import Lost, Refused, from_lost, from_refusal
from ambidex.backends.postgres.kv import PostgresKeyValue
from ambidex.backends.postgres.records import PostgresRecords
from ambidex.backends.postgres.schema import migrate
from ambidex.backends.postgres.search import PostgresSearch
from ambidex.backends.postgres.unit import Connection, Unit
from ambidex.backends.postgres.wire import text_array
from ambidex.backends.relational.log import SqlLog
from ambidex.backends.relational.sql import Args, Dialect, Row, Statement
from ambidex.core.ports import BlobPort
from ambidex.core.runtime import Runtime, check_deadline, current_deadline, remaining, time_limit
from ambidex.errors import AmbidexError, CapabilityMissing, Conflict
from ambidex.runtime.aio import AsyncRuntime
from ambidex.runtime.blocking import BlockingRuntime

__all__ = ["AsyncPostgresLeaf", "BlockingPostgresLeaf", "Leaf"]

_log = logging.getLogger("ambidex")
T = TypeVar("T")
A = TypeVar("A", Lookup, Upsert)
B = TypeVar("B")

NOW = "(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
_STALE = ("0A000", "26000", "42P05")  # what was prepared on the connection no longer fits


def dialect(schema: str) -> Dialect:
    """Return how PostgreSQL says things, with the tables in ``schema`` ("": on the search path)."""
    return Dialect(
        now=NOW,
        version="((random() * 4503599627370495)::bigint + 1)",
        in_list="{column} = ANY (?::text[])",
        listing=text_array,
        whole="ambidex_kv.number IS NOT NULL AND ambidex_kv.number::numeric + excluded.number"
        " BETWEEN -9223372036854775808 AND 9223372036854775807",
        values=("value", "number"),
        schema=f"{schema}." if schema else "",
        locking=" FOR UPDATE",
    )


def _reclaim(prefix: str) -> list[list[Statement]]:
    """Return what deletes a bounded number of rows whose time has passed; rows in use are left for the next time."""
    key = (
        f"DELETE FROM {prefix}ambidex_kv WHERE key = ANY (ARRAY(SELECT key FROM {prefix}ambidex_kv"
        f" WHERE expires <= {NOW} ORDER BY expires LIMIT 500 FOR UPDATE SKIP LOCKED))"
    )
    events = (
        f"DELETE FROM {prefix}ambidex_events WHERE ctid = ANY (ARRAY(SELECT e.ctid FROM {prefix}ambidex_streams s"
        f" JOIN {prefix}ambidex_events e ON e.stream = s.stream AND e.seq <= s.seq"
        f" WHERE s.expires <= {NOW} LIMIT 500 FOR UPDATE OF e SKIP LOCKED))"
    )
    return [[(key, ())], [(events, ())]]


class Leaf(ABC):
    """What both colours do alike; each says how a connection is got, used and given back."""

    def __init__(self, database: Database, runtime: Runtime) -> None:
        self._db = database
        self._runtime = runtime
        words = dialect(database.options.schema)
        self._reclaim = _reclaim(words.schema)
        self.kv = PostgresKeyValue(self, words)
        self.log = SqlLog(self, words)
        tables = Tables(self, database.options.schema, self.in_transaction)
        self.define, self.columns, self.indexes, self.explain = (
            tables.define,
            tables.columns,
            tables.indexes,
            tables.explain,
        )
        self.records = PostgresRecords(self, records_dialect(database.options.schema))
        database.on_close.append(self.records.forget)
        self.search = PostgresSearch(self, words.schema, database.vectors, database.upkeep)

    @property
    def blobs(self) -> BlobPort:
        """Not here."""
        raise CapabilityMissing(
            "the PostgreSQL backend keeps no blobs; place them elsewhere: blobs='s3://bucket/prefix'"
        )

    @abstractmethod
    async def _acquire(self, deadline: float) -> Connection:
        """Return a connection for one request or one unit."""

    @abstractmethod
    async def _on(self, connection: Connection, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        """Run a request on a connection."""

    @abstractmethod
    async def _once(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        """Run a request on any connection; raises Lost, Refused, Expired."""

    @abstractmethod
    def _hold(self, unit: Unit) -> None:
        """Keep the unit's connection from going back before the unit's end."""

    @abstractmethod
    def _release(self, unit: Unit) -> None:
        """Give the unit's connection back."""

    @abstractmethod
    def _spare(self, until: float) -> None:
        """Reclaim what has expired, on a connection that nobody needs right now.

        Args:
            until: the deadline of the call that found it due, which is not to last longer for that.
        """

    # Life.

    async def open(self) -> None:
        """Connect and bring the tables up to date."""
        if not self._db.ready:
            await self._runtime.single_flight("open", self._open)

    async def _open(self) -> None:
        if self._db.ready:
            return

        async def run(statements: Sequence[Statement]) -> list[list[Row]]:
            return await self._answer(statements, current_deadline(self._db.timeout), write=False)

        await migrate(run, self._db.options.schema, self._db.where)
        self._db.ready = True

    async def close(self) -> None:
        """Close every connection of this process, of both colours."""
        self._db.threads.close()
        self._db.loops.close()
        self._db.ready = False
        for forget in self._db.on_close:
            forget()

    def in_transaction(self) -> bool:
        """Tell whether this task or thread is inside a transaction."""
        return self._db.unit.get() is not None

    async def ping(self) -> None:
        """Ask the server for something."""
        await self._answer((("SELECT 1", ()),), current_deadline(self._db.timeout), write=False)

    # Requests.

    async def row(self, sql: str, args: Args = ()) -> Row | None:
        rows = await self._request(((sql, args),), write=False)
        return rows[0][0] if rows[0] else None

    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        return (await self._request(((sql, args),), write=False))[0]

    async def write(self, sql: str, args: Args = ()) -> list[Row]:
        return (await self._request(((sql, args),), write=True))[0]

    async def write_many(self, sql: str, rows: Iterable[Args]) -> list[Row]:
        answers = await self._request([(sql, args) for args in rows], write=True)
        return [row for answer in answers for row in answer]

    async def script(self, statements: Sequence[Statement]) -> list[list[Row]]:
        return await self._request(statements, write=True)

    async def together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Read with several statements in one round trip; returns the rows of each."""
        return await self._request(statements, write=False)

    async def apart(self, call: Callable[[], T]) -> T:
        """Run a function that needs no connection where it may take long."""
        return await self._runtime.offload(call)

    async def find(self, lookup: Lookup, key: str) -> Row | None:
        return await self.row(lookup.one, (key,))

    async def upsert(self, upsert: Upsert, row: Args) -> None:
        await self.write(upsert.one, row)

    async def _request(self, statements: Sequence[Statement], *, write: bool) -> list[list[Row]]:
        unit = self._db.unit.get()
        if unit is not None:
            return await self._in_unit(unit, statements)
        until = current_deadline(self._db.timeout)
        if not self._db.ready:
            with time_limit(remaining(until)):
                await self.open()
        rows = await self._answer(statements, until, write=write)
        if write and self._db.maintenance_due():
            self._spare(until)
        return rows

    async def _answer(self, statements: Sequence[Statement], deadline: float, *, write: bool) -> list[list[Row]]:
        """Run a request; what met a broken connection is run once more, if that cannot do it twice."""
        check_deadline(deadline, "the call")
        for last in (False, True):
            try:
                return await self._once(statements, deadline)
            except Expired:
                raise expired(self._db.where, write=write) from None
            except Lost as lost:
                if last or (write and lost.sent):
                    raise from_lost(lost, self._db.where, write=write) from None
            except Refused as refused:
                again = refused.sqlstate in _STALE or (refused.fatal and not write)
                if last or not again:
                    raise from_refusal(refused, self._db.where, write=write) from None
        raise AssertionError  # the second round returns or raises

    # Transactions.

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Run what this task or thread does as one transaction; inside another one, as a savepoint of it."""
        outer = self._db.unit.get()
        if outer is not None:
            async with self._savepoint(outer):
                yield
            return
        if not self._db.ready:
            await self.open()
        settings = self._db.settings
        deadline = current_deadline(self._db.timeout)
        check_deadline(deadline, "the transaction")
        unit = Unit(
            self,
            await self._acquire(deadline),
            settings.lease_timeout,
            self._db.options.isolation,
            self._runtime.lock(),
        )
        self._hold(unit)
        token = self._db.unit.set(unit)
        try:
            try:
                yield
            finally:
                self._db.unit.reset(token)
                unit.over = True
        except BaseException:
            await self._finish(unit, "ROLLBACK")
            raise
        await self._finish(unit, "COMMIT")

    @asynccontextmanager
    async def _savepoint(self, unit: Unit) -> AsyncIterator[None]:
        unit.check(self)
        unit.depth += 1
        name = f"ambidex_{unit.depth}"
        try:
            await self._in_unit(unit, ((f"SAVEPOINT {name}", ()),))
            try:
                yield
            except BaseException:
                if not unit.connection.broken and not unit.over:
                    await self._undo(unit, name)
                raise
            await self._in_unit(unit, ((f"RELEASE {name}", ()),))
        finally:
            unit.depth -= 1

    async def _undo(self, unit: Unit, name: str) -> None:
        """Go back to a savepoint; what failed behind it has not happened."""
        unit.error = None
        await self._in_unit(unit, ((f"ROLLBACK TO {name}", ()), (f"RELEASE {name}", ())))

    async def _in_unit(self, unit: Unit, statements: Sequence[Statement]) -> list[list[Row]]:
        unit.check(self)
        async with unit.lock:
            unit.check(self)
            if unit.late:
                unit.connection.close()
                raise unit.lease_lost()
            if unit.connection.broken and unit.error is not None:
                raise unit.error
            deadline = current_deadline(self._db.timeout)
            check_deadline(deadline, "the statement")
            opening = unit.opening()
            try:
                rows = await self._on(unit.connection, [*opening, *statements], min(deadline, unit.until))
            except (Lost, Refused, Expired) as failure:
                unit.error = self._unit_error(unit, failure)
                raise unit.error from None
            return rows[len(opening) :]

    def _unit_error(self, unit: Unit, failure: Lost | Refused | Expired) -> AmbidexError:
        """Return the error for a statement of a unit: nothing of it is stored, for the unit was not committed."""
        where = self._db.where
        if unit.late:
            return unit.lease_lost()
        if isinstance(failure, Expired):
            return expired(where, write=False)
        if isinstance(failure, Lost):
            return from_lost(failure, where, write=False)
        return from_refusal(failure, where)

    async def _finish(self, unit: Unit, word: str) -> None:
        """End the unit, and give its connection back whatever happens."""
        try:
            if word == "COMMIT":
                await self._commit(unit)
            else:
                await self._roll_back(unit)
        finally:
            if unit.connection.in_transaction:
                unit.connection.close()
            self._release(unit)

    async def _commit(self, unit: Unit) -> None:
        where = self._db.where
        deadline = current_deadline(self._db.timeout)
        error = unit.error
        if unit.late:
            error = unit.lease_lost()
        elif error is None and unit.connection.broken:
            error = from_lost(Lost("it was closed", sent=False), where, write=False)
        if error is None and remaining(deadline) <= 0:
            error = expired(where, write=False)
        if error is not None:
            await self._roll_back(unit)
            raise error
        if not unit.connection.in_transaction:
            return  # nothing was asked of it
        try:
            await self._on(unit.connection, (("COMMIT", ()),), deadline)
        except Expired:
            raise expired(where, write=True) from None
        except Lost as lost:
            raise from_lost(lost, where, write=True) from None
        except Refused as refused:
            raise from_refusal(refused, where, write=True) from None
        if unit.connection.last_tag != b"COMMIT":
            raise Conflict(f"{where} rolled the transaction back because a statement in it had failed; run it again")

    async def _roll_back(self, unit: Unit) -> None:
        if unit.connection.in_transaction:
            deadline = current_deadline(self._db.timeout)
            try:
                await self._on(unit.connection, (("ROLLBACK", ()),), deadline)
            except (Lost, Refused, Expired):
                unit.connection.close()  # the server undoes what it never committed


class BlockingPostgresLeaf(Leaf):
    """Everything on the calling thread."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, BlockingRuntime())

    async def _acquire(self, deadline: float) -> Connection:
        return self._db.threads.acquire(deadline)

    async def _on(self, connection: Connection, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        assert isinstance(connection, BlockingConnection)  # noqa: S101  # a unit is checked to be of its own colour
        return connection.run(statements, deadline)

    async def _once(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        pool = self._db.threads
        connection = pool.acquire(deadline)
        try:
            return connection.run(statements, deadline)
        except Lost:
            pool.lost(connection)
            raise
        except Refused as refused:
            if refused.fatal or refused.sqlstate in _STALE:
                pool.lost(connection)
            raise
        finally:
            pool.release(connection)

    def _hold(self, unit: Unit) -> None:
        """Nothing to do: a connection that was acquired stays with its thread."""

    def _release(self, unit: Unit) -> None:
        assert isinstance(unit.connection, BlockingConnection)  # noqa: S101  # as above
        self._db.threads.release(unit.connection)

    def _spare(self, until: float) -> None:
        for statements in self._reclaim:
            try:
                connection = self._db.threads.acquire(until)
                try:
                    connection.run(statements, until)
                finally:
                    self._db.threads.release(connection)
            except (AmbidexError, Lost, Refused, Expired) as error:
                _log.debug("reclaiming expired entries at %s failed: %s", self._db.where, error)


class AsyncPostgresLeaf(Leaf):
    """For event loops; serves any number of them."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, AsyncRuntime())

    async def find(self, lookup: Lookup, key: str) -> Row | None:
        db = self._db
        if db.unit.get() is not None:
            return await self.row(lookup.one, (key,))
        if not db.ready:
            await self.open()
        deadline = current_deadline(db.timeout)
        check_deadline(deadline, "the call")
        return await self._batch(lookup, Lookups, write=False).find(key, deadline)

    async def upsert(self, upsert: Upsert, row: Args) -> None:
        db = self._db
        if db.unit.get() is not None:
            await self.write(upsert.one, row)
            return
        if not db.ready:
            await self.open()
        deadline = current_deadline(db.timeout)
        check_deadline(deadline, "the call")
        await self._batch(upsert, Upserts, write=True).put(row, deadline)
        if db.maintenance_due():
            self._spare(deadline)

    def _batch(self, of: A, make: Callable[[AsyncPool, A, Answer, Late], B], *, write: bool) -> B:
        """Return the batch of the running loop in which such requests travel."""
        pool = self._db.loops.get()
        batch = pool.batches.get(of)
        if batch is None:
            where = self._db.where
            batch = pool.batches[of] = make(
                pool, of, lambda s, d: self._answer(s, d, write=write), lambda: expired(where, write=write)
            )
        return cast("B", batch)

    async def _acquire(self, deadline: float) -> Connection:
        return await self._db.loops.get().acquire(deadline)

    async def _on(self, connection: Connection, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        assert isinstance(connection, AsyncConnection)  # noqa: S101  # a unit is checked to be of its own colour
        if connection.broken:
            raise Lost("it was closed", sent=False)
        return await connection.run(statements, deadline)

    async def _once(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        pool = self._db.loops.get()
        connection = pool.take() or await pool.acquire(deadline)
        try:
            return await connection.run(statements, deadline)
        except Refused as refused:
            if refused.sqlstate in _STALE:
                pool.lost(connection)
            raise

    def _hold(self, unit: Unit) -> None:
        assert isinstance(unit.connection, AsyncConnection)  # noqa: S101  # as above
        unit.connection.held = True
        loop = asyncio.get_running_loop()
        unit.timer = loop.call_later(unit.seconds, unit.connection.close_if_idle)

    def _release(self, unit: Unit) -> None:
        assert isinstance(unit.connection, AsyncConnection)  # noqa: S101  # as above
        if unit.timer is not None:
            unit.timer.cancel()
        unit.connection.held = False
        self._db.loops.get().release(unit.connection)

    def _spare(self, until: float) -> None:
        self._db.loops.get().spawn(self._sweep())

    async def _sweep(self) -> None:
        for statements in self._reclaim:
            try:
                await self._once(statements, time.monotonic() + self._db.timeout)
            except (AmbidexError, Lost, Refused, Expired) as error:
                _log.debug("reclaiming expired entries at %s failed: %s", self._db.where, error)
