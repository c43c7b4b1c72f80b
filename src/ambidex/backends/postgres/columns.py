"""How PostgreSQL keeps the kinds of a record's fields, and what it says of its tables; the leaf pair uses both.

The invariant: a value comes back as it went in. So text is compared by its bytes under every locale, and nested data is
``json`` rather than ``jsonb``, which would turn 1e16 into an integer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from ambidex.backends.relational.record_sql import Columns, RecordDialect
from ambidex.backends.relational.records import Column
from ambidex.backends.relational.sql import Args, Row
from ambidex.core.spec import Kind

__all__ = ["RECORDS", "Tables", "records_dialect"]

_json = msgspec.json.Encoder(order="sorted").encode


def _text(value: Any) -> str:
    return _json(value).decode()


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


@lru_cache(maxsize=64)
def records_dialect(schema: str = "") -> RecordDialect:
    """Return how PostgreSQL keeps records, with the tables in ``schema`` ("": on the search path)."""
    return RecordDialect(
        columns={
            Kind.TEXT: Columns('text COLLATE "C"'),
            Kind.INTEGER: Columns("bigint"),
            Kind.FLOAT: Columns("double precision"),
            Kind.BOOLEAN: Columns("boolean"),
            Kind.DECIMAL: Columns("numeric", str),
            Kind.UUID: Columns("uuid", str),
            Kind.DATETIME: Columns("timestamp with time zone", datetime.isoformat, _utc),
            Kind.DATE: Columns("date", date.isoformat),
            Kind.TIME: Columns("time without time zone", time.isoformat),
            Kind.BYTES: Columns("bytea"),
            Kind.JSON: Columns("json", _text),
        },
        contains_text="strpos({column}, ?) > 0",
        contains_json=(
            "CASE json_typeof({column}) WHEN 'array' THEN EXISTS"
            " (SELECT 1 FROM json_array_elements({column}) AS item WHERE item::text = ?) ELSE false END"
        ),
        nulls_first=" NULLS FIRST",
        nulls_last=" NULLS LAST",
        same="IS NOT DISTINCT FROM",
        not_same="IS DISTINCT FROM",
        element=_text,
        schema=f"{schema}." if schema else "",
        add_column="ADD COLUMN IF NOT EXISTS",
    )


RECORDS = records_dialect()

_COLUMNS = (
    "SELECT a.attname, format_type(a.atttypid, NULL), NOT a.attnotnull,"
    " coalesce(a.attnum = ANY (p.conkey), false), a.atthasdef"
    " FROM pg_attribute a LEFT JOIN pg_constraint p ON p.conrelid = a.attrelid AND p.contype = 'p'"
    " WHERE a.attrelid = to_regclass(?) AND a.attnum > 0 AND NOT a.attisdropped"
)
_INDEXES = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(?)"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(?, 7013))"


class _Leaf(Protocol):
    """What is asked of the leaf."""

    async def rows(self, sql: str, args: Args = ()) -> list[Row]: ...

    def transaction(self) -> AbstractAsyncContextManager[None]: ...


class Tables:
    """What the port of records asks a leaf about tables; the leaf answers through this.

    Args:
        leaf: the colour.
        schema: the schema of the tables, or "".
        inside: tells whether this task or thread is in a transaction.
    """

    def __init__(self, leaf: _Leaf, schema: str, inside: Callable[[], bool]) -> None:
        self._leaf, self._inside = leaf, inside
        self._prefix = f"{schema}." if schema else ""

    async def define(self, table: str, work: Callable[[], Awaitable[None]]) -> bool:
        """See :class:`ambidex.backends.relational.records.RecordsLeaf`."""
        async with self._leaf.transaction():
            await self._leaf.rows(_LOCK, (f"ambidex table {self._prefix}{table}",))
            await work()
        return not self._inside()

    async def columns(self, table: str) -> dict[str, Column]:
        """See :class:`ambidex.backends.relational.records.RecordsLeaf`."""
        found = await self._leaf.rows(_COLUMNS, (self._name(table),))
        return {
            name: Column(type_, nullable, key and name != "ambidex_tenant", defaulted)
            for name, type_, nullable, key, defaulted in found
        }

    async def indexes(self, table: str) -> list[str]:
        """See :class:`ambidex.backends.relational.records.RecordsLeaf`."""
        return [name for (name,) in await self._leaf.rows(_INDEXES, (self._name(table),))]

    async def explain(self, sql: str, args: Sequence[Any]) -> str:
        """See :class:`ambidex.backends.relational.records.RecordsLeaf`."""
        return "; ".join(line.strip() for (line,) in await self._leaf.rows(f"EXPLAIN (COSTS OFF) {sql}", args))

    def _name(self, table: str) -> str:
        return f'{self._prefix}"{table}"'
