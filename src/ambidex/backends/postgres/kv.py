"""Key-value on PostgreSQL: the shared statements, over two columns, one for bytes and one for integers.

The leaf pair makes one of these. The invariant is that of ``relational.kv``; in addition exactly one of the two columns
holds a value, so that the server can count in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ambidex.backends.postgres.batches import Lookup, Upsert
from ambidex.backends.postgres.wire import bigint_array, bytea_array, text_array
from ambidex.backends.relational.kv import SqlKeyValue
from ambidex.backends.relational.sql import Args, Dialect, Row, SqlLeaf, Statement
from ambidex.core.codec import Stored
from ambidex.core.ports import Entry, Put, When
from ambidex.errors import AlreadyExists

__all__ = ["PostgresKeyValue", "PostgresLeaf"]

_TOGETHER = 65_536  # a longer value goes alone: it would only hold up the others
_CHUNK = 512 * 1024
_MANY = 500
_SAMPLE = 16


class PostgresLeaf(SqlLeaf, Protocol):
    """What PostgreSQL's leaf offers beyond the shared executor."""

    def in_transaction(self) -> bool:
        """Tell whether this task or thread is inside a transaction."""
        ...

    async def find(self, lookup: Lookup, key: str) -> Row | None:
        """Read one row by its key, perhaps together with others."""
        ...

    async def upsert(self, upsert: Upsert, row: Args) -> None:
        """Write one row, perhaps together with others."""
        ...


class PostgresKeyValue(SqlKeyValue):
    """Implements :class:`ambidex.core.ports.KeyValuePort`."""

    def __init__(self, leaf: PostgresLeaf, dialect: Dialect) -> None:
        super().__init__(leaf, dialect)
        self._find, self._upsert, self._inside = leaf.find, leaf.upsert, leaf.in_transaction
        self._values = Lookup(self._get.replace("SELECT ", "SELECT key, ", 1), self._get_many, text_array)
        # A key is looked up in its index, and what else is asked for costs nothing beside that.
        entries = self._entry.replace("SELECT ", "SELECT key, ", 1)
        self._entries = Lookup(entries, entries.replace("key = ?", dialect.in_list.format(column="key")), text_array)
        into = f"INSERT INTO {dialect.schema}ambidex_kv (key, value, number, version, expires)"
        self._puts = Upsert(
            self._put,
            f"{into} SELECT key, value, number, {dialect.version}, (SELECT {dialect.now}) + ttl"
            " FROM unnest(?::text[], ?::bytea[], ?::bigint[], ?::bigint[]) AS given (key, value, number, ttl)"
            f" {self._on_conflict}",
            _columns,
        )
        bulk = (  # the time is computed once, not for each row
            f"{into} SELECT key, {{}}, {dialect.version}, (SELECT {dialect.now} + ?::bigint)"
            " FROM unnest(?::text[], {}) AS rows (key, given)"
        )
        self._there = f"SELECT 1 FROM {dialect.schema}ambidex_kv WHERE {dialect.in_list.format(column='key')} LIMIT 1"
        self._insert_bytes, self._insert_ints = (
            bulk.format("given, NULL", "?::bytea[]"),
            bulk.format("NULL, given", "?::bigint[]"),
        )
        gone = f"ambidex_kv.expires IS NOT NULL AND ambidex_kv.expires <= {dialect.now}"
        self._add_bytes = f"{self._insert_bytes} {self._on_conflict} WHERE {gone} RETURNING key"

    async def get(self, key: str) -> Stored | None:
        row = await self._find(self._values, key)
        return None if row is None else _stored(row[1], row[2])

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        rows = await self._rows(self._get_many, (text_array(keys),))
        found = {key: _stored(value, number) for key, value, number in rows}
        return [found.get(key) for key in keys]

    async def entry(self, key: str) -> Entry | None:
        row = await self._find(self._entries, key)
        return None if row is None else Entry(_stored(row[1], row[2]), row[3], row[4])

    async def put(self, key: str, value: Stored, ttl_ms: int | None, when: When) -> bool:
        columns = _split(value)
        if when is When.ALWAYS:
            if columns[0] is None or len(columns[0]) <= _TOGETHER:
                await self._upsert(self._puts, (key, *columns, ttl_ms))
            else:
                await self._write(self._put, (key, *columns, ttl_ms))
            return True
        if when is When.ABSENT:
            return bool(await self._write(self._add, (key, *columns, ttl_ms)))
        return bool(await self._write(self._replace, (*columns, ttl_ms, key)))

    async def put_many(self, items: Sequence[Put], ttl_ms: int | None) -> None:
        # In the order of the keys, so that two such calls cannot lock rows crosswise.
        rows = sorted(dict(items).items())
        numbers = [(key, value) for key, value in rows if isinstance(value, int)]
        blobs = [(key, value) for key, value in rows if not isinstance(value, int)] if numbers else rows
        statements: list[Statement] = []
        for chunk in _chunks(blobs):
            keys, values = zip(*chunk, strict=True)
            statements.append((self._insert_bytes, (ttl_ms, text_array(keys), bytea_array(values))))
        if numbers:
            keys, integers = zip(*numbers, strict=True)
            statements.append((self._insert_ints, (ttl_ms, text_array(keys), bigint_array(integers))))
        if await self._seem_new([key for key, _ in rows]):
            try:
                await self._leaf.script(statements)
            except AlreadyExists:
                pass  # nothing was stored
            else:
                return
        await self._leaf.script([(f"{text} {self._on_conflict}", args) for text, args in statements])

    async def _seem_new(self, keys: Sequence[str]) -> bool:
        """Tell whether many keys are to be stored, and a few of them are not there.

        Then an insert pays that is refused where one is there: the server needs half the time for it. Not in a
        transaction, which the refusal would end.
        """
        if len(keys) < _MANY or self._inside():
            return False
        sample = [*keys[:: len(keys) // _SAMPLE], keys[-1]]
        return not await self._rows(self._there, (text_array(sample),))

    async def add_many(self, items: Sequence[Put], ttl_ms: int | None) -> list[bool]:
        rows = sorted(dict(items).items())  # as in put_many
        if any(isinstance(value, int) for _, value in rows):
            made = await self._leaf.script([(self._add, (key, *_split(value), ttl_ms)) for key, value in rows])
            added = {key for (key, _), written in zip(rows, made, strict=True) if written}
        else:
            keys, values = [key for key, _ in rows], [value for _, value in rows]
            args = (ttl_ms, text_array(keys), bytea_array(values))  # type: ignore[arg-type]  # all are bytes
            added = {key for (key,) in await self._write(self._add_bytes, args)}
        return [key in added for key, _ in items]

    async def swap(self, key: str, value: Stored, version: int, ttl_ms: int | None) -> int | None:
        columns = _split(value)
        if version == 0:
            rows = await self._write(self._add, (key, *columns, ttl_ms))
        else:
            rows = await self._write(self._swap, (*columns, ttl_ms, key, version))
        return rows[0][0] if rows else None


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut rows of key and value into parts of bounded size: the server works on one while the next is on its way."""
    start = size = 0
    for place, (key, value) in enumerate(rows, 1):
        size += len(key) + len(value)
        if size >= _CHUNK:
            yield rows[start:place]
            start, size = place, 0
    if start < len(rows):
        yield rows[start:]


def _split(value: Stored) -> tuple[bytes | None, int | None]:
    return (None, value) if isinstance(value, int) else (value, None)


def _stored(value: bytes | None, number: int | None) -> Stored:
    return number if value is None else value  # type: ignore[return-value]  # a CHECK holds: one of them is there


def _columns(rows: Sequence[Args]) -> Args:
    keys, values, numbers, ttls = zip(*rows, strict=True)
    return text_array(keys), bytea_array(values), bigint_array(numbers), bigint_array(ttls)
