"""Key-value as SQL; SQLite's leaf makes one of these, PostgreSQL's one that knows two columns of a value apart.

The invariant: a row whose time has passed is absent for every statement, by the database's clock, whether or not it
was deleted yet. Versions start at a random number and grow by one with each write, so a key that was deleted and made
again never shows an old version.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from ambidex.backends.relational.sql import Dialect, SqlLeaf
from ambidex.core.codec import Stored
from ambidex.core.ports import Entry, Put, When
from ambidex.errors import UnsupportedValue

__all__ = ["SCHEMA", "SqlKeyValue", "prefix_end"]

SCHEMA = (
    "CREATE TABLE ambidex_kv (key TEXT PRIMARY KEY, value NOT NULL, version INTEGER NOT NULL, expires INTEGER)"
    " WITHOUT ROWID",
    "CREATE INDEX ambidex_kv_expires ON ambidex_kv (expires) WHERE expires IS NOT NULL",
)


def prefix_end(prefix: str) -> str:
    """Return the smallest text above every text with this (ASCII, not empty) prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


class SqlKeyValue:
    """Implements :class:`ambidex.core.ports.KeyValuePort`."""

    def __init__(self, leaf: SqlLeaf, dialect: Dialect) -> None:
        self._leaf = leaf
        self._listing = dialect.listing
        self._row, self._rows, self._write = leaf.row, leaf.rows, leaf.write
        now, version, table = dialect.now, dialect.version, f"{dialect.schema}ambidex_kv"
        live = f"(expires IS NULL OR expires > {now})"
        gone = f"(ambidex_kv.expires IS NOT NULL AND ambidex_kv.expires <= {now})"
        listed = dialect.in_list.format(column="key")
        *others, number = dialect.values
        columns, marks = ", ".join(dialect.values), ", ".join("?" for _ in dialect.values)
        given = ", ".join(f"{column} = ?" for column in dialect.values)
        cleared = "".join(f" {column} = excluded.{column}," for column in others)
        taken = ", ".join(f"{column} = excluded.{column}" for column in dialect.values)
        replace = f"{taken}, version = ambidex_kv.version + 1, expires = excluded.expires"
        self._on_conflict = f"ON CONFLICT (key) DO UPDATE SET {replace}"
        self._get = f"SELECT {columns} FROM {table} WHERE key = ? AND {live}"
        self._get_many = f"SELECT key, {columns} FROM {table} WHERE {listed} AND {live}"
        self._entry = f"SELECT {columns}, version, expires - {now} FROM {table} WHERE key = ? AND {live}"
        self._put = (
            f"INSERT INTO {table} (key, {columns}, version, expires)"
            f" VALUES (?, {marks}, {version}, {now} + ?) {self._on_conflict}"
        )
        # The clock would be asked for each row, which is a third of what a row of a batch takes on SQLite.
        self._put_for_ever = (
            f"INSERT INTO {table} (key, {columns}, version) VALUES (?, {marks}, {version}) {self._on_conflict}"
        )
        self._add = f"{self._put} WHERE {gone} RETURNING version"
        self._add_for_ever = f"{self._put_for_ever} WHERE {gone} RETURNING key"
        self._replace = (
            f"UPDATE {table} SET {given}, version = version + 1, expires = {now} + ?"
            f" WHERE key = ? AND {live} RETURNING version"
        )
        self._swap = self._replace.replace(" RETURNING", " AND version = ? RETURNING")
        self._delete = f"DELETE FROM {table} WHERE {listed} RETURNING {live}"
        self._touch = f"UPDATE {table} SET expires = {now} + ? WHERE key = ? AND {live} RETURNING 1"
        self._incr = (
            f"INSERT INTO {table} (key, {number}, version, expires) VALUES (?, ?, {version}, {now} + ?)"
            f" ON CONFLICT (key) DO UPDATE SET version = ambidex_kv.version + 1,{cleared}"
            f" {number} = CASE WHEN {gone} THEN excluded.{number} ELSE ambidex_kv.{number} + excluded.{number} END,"
            f" expires = CASE WHEN {gone} THEN excluded.expires ELSE ambidex_kv.expires END"
            f" WHERE {gone} OR ({dialect.whole})"
            f" RETURNING {number}"
        )
        self._scan = f"SELECT key FROM {table} WHERE key > ? AND key >= ? AND key < ? AND {live} ORDER BY key LIMIT ?"

    async def get(self, key: str) -> Stored | None:
        row = await self._row(self._get, (key,))
        return None if row is None else row[0]

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        found: dict[str, Stored] = dict(await self._rows(self._get_many, (self._listing(keys),)))
        return [found.get(key) for key in keys]

    async def entry(self, key: str) -> Entry | None:
        row = await self._row(self._entry, (key,))
        return None if row is None else Entry(*row)

    async def put(self, key: str, value: Stored, ttl_ms: int | None, when: When) -> bool:
        if when is When.ALWAYS:
            if ttl_ms is None:
                await self._write(self._put_for_ever, (key, value))
            else:
                await self._write(self._put, (key, value, ttl_ms))
            return True
        if when is When.ABSENT:
            return bool(await self._write(self._add, (key, value, ttl_ms)))
        return bool(await self._write(self._replace, (value, ttl_ms, key)))

    async def put_many(self, items: Sequence[Put], ttl_ms: int | None) -> None:
        if ttl_ms is None:
            await self._leaf.write_many(self._put_for_ever, items)
        else:
            await self._leaf.write_many(self._put, [(key, value, ttl_ms) for key, value in items])

    async def add_many(self, items: Sequence[Put], ttl_ms: int | None) -> list[bool]:
        # In the order of the keys: names that are hashes are spread over the whole tree.
        given = sorted(items, key=itemgetter(0))
        if ttl_ms is None:
            added = {key for (key,) in await self._leaf.write_many(self._add_for_ever, given)}
        else:
            rows = await self._leaf.script([(self._add, (key, value, ttl_ms)) for key, value in given])
            added = {key for (key, _), row in zip(given, rows, strict=True) if row}
        return [key in added for key, _ in items]

    async def swap(self, key: str, value: Stored, version: int, ttl_ms: int | None) -> int | None:
        if version == 0:
            rows = await self._write(self._add, (key, value, ttl_ms))
        else:
            rows = await self._write(self._swap, (value, ttl_ms, key, version))
        return rows[0][0] if rows else None

    async def delete_many(self, keys: Sequence[str]) -> int:
        rows = await self._write(self._delete, (self._listing(keys),))
        return sum(1 for (was_live,) in rows if was_live)

    async def touch(self, key: str, ttl_ms: int | None) -> bool:
        return bool(await self._write(self._touch, (ttl_ms, key)))

    async def incr(self, key: str, by: int, ttl_ms: int | None) -> int:
        rows = await self._write(self._incr, (key, by, ttl_ms))
        if not rows:
            raise UnsupportedValue("incr needs an integer, and a sum within 64 bits; the stored value is unchanged")
        return int(rows[0][0])

    async def scan(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        rows = await self._rows(self._scan, (after or "", prefix, prefix_end(prefix), limit + 1))
        keys = [key for (key,) in rows[:limit]]
        return keys, keys[-1] if len(rows) > limit else None
