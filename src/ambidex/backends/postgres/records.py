"""Records on PostgreSQL: the shared statements, point reads of one tick together, and many rows as arrays.

The leaf pair makes one of these. The invariant is that of ``relational.records``; what is coalesced here reads only,
and never inside a transaction. In one, a record that is refused because it exists leaves the transaction usable, as
on every other backend, where PostgreSQL itself would refuse every further statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from ambidex.backends.postgres.arrays import ARRAYS
from ambidex.backends.postgres.batches import Lookup
from ambidex.backends.postgres.wire import Later, text_array
from ambidex.backends.relational.record_sql import TENANT, RecordDialect, Sql
from ambidex.backends.relational.records import RecordsLeaf, SqlRecords, taken
from ambidex.backends.relational.sql import Row as SqlRow
from ambidex.core.ports import Row, Space
from ambidex.core.query import Condition
from ambidex.core.rows import column
from ambidex.core.spec import RecordSpec
from ambidex.errors import AlreadyExists

__all__ = ["PostgresRecords"]

_MARK = "\x1f"
"""Between the tenant and the id of a queued lookup."""
_AT_ONCE = 2_000
_MOST_DRAWN = 10_000
"""Numbers that are drawn to leave ids behind that the application gave."""


class _Leaf(RecordsLeaf, Protocol):
    def transaction(self) -> AbstractAsyncContextManager[None]: ...

    async def find(self, lookup: Lookup, key: str) -> SqlRow | None: ...


class PostgresRecords(SqlRecords):
    """Implements :class:`ambidex.core.ports.RecordsPort`."""

    def __init__(self, leaf: _Leaf, dialect: RecordDialect) -> None:
        super().__init__(leaf, dialect)
        self._leaf: _Leaf = leaf
        self._find = leaf.find
        self._lookups: dict[int, Lookup] = {}

    async def get(self, space: Space, ids: Sequence[Any]) -> list[Row | None]:
        if len(ids) != 1 or _MARK in space.tenant:
            return await super().get(space, ids)
        sql = await self._sql(space.spec)
        lookup = self._lookups.get(id(sql))
        if lookup is None:
            lookup = self._lookups[id(sql)] = _lookup(sql)
        found = await self._find(lookup, f"{space.tenant}{_MARK}{ids[0]}")
        return [None if found is None else sql.row(found[1:])]

    async def numbers(self, space: Space, count: int) -> Sequence[int]:
        spec = space.spec
        sql = await self._sql(spec)
        name = _sequence(sql)
        top = f'SELECT max("{spec.id}") FROM {sql.table} WHERE {TENANT} = ?'
        draw = f"SELECT nextval({_literal(name)}), ({top}) FROM generate_series(1, ?)"
        free: list[int] = []
        behind = 0
        while len(free) < count:
            rows = await self._leaf.write(draw, (space.tenant, behind + count - len(free)))
            drawn, greatest = sorted(row[0] for row in rows), rows[0][1] or 0
            spec.check_room(max(drawn[-1] - count, greatest), count)
            free += [number for number in drawn if number > greatest]
            behind = max(0, greatest - drawn[-1])
            if behind > _MOST_DRAWN:
                await self._raise(name, greatest)
                behind = 0
        return free[:count]

    async def _raise(self, name: str, greatest: int) -> None:
        """Let a sequence go on behind a number that is far away.

        One at a time, and never when it may have come near meanwhile: what somebody drew must not be drawn again.
        """
        raised = f"SELECT setval({_literal(name)}, ?::bigint) FROM {name} WHERE last_value < ?"
        await self._leaf.script(
            [
                ("SELECT pg_advisory_xact_lock(hashtext(?))", (name,)),
                (raised, (greatest, greatest - _MOST_DRAWN // 2)),
            ]
        )

    async def _missing(self, sql: Sql) -> list[str]:
        missing = await super()._missing(sql)
        if sql.spec.numbered:
            name = _sequence(sql)
            if await self._leaf.rows(f"SELECT to_regclass({_literal(name)}) IS NULL") == [(True,)]:
                missing.append(f'CREATE SEQUENCE IF NOT EXISTS {name} OWNED BY {sql.table}."{sql.spec.id}"')
        return missing

    async def insert(self, space: Space, rows: Sequence[Row]) -> None:
        if not self._leaf.in_transaction():
            await self._insert(space, rows)
        elif len(rows) == 1:
            await self._insert_unless_taken(space, rows[0])
        else:
            async with self._leaf.transaction():
                await self._insert(space, rows)

    async def upsert(self, space: Space, rows: Sequence[Row]) -> list[Row]:
        if not self._leaf.in_transaction() or not _could_be_refused(space.spec, rows[0]):
            return await super().upsert(space, rows)
        async with self._leaf.transaction():
            return await super().upsert(space, rows)

    async def update(
        self, space: Space, id_: Any, changes: Row, version: int | None, where: Sequence[Condition] = ()
    ) -> Row | None:
        if not self._leaf.in_transaction() or not _could_be_refused(space.spec, changes):
            return await super().update(space, id_, changes, version, where)
        async with self._leaf.transaction():
            return await super().update(space, id_, changes, version, where)

    async def _insert_unless_taken(self, space: Space, row: Row) -> None:
        """Insert one row with a statement that PostgreSQL does not refuse, which spares the savepoint."""
        spec, sql = space.spec, await self._sql(space.spec)
        text = f"{sql.insert} ON CONFLICT DO NOTHING RETURNING 1"
        if await self._leaf.write(text, sql.bind_row(space.tenant, row)):
            return
        for field in spec.fields:
            value = row[field.name]
            if value is not None and (field.unique or field.name == spec.id):
                found, bound = sql.where([Condition(field.name, "eq", value)])
                if await self._leaf.rows(f"{sql.count}{found}", (space.tenant, *bound)) != [(0,)]:
                    raise AlreadyExists(f"{spec.name} with {field.name} {value!r} exists")
        raise AlreadyExists(f"{spec.name} with a unique value of {row[spec.id]!r} exists")

    async def _insert(self, space: Space, rows: Sequence[Row]) -> None:
        if len(rows) < 10:
            await super().insert(space, rows)
            return
        sql = await self._sql(space.spec)
        text = _bulk(sql)
        makers = [(name, ARRAYS[field.kind].make) for name, field in sql.fields.items()]

        def arrays(part: Sequence[Row]) -> Sequence[Any]:
            return (space.tenant, *[make(column(part, name)) for name, make in makers])

        parts = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
        try:
            await self._leaf.script([(text, Later(partial(arrays, part))) for part in parts])
        except AlreadyExists as error:
            raise taken(sql, rows, error) from None

    def forget(self) -> None:
        """See :meth:`SqlRecords.forget`."""
        super().forget()
        self._lookups.clear()


def _could_be_refused(spec: RecordSpec, changes: Row) -> bool:
    """Tell whether a write of these fields can meet a unique value that is taken."""
    return any(field.unique and field.name != spec.id and field.name in changes for field in spec.fields)


def _lookup(sql: Sql) -> Lookup:
    spec: RecordSpec = sql.spec
    names = ", ".join(f'kept."{name}"' for name in sql.fields)
    tenant = "split_part(key, E'\\x1f', 1)"
    id_ = f"substr(key, strpos(key, E'\\x1f') + 1)::{_cast(sql, spec.id)}"
    # Scalar subqueries are computed first, so that the one row is looked up in the index whatever the statistics say.
    one = (
        f"WITH given AS MATERIALIZED (SELECT ?::text AS key) SELECT (SELECT key FROM given), {names}"
        f" FROM {sql.table} AS kept WHERE kept.{TENANT} = (SELECT {tenant} FROM given)"
        f' AND kept."{spec.id}" = (SELECT {id_} FROM given)'
    )
    given_tenant, given_id = (text.replace("key", "given.key") for text in (tenant, id_))
    many = (
        f"SELECT given.key, {names} FROM unnest(?::text[]) AS given (key) JOIN {sql.table} AS kept"
        f' ON kept.{TENANT} = {given_tenant} AND kept."{spec.id}" = {given_id}'
    )
    return Lookup(one, many, text_array)


def _sequence(sql: Sql) -> str:
    """Return what numbers records without an id. A sequence, as a transaction holds up nobody who draws from one."""
    return f'{sql.dialect.schema}"{sql.spec.name}_{sql.spec.id}_seq"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _cast(sql: Sql, name: str) -> str:
    return sql.dialect.columns[sql.fields[name].kind].declared


def _bulk(sql: Sql) -> str:
    """Return the statement that inserts rows of one tenant, given as one array a column."""
    arrays, values, places = [], [], []
    for place, (name, field) in enumerate(sql.fields.items()):
        type_, column = ARRAYS[field.kind].type, _cast(sql, name)
        arrays.append(f"?::{type_}[]")
        places.append(f"c{place}")
        values.append(f"c{place}" if type_ == column else f"c{place}::{column}")
    head = sql.insert.partition(" VALUES ")[0]
    given = f"unnest({', '.join(arrays)}) AS given ({', '.join(places)})"
    return f"{head} SELECT ?::text, {', '.join(values)} FROM {given}"
