"""Append-only streams as SQL; every SQL leaf makes one of these.

Each stream has one row with the last place given out (``seq``) and the place up to which entries are dead (``floor``).
The invariant: entries between the two are exactly the living ones, so trimming, expiry and length cost the same
however long the stream is, and a place is never given out twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ambidex.backends.relational.kv import prefix_end
from ambidex.backends.relational.sql import Dialect, SqlLeaf, Statement
from ambidex.core.ports import Event
from ambidex.errors import AmbidexError

__all__ = ["SCHEMA", "SqlLog"]

SCHEMA = (
    "CREATE TABLE ambidex_streams (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL, floor INTEGER NOT NULL,"
    " expires INTEGER) WITHOUT ROWID",
    "CREATE TABLE ambidex_events (stream TEXT NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL,"
    " PRIMARY KEY (stream, seq)) WITHOUT ROWID",
)

_LAST_PLACE = 2**63 - 1


class SqlLog:
    """Implements :class:`ambidex.core.ports.LogPort`."""

    def __init__(self, leaf: SqlLeaf, dialect: Dialect) -> None:
        self._leaf = leaf
        now, streams, events = dialect.now, f"{dialect.schema}ambidex_streams", f"{dialect.schema}ambidex_events"
        live = f"(expires IS NULL OR expires > {now})"
        # Places have no gaps, so a page is a range of places. That is said in full: a planner without statistics would
        # otherwise read a whole stream and sort it.
        before = (
            f"(SELECT CASE WHEN floor > seq - ? THEN floor ELSE seq - ? END FROM {streams} WHERE stream = ? AND {live})"
        )
        first = f"(SELECT CASE WHEN floor > ? THEN floor ELSE ? END FROM {streams} WHERE stream = ? AND {live})"
        # An expired stream is emptied first. If it expires between the two statements, the append counts as having
        # come just before.
        self._revive = f"UPDATE {streams} SET floor = seq, expires = NULL WHERE stream = ? AND NOT {live} RETURNING 1"
        self._head = (
            f"INSERT INTO {streams} (stream, seq, floor, expires)"
            f" VALUES (?, ?, 0, {now} + ?) ON CONFLICT (stream) DO UPDATE"
            " SET seq = ambidex_streams.seq + excluded.seq,"
            " expires = coalesce(excluded.expires, ambidex_streams.expires) RETURNING seq"
        )
        self._add = (
            f"INSERT INTO {events} (stream, seq, data) SELECT stream, seq - ?, ? FROM {streams} WHERE stream = ?"
        )
        self._tail = f"SELECT seq, data FROM {events} WHERE stream = ? AND seq > {before} ORDER BY seq"
        self._range = (
            f"SELECT seq, data FROM {events} WHERE stream = ? AND seq > {first} AND seq <= {first} + ? ORDER BY seq"
        )
        self._length = f"SELECT seq - floor FROM {streams} WHERE stream = ? AND {live}"
        self._counted = f"{self._length}{dialect.locking}"
        self._trim = f"UPDATE {streams} SET floor = seq - ? WHERE stream = ? AND {live} AND seq - floor > ?"
        self._trim_before = (
            f"UPDATE {streams} SET floor = CASE WHEN seq < ? THEN seq ELSE ? END"
            f" WHERE stream = ? AND {live} AND floor < ?"
        )
        self._sweep = f"DELETE FROM {events} WHERE stream = ? AND seq <= (SELECT floor FROM {streams} WHERE stream = ?)"
        self._expire = f"UPDATE {streams} SET expires = {now} + ? WHERE stream = ? AND {live} RETURNING 1"
        self._forget = f"DELETE FROM {streams} WHERE stream = ? RETURNING {live}"
        self._clear = f"DELETE FROM {events} WHERE stream = ?"
        self._names = (
            f"SELECT stream FROM {streams}"
            f" WHERE stream > ? AND stream >= ? AND stream < ? AND {live} ORDER BY stream LIMIT ?"
        )

    async def append(self, stream: str, entries: Sequence[bytes], ttl_ms: int | None) -> list[int]:
        count = len(entries)
        statements: list[Statement] = [(self._revive, (stream,)), (self._head, (stream, count, ttl_ms))]
        statements += [(self._add, (count - place, data, stream)) for place, data in enumerate(entries, 1)]
        results = await self._leaf.script(statements)
        if results[0]:  # only then: planners may look through a long stream for what is dead in it
            with suppress(AmbidexError):  # what was appended stays, and what is dead is seen by nobody
                await self._leaf.write(self._sweep, (stream, stream))
        last = int(results[1][0][0])
        return list(range(last - count + 1, last + 1))

    async def tail(self, stream: str, count: int) -> list[Event]:
        return [Event(*row) for row in await self._leaf.rows(self._tail, (stream, count, count, stream))]

    async def range(self, stream: str, after: int, limit: int) -> list[Event]:
        place, limit = (after, after, stream), min(limit, _LAST_PLACE - after)
        return [Event(*row) for row in await self._leaf.rows(self._range, (stream, *place, *place, limit))]

    async def length(self, stream: str) -> int:
        row = await self._leaf.row(self._length, (stream,))
        return 0 if row is None else int(row[0])

    async def trim(self, stream: str, keep: int) -> int:
        return await self._dropping(stream, (self._trim, (keep, stream, keep)))

    async def trim_before(self, stream: str, place: int) -> int:
        floor = place - 1
        return await self._dropping(stream, (self._trim_before, (floor, floor, stream, floor)))

    async def _dropping(self, stream: str, statement: Statement) -> int:
        count = (self._counted, (stream,))
        results = await self._leaf.script([count, statement, count, (self._sweep, (stream, stream))])
        return int(results[0][0][0]) - int(results[2][0][0]) if results[0] else 0

    async def expire(self, stream: str, ttl_ms: int | None) -> bool:
        return bool(await self._leaf.write(self._expire, (ttl_ms, stream)))

    async def drop(self, stream: str) -> bool:
        results = await self._leaf.script([(self._forget, (stream,)), (self._clear, (stream,))])
        return any(row[0] for row in results[0])

    async def streams(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        rows = await self._leaf.rows(self._names, (after or "", prefix, prefix_end(prefix), limit + 1))
        names = [name for (name,) in rows[:limit]]
        return names, names[-1] if len(rows) > limit else None
