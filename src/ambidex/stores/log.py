"""Append-only streams of values; ``storage.events`` is one, and conversations are kept in one.

The invariant: entries appended by one call stay together and in order, every entry has a place that grows and never
repeats, and a reader that follows misses none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any, NamedTuple

from ambidex.core.codec import decode, encode
from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.keys import escape, unescape
from ambidex.core.ports import Event
from ambidex.errors import Corrupted, InvalidQuery
from ambidex.stores.kv import TTL, ttl_to_ms
from ambidex.stores.scope import Scope

__all__ = ["BlockingLog", "DetectingLog", "Log", "Record"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
_MOST = 10_000


class Record(NamedTuple):
    """One entry of a stream: its place and its value."""

    seq: int
    value: Any


class Log(Store):
    """Streams of values, asynchronous. ``await storage.aio.events.append("orders", {...})``."""

    def __init__(self, scope: Scope, room: str = "log") -> None:
        self._scope, self._room = scope, room
        self._prefix = scope.prefix(room)
        self._port = scope.leaf.log

    @operation
    async def append(self, stream: str, *values: Any, ttl: TTL | None = None) -> int:
        """Add values at the end in one atomic step.

        Args:
            stream: its name; it is made by the first append.
            *values: anything that ``kv.set`` takes.
            ttl: from now, for the whole stream; None leaves its time to live as it is.

        Returns:
            The place of the last value.
        """
        if not values:
            raise InvalidQuery("append needs at least one value")
        entries = [_entry(value, self._scope.max_bytes) for value in values]
        return (await self._port.append(self._key(stream), entries, ttl_to_ms(ttl)))[-1]

    @operation
    async def tail(self, stream: str, count: int = 20) -> list[Record]:
        """Return the last ``count`` entries, oldest first; the cost does not depend on the stream's length."""
        return _records(await self._port.tail(self._key(stream), _count(count)))

    @operation
    async def range(self, stream: str, after: int = 0, limit: int = 500) -> list[Record]:
        """Return up to ``limit`` entries behind the place ``after``, oldest first."""
        return _records(await self._port.range(self._key(stream), _place(after), _count(limit)))

    @stream
    async def iterate(self, stream: str, after: int = 0, *, page: int = 500) -> AsyncGenerator[list[Record], None]:
        """Iterate the entries behind the place ``after`` that exist now, oldest first."""
        key, size, after = self._key(stream), _count(page), _place(after)
        while records := _records(await self._port.range(key, after, size)):
            yield records
            if len(records) < size:
                return
            after = records[-1].seq

    @stream
    async def follow(self, stream: str, after: int = 0, *, page: int = 500) -> AsyncGenerator[list[Record], None]:
        """Iterate the entries behind ``after``, then wait for new ones, without end; leave the loop to stop."""
        key, size, pause, after = self._key(stream), _count(page), _FIRST_PAUSE, _place(after)
        while True:
            records = _records(await self._port.range(key, after, size))
            if records:
                pause, after = _FIRST_PAUSE, records[-1].seq
                yield records
            else:
                await self._scope.runtime.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    @operation
    async def trim(self, stream: str, keep: int) -> int:
        """Keep the last ``keep`` entries; return how many were dropped."""
        if type(keep) is not int or not 0 <= keep < 2**63:
            raise InvalidQuery(f"trim keeps a whole number of entries, not {keep!r}")
        return await self._port.trim(self._key(stream), keep)

    @operation
    async def length(self, stream: str) -> int:
        """Return the number of entries kept."""
        return await self._port.length(self._key(stream))

    @operation
    async def expire(self, stream: str, ttl: TTL | None) -> bool:
        """Give the whole stream a new time to live (None: for ever); False if it does not exist."""
        return await self._port.expire(self._key(stream), ttl_to_ms(ttl))

    @operation
    async def drop(self, stream: str) -> bool:
        """Delete a stream; True if it existed."""
        return await self._port.drop(self._key(stream))

    @stream
    async def streams(self, prefix: str = "", *, page: int = 500) -> AsyncGenerator[list[str], None]:
        """Iterate the names of the streams that begin with ``prefix``."""
        start, after = self._prefix + escape(prefix), None
        while True:
            names, after = await self._port.streams(start, after, _count(page))
            yield [unescape(name[len(self._prefix) :]) for name in names]
            if after is None:
                return

    def _key(self, stream: str) -> str:
        return self._prefix + escape(stream)


class BlockingLog(Blocking, Log):
    """Streams of values, synchronous. ``storage.sync.events.append("orders", {...})``."""


class DetectingLog(Detecting, Log):
    """Streams of values whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: Log, sync: BlockingLog) -> None:
        super().__init__(aio._scope, aio._room)
        self._aio, self._sync = aio, sync


def _entry(value: Any, max_bytes: int) -> bytes:
    stored = encode(value, max_bytes)
    return b"i%d" % stored if isinstance(stored, int) else stored


def _value(data: bytes) -> Any:
    if data[:1] != b"i":
        return decode(data)
    try:
        return int(data[1:])
    except ValueError:
        raise Corrupted("a log entry is not what was written") from None


def _records(events: Iterable[Event]) -> list[Record]:
    return [Record(seq, _value(data)) for seq, data in events]


def _place(after: int) -> int:
    if type(after) is not int or not 0 <= after < 2**63:
        raise InvalidQuery(f"a place is a whole number that append or a record gave, or 0, not {after!r}")
    return after


def _count(count: int) -> int:
    if type(count) is not int or not 1 <= count <= _MOST:
        raise InvalidQuery(f"a count is 1 to {_MOST:,}, not {count!r}")
    return count
