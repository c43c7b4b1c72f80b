"""Records as SQL tables with native columns; every SQL leaf makes one of these.

A kind's table and indexes are made when the kind is first met, and columns for fields that the model has gained are
added; anything else is for a migration tool. The invariant: whether a record may be written is decided by the
statement that writes it, never by a read before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ambidex.backends.relational.record_sql import TENANT, RecordDialect, Sql, pad
from ambidex.backends.relational.sql import SqlLeaf
from ambidex.core.models import RecordSpec
from ambidex.core.ports import RecordQuery, Row, Space
from ambidex.core.query import Condition
from ambidex.errors import ConfigurationError, VersionConflict

__all__ = ["RecordsLeaf", "SqlRecords"]

_AT_ONCE = 500


class RecordsLeaf(SqlLeaf, Protocol):
    """What a leaf must offer beyond statements, to keep records."""

    async def define(self, table: str, work: Any) -> None:
        """Run ``await work()`` as one transaction that no other definition of a table overlaps, in any process."""
        ...

    async def columns(self, table: str) -> dict[str, str]:
        """Return the columns of a table by name, with their types as in the dialect; empty where there is no table."""
        ...

    async def explain(self, sql: str, args: Sequence[Any]) -> str:
        """Say in one line how the database would run a query."""
        ...


class SqlRecords:
    """Implements :class:`ambidex.core.ports.RecordsPort`."""

    def __init__(self, leaf: RecordsLeaf, dialect: RecordDialect) -> None:
        self._leaf, self._dialect = leaf, dialect
        self._known: dict[int, Sql] = {}

    async def get(self, space: Space, ids: Sequence[Any]) -> list[Row | None]:
        sql = await self._sql(space.spec)
        bound = [sql.bind(space.spec.id, id_) for id_ in ids]
        if len(bound) == 1:
            values = await self._leaf.row(sql.get, (space.tenant, bound[0]))
            return [None if values is None else sql.row(values)]
        found: dict[Any, Row] = {}
        for start in range(0, len(bound), _AT_ONCE):
            part = pad(bound[start : start + _AT_ONCE])
            text = f'{sql.select} AND "{space.spec.id}" IN ({", ".join("?" * len(part))})'
            for values in await self._leaf.rows(text, (space.tenant, *part)):
                row = sql.row(values)
                found[row[space.spec.id]] = row
        return [found.get(id_) for id_ in ids]

    async def insert(self, space: Space, rows: Sequence[Row]) -> None:
        sql = await self._sql(space.spec)
        if len(rows) == 1:
            await self._leaf.write(sql.insert, sql.bind_row(space.tenant, rows[0]))
        else:
            await self._leaf.write_many(sql.insert, [sql.bind_row(space.tenant, row) for row in rows])

    async def upsert(self, space: Space, rows: Sequence[Row]) -> list[Row]:
        sql = await self._sql(space.spec)
        if len(rows) == 1:
            return [sql.row((await self._leaf.write(sql.upsert, sql.bind_row(space.tenant, rows[0])))[0])]
        results = await self._leaf.script([(sql.upsert, sql.bind_row(space.tenant, row)) for row in rows])
        return [sql.row(result[0]) for result in results]

    async def update(self, space: Space, id_: Any, changes: Row, version: int | None) -> Row | None:
        spec = space.spec
        sql = await self._sql(spec)
        key = (space.tenant, sql.bind(spec.id, id_))
        checked = version is not None and spec.version is not None
        args = [sql.bind(name, value) for name, value in changes.items()]
        rows = await self._leaf.write(
            sql.update(list(changes), checked=checked), (*args, *key, *([version] if checked else []))
        )
        if rows:
            return sql.row(rows[0])
        if checked:
            found = await self._leaf.row(sql.version, key)
            if found is not None:
                raise VersionConflict(f"{spec.name} {id_!r} has version {found[0]}, not {version}; read it again")
        return None

    async def delete(self, space: Space, ids: Sequence[Any]) -> int:
        sql = await self._sql(space.spec)
        bound = pad([sql.bind(space.spec.id, id_) for id_ in ids])
        text = f'{sql.delete} AND "{space.spec.id}" IN ({", ".join("?" * len(bound))}) RETURNING 1'
        return len(await self._leaf.write(text, (space.tenant, *bound)))

    async def delete_where(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        sql = await self._sql(space.spec)
        text, bound = sql.where(where)
        return len(await self._leaf.write(f"{sql.delete}{text} RETURNING 1", (space.tenant, *bound)))

    async def find(self, space: Space, query: RecordQuery) -> list[Row]:
        sql = await self._sql(space.spec)
        text, bound = sql.find(space.tenant, query)
        return [sql.row(values) for values in await self._leaf.rows(text, bound)]

    async def count(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        sql = await self._sql(space.spec)
        text, bound = sql.where(where)
        rows = await self._leaf.rows(f"{sql.count}{text}", (space.tenant, *bound))
        return int(rows[0][0])

    async def explain(self, space: Space, query: RecordQuery) -> str:
        sql = await self._sql(space.spec)
        return await self._leaf.explain(*sql.find(space.tenant, query))

    def forget(self) -> None:
        """Look at every table again at its next use (after a close: the file may be another one)."""
        self._known.clear()

    async def _sql(self, spec: RecordSpec) -> Sql:
        """Return the statements of a kind, making its table the first time."""
        known = self._known.get(id(spec))
        if known is not None:
            return known
        sql = Sql(spec, self._dialect)

        async def work() -> None:
            await self._prepare(sql)

        await self._leaf.define(spec.name, work)
        self._known[id(spec)] = sql  # the Sql holds the spec, so its id stays taken
        return sql

    async def _prepare(self, sql: Sql) -> None:
        spec, have = sql.spec, await self._leaf.columns(sql.spec.name)
        if not have:
            await self._leaf.script([(text, ()) for text in sql.create()])
            return
        if TENANT not in have:
            raise ConfigurationError(
                f"the table {spec.name!r} exists and was not made by ambidex; give the model another __tablename__"
            )
        added = []
        for field in spec.fields:
            wanted = self._dialect.columns[field.kind].type
            if field.name not in have:
                if field.required and not field.nullable:
                    raise ConfigurationError(
                        f"{spec.name}.{field.name} is new and has no default, so stored records would lack it; "
                        "give it a default, or migrate with Alembic (ambidex.metadata())"
                    )
                added.append(f"ALTER TABLE {sql.table} ADD COLUMN {sql.column(field, added=True)}")
            elif have[field.name].upper() != wanted.split(" COLLATE")[0].upper():
                raise ConfigurationError(
                    f"{spec.name}.{field.name} is {have[field.name]} in the database, the model wants {wanted}; "
                    "migrate with Alembic (ambidex.metadata())"
                )
        await self._leaf.script([(text, ()) for text in (*added, *sql.indexes())])
