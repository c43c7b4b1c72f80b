"""Records as SQL tables with native columns; every SQL leaf makes one of these.

A kind's table and indexes are made when the kind is first met, and columns for fields that the model has gained are
added; anything else is for a migration tool. The invariant: whether a record may be written is decided by the
statement that writes it, never by a read before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple, Protocol

from ambidex.backends.relational.record_sql import TENANT, RecordDialect, Sql, pad
from ambidex.backends.relational.sql import Args, SqlLeaf
from ambidex.core.ports import RecordQuery, Row, Space
from ambidex.core.query import Condition
from ambidex.core.spec import Field, RecordSpec
from ambidex.errors import AlreadyExists, ConfigurationError, VersionConflict

__all__ = ["Column", "RecordsLeaf", "SqlRecords", "taken"]

_AT_ONCE = 500
_MIGRATE = "migrate with Alembic over ambidex.metadata()"
_OTHER = "If the table is another model's of the same name, give this one a __tablename__"


class Column(NamedTuple):
    """A column as the database has it."""

    type: str
    """As in :attr:`Columns.declared`."""
    nullable: bool
    key: bool
    """Whether it is part of the primary key, beside the tenant."""
    defaulted: bool = False
    """Whether the database fills it in where no value is given."""


class RecordsLeaf(SqlLeaf, Protocol):
    """What a leaf must offer beyond statements, to keep records."""

    async def define(self, table: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Run ``await work()`` as one transaction that no other definition of a table overlaps, in any process.

        Returns:
            Whether it is committed; False inside a transaction, which may yet be undone.
        """
        ...

    def in_transaction(self) -> bool:
        """Tell whether this task or thread is inside a transaction."""
        ...

    async def columns(self, table: str) -> dict[str, Column]:
        """Return the columns of a table by name; empty where there is no table."""
        ...

    async def indexes(self, table: str) -> list[str]:
        """Return the names of a table's indexes."""
        ...

    async def explain(self, sql: str, args: Sequence[Any]) -> str:
        """Say in one line how the database would run a query."""
        ...


def taken(sql: Sql, rows: Sequence[Row], error: AlreadyExists) -> AlreadyExists:
    """Return the error for rows that were refused, in the words of every backend: the field, and its value if sure.

    The database names the index or the column; one that ambidex did not make leaves its error as it is.
    """
    spec, text = sql.spec, str(error)
    for field in spec.fields:
        if field.name == spec.id:
            meant = f'"{spec.name}_pkey"' in text or text.endswith(f"{spec.name}.{spec.id}")
        else:
            meant = field.unique and (f'"{sql.index(field)}"' in text or text.endswith(f"{spec.name}.{field.name}"))
        if meant and len(rows) == 1 and field.name in rows[0]:
            return AlreadyExists(f"{spec.name} with {field.name} {rows[0][field.name]!r} exists")
        if meant:
            return AlreadyExists(f"{spec.name} with the {field.name} of one of {len(rows):,} records exists")
    return error


class _Bound:
    """Rows as a statement binds them, each made when its turn comes: together they would be a list for nothing."""

    def __init__(self, tenant: str, columns: Sequence[Sequence[Any]]) -> None:
        self._tenant, self._columns = tenant, columns

    def __iter__(self) -> Iterator[Args]:
        return zip(repeat(self._tenant), *self._columns, strict=False)


class SqlRecords:
    """Implements :class:`ambidex.core.ports.RecordsPort`, but for ``numbers``, which each database has its way for."""

    def __init__(self, leaf: RecordsLeaf, dialect: RecordDialect) -> None:
        self._leaf, self._dialect = leaf, dialect
        self._known: dict[int, Sql] = {}
        self._unsure: dict[int, Sql] = {}

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
        try:
            if len(rows) == 1:
                await self._leaf.write(sql.insert, sql.bind_row(space.tenant, rows[0]))
            else:
                await self._leaf.write_many(sql.insert, _Bound(space.tenant, sql.bind_columns(rows)))
        except AlreadyExists as error:
            raise taken(sql, rows, error) from None

    async def upsert(self, space: Space, rows: Sequence[Row]) -> list[Row]:
        sql = await self._sql(space.spec)
        try:
            if len(rows) == 1:
                return [sql.row((await self._leaf.write(sql.upsert, sql.bind_row(space.tenant, rows[0])))[0])]
            results = await self._leaf.script([(sql.upsert, sql.bind_row(space.tenant, row)) for row in rows])
        except AlreadyExists as error:
            raise taken(sql, rows, error) from None
        return [sql.row(result[0]) for result in results]

    async def update(
        self, space: Space, id_: Any, changes: Row, version: int | None, where: Sequence[Condition] = ()
    ) -> Row | None:
        spec = space.spec
        sql = await self._sql(spec)
        key = (space.tenant, sql.bind(spec.id, id_))
        checked = version is not None and spec.version is not None
        args = [sql.bind(name, value) for name, value in changes.items()]
        text, bound = sql.where(where)
        statement = sql.update(list(changes), checked=checked, where=text)
        try:
            rows = await self._leaf.write(statement, (*args, *key, *([version] if checked else []), *bound))
        except AlreadyExists as error:
            raise taken(sql, [changes], error) from None
        if rows:
            return sql.row(rows[0])
        if checked:
            found = await self._leaf.row(f"{sql.version}{text}", (*key, *bound))
            if found is not None and found[0] != version:
                raise VersionConflict(f"{spec.name} {id_!r} has version {found[0]}, not {version}; read it again")
        return None

    async def update_where(self, space: Space, where: Sequence[Condition], changes: Row, scan: bool) -> int:
        sql = await self._sql(space.spec)
        text, bound = sql.where(where)
        args = [sql.bind(name, value) for name, value in changes.items()]
        return len(
            await self._leaf.write(f"{sql.change(list(changes))}{text} RETURNING 1", (*args, space.tenant, *bound))
        )

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
        self._unsure.clear()

    async def _sql(self, spec: RecordSpec) -> Sql:
        """Return the statements of a kind, making what its table lacks the first time."""
        known = self._known.get(id(spec))
        if known is not None:
            return known
        sql = Sql(spec, self._dialect)
        committed = True
        missing = await self._missing(sql)  # without the lock that changing a table needs
        if missing:

            async def work() -> None:
                await self._run(sql, await self._missing(sql))

            committed = await self._leaf.define(spec.name, work)
        if committed and id(spec) not in self._unsure:
            self._known[id(spec)] = sql  # the Sql holds the spec, so its id stays taken
        elif committed and not self._leaf.in_transaction():
            self._known[id(spec)] = self._unsure.pop(id(spec))
        else:  # the transaction in which the table was made may yet be undone
            self._unsure[id(spec)] = sql
        return sql

    async def _run(self, sql: Sql, missing: Sequence[str]) -> None:
        try:
            await self._leaf.script([(text, ()) for text in missing])
        except AlreadyExists as error:
            raise ConfigurationError(
                f"{sql.spec.name} holds equal values in a field that the model makes Unique(): {error}; "
                f"remove them first: {_MIGRATE}"
            ) from None

    async def _missing(self, sql: Sql) -> list[str]:
        """Return the statements that make what a kind's table lacks.

        Raises:
            ConfigurationError: the table cannot become the model's by adding to it.
        """
        spec, have = sql.spec, await self._leaf.columns(sql.spec.name)
        if not have:
            return sql.create()
        if TENANT not in have:
            raise ConfigurationError(
                f"the table {spec.name!r} exists and was not made by ambidex; give the model another __tablename__"
            )
        added = [text for field in spec.fields if (text := self._reconciled(sql, field, have.get(field.name)))]
        names = {field.name for field in spec.fields} | {TENANT}
        for name, column in have.items():
            if name not in names and not column.nullable and not column.defaulted:
                raise ConfigurationError(
                    f"{spec.name}.{name} is no field of the model any more, and the database demands a value for it; "
                    f"keep the field, or drop the column: {_MIGRATE}"
                )
        indexes = await self._leaf.indexes(spec.name)
        for field in spec.fields:
            if not field.unique and sql.index(field._replace(unique=True)) in indexes:
                raise ConfigurationError(
                    f"{spec.name}.{field.name} is unique in the database and not in the model; "
                    f"annotate it Unique(), or drop the index: {_MIGRATE}"
                )
        return [*added, *(text for name, text in sql.indexes().items() if name not in indexes)]

    def _reconciled(self, sql: Sql, field: Field, column: Column | None) -> str | None:
        """Return the statement that adds a field to its table, or None where it is there."""
        where, wanted = f"{sql.spec.name}.{field.name}", self._dialect.columns[field.kind].declared
        if column is None:
            if (field.required and not field.nullable) or field.name == sql.spec.id:
                raise ConfigurationError(
                    f"{where} is new and has no default, so stored records would lack it; "
                    f"give it a default, or fill it in: {_MIGRATE}. {_OTHER}"
                )
            return f"ALTER TABLE {sql.table} {self._dialect.add_column} {sql.column(field, added=True)}"
        if column.type.upper() != wanted.upper():
            raise ConfigurationError(
                f"{where} is {column.type} in the database, and the model wants {wanted}; "
                f"change the model back, or convert the column: {_MIGRATE}. {_OTHER}"
            )
        if column.key != (field.name == sql.spec.id):
            raise ConfigurationError(
                f"{where} {'is' if column.key else 'is not'} the id in the database, unlike in the model; "
                f"change the model back, or build a new table: {_MIGRATE}"
            )
        if field.nullable and not column.nullable:
            raise ConfigurationError(
                f"{where} may be None in the model, and the database demands a value; "
                f"change the model back, or the column: {_MIGRATE}"
            )
        return None
