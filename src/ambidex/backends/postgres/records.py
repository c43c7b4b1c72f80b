"""Records on PostgreSQL: the shared statements, point reads of one tick together, and many rows as arrays.

The leaf pair makes one of these. The invariant is that of ``relational.records``; what is coalesced here reads only,
and never inside a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ambidex.backends.postgres.arrays import ARRAYS
from ambidex.backends.postgres.batches import Lookup
from ambidex.backends.postgres.wire import text_array
from ambidex.backends.relational.record_sql import TENANT, RecordDialect, Sql
from ambidex.backends.relational.records import RecordsLeaf, SqlRecords
from ambidex.backends.relational.sql import Row as SqlRow
from ambidex.backends.relational.sql import Statement
from ambidex.core.ports import Row, Space
from ambidex.core.spec import RecordSpec

__all__ = ["PostgresRecords"]

_MARK = "\x1f"
"""Between the tenant and the id of a queued lookup."""
_AT_ONCE = 5_000


class _Leaf(RecordsLeaf, Protocol):
    async def find(self, lookup: Lookup, key: str) -> SqlRow | None: ...


class PostgresRecords(SqlRecords):
    """Implements :class:`ambidex.core.ports.RecordsPort`."""

    def __init__(self, leaf: _Leaf, dialect: RecordDialect) -> None:
        super().__init__(leaf, dialect)
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

    async def insert(self, space: Space, rows: Sequence[Row]) -> None:
        if len(rows) < 10:
            await super().insert(space, rows)
            return
        sql = await self._sql(space.spec)
        text = _bulk(sql)
        makers = [(name, ARRAYS[field.kind].make) for name, field in sql.fields.items()]
        statements: list[Statement] = []
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            arrays = [make([row[name] for row in part]) for name, make in makers]
            statements.append((text, (space.tenant, *arrays)))
        await self._leaf.script(statements)

    def forget(self) -> None:
        """See :meth:`SqlRecords.forget`."""
        super().forget()
        self._lookups.clear()


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
