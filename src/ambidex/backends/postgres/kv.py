"""Key-value on PostgreSQL: the shared statements, over two columns, one for bytes and one for integers.

The leaf pair makes one of these. The invariant is that of ``relational.kv``; in addition exactly one of the two columns
holds a value, so that the server can count in one of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from operator import add
from typing import Any, Protocol

from ambidex.backends.postgres.batches import Lookup, Upsert
from ambidex.backends.postgres.wire import Later, bigint_array, bytea_array, text_array
from ambidex.backends.relational.kv import SqlKeyValue
from ambidex.backends.relational.sql import Args, Dialect, Row, SqlLeaf, Statement
from ambidex.core.codec import Stored
from ambidex.core.ports import Entry, Put, When
from ambidex.errors import AlreadyExists

__all__ = ["PostgresKeyValue", "PostgresLeaf"]

_TOGETHER = 65_536  # a longer value goes alone: it would only hold up the others
_CHUNK = 256 * 1024
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
        stored = dict(items)
        keys = sorted(stored)
        values = list(map(stored.__getitem__, keys))
        if int in set(map(type, values)):
            statements = self._puts_of_both(ttl_ms, keys, values)
        else:
            statements = self._puts_of_bytes(ttl_ms, keys, values)  # type: ignore[arg-type]  # all are bytes
        if await self._seem_new(keys):
            try:
                await self._leaf.script(statements)
            except AlreadyExists:
                pass  # nothing was stored
            else:
                return
        await self._leaf.script([(f"{text} {self._on_conflict}", args) for text, args in statements])

    def _puts_of_bytes(self, ttl_ms: int | None, keys: Sequence[str], values: Sequence[bytes]) -> list[Statement]:
        """Return the statements that store bytes; the server works on one while the next is made."""

        def arrays(part: slice) -> Sequence[Any]:
            return ttl_ms, text_array(keys[part]), bytea_array(values[part])

        return [(self._insert_bytes, Later(partial(arrays, part))) for part in _parts(keys, values)]

    def _puts_of_both(self, ttl_ms: int | None, keys: Sequence[str], values: Sequence[Stored]) -> list[Statement]:
        pairs = list(zip(keys, values, strict=True))
        blobs = {key: value for key, value in pairs if not isinstance(value, int)}
        numbers = {key: value for key, value in pairs if isinstance(value, int)}
        args = (ttl_ms, text_array(list(numbers)), bigint_array(list(numbers.values())))
        return [*self._puts_of_bytes(ttl_ms, list(blobs), list(blobs.values())), (self._insert_ints, args)]

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


def _parts(keys: Sequence[str], values: Sequence[bytes]) -> Iterator[slice]:
    """Cut keys and values into parts of bounded size."""
    ends = list(accumulate(map(add, map(len, keys), map(len, values))))
    start = size = 0
    while start < len(ends):
        stop = min(bisect_left(ends, size + _CHUNK, start) + 1, len(ends))
        yield slice(start, stop)
        start, size = stop, ends[stop - 1]


def _split(value: Stored) -> tuple[bytes | None, int | None]:
    return (None, value) if isinstance(value, int) else (value, None)


def _stored(value: bytes | None, number: int | None) -> Stored:
    return number if value is None else value  # type: ignore[return-value]  # a CHECK holds: one of them is there


def _columns(rows: Sequence[Args]) -> Args:
    keys, values, numbers, ttls = zip(*rows, strict=True)
    return text_array(keys), bytea_array(values), bigint_array(numbers), bigint_array(ttls)
