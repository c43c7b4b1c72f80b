"""Append-only streams on Redis Streams; both leaves make one over their client.

An entry's id is ``place-0``, the places coming from a counter beside the stream, in the same slot. The counter
outlives an expired stream by a year, so no place repeats. The invariant: counter and stream change in one script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ambidex.backends.redis.client import Client
from ambidex.backends.redis.kv import OPERATION_MS
from ambidex.backends.redis.scan import scan
from ambidex.backends.redis.scripts import APPEND, DROP, EXPIRE, PERSIST, TRIM_BEFORE
from ambidex.backends.redis.wire import Word, pack
from ambidex.core.ports import Event
from ambidex.core.runtime import current_operation

__all__ = ["RedisLog"]

_OUTLIVES_MS: Final = 365 * 86_400_000


class RedisLog:
    """Implements :class:`ambidex.core.ports.LogPort`."""

    deduplicated = frozenset({"append"})
    """The writes that keep the name of their operation with the effect."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.target.prefix + "l:"

    async def append(self, stream: str, entries: Sequence[bytes], ttl_ms: int | None) -> list[int]:
        return await self.append_once(current_operation(), OPERATION_MS, stream, entries, ttl_ms)

    def key(self, stream: str) -> str:
        """Return a stream's name on the server."""
        return self._prefix + stream

    async def append_once(
        self, operation: str | None, keep_ms: int, stream: str, entries: Sequence[bytes], ttl_ms: int | None
    ) -> list[int]:
        """Append, unless the operation of this name has; its name is kept for ``keep_ms``."""
        if not entries:
            return []
        keys = self._keys(stream)
        if operation is not None:
            keys.append(f"{{{keys[0]}}}op:{operation}")
        ends: tuple[Word, Word] = ("", "") if ttl_ms is None else (ttl_ms, ttl_ms + _OUTLIVES_MS)
        last = await self._client.script(APPEND, keys, (*ends, keep_ms, *entries))
        return list(range(last - len(entries) + 1, last + 1))

    async def tail(self, stream: str, count: int) -> list[Event]:
        if count <= 0:
            return []
        return _events(await self._read(stream, "XREVRANGE", "+", "-", "COUNT", count))[::-1]

    async def range(self, stream: str, after: int, limit: int) -> list[Event]:
        if limit <= 0:
            return []
        return _events(await self._read(stream, "XRANGE", f"{max(after, 0) + 1}-0", "+", "COUNT", limit))

    async def length(self, stream: str) -> int:
        return int(await self._read(stream, "XLEN"))

    async def trim(self, stream: str, keep: int) -> int:
        key = self._prefix + stream
        return int(await self._client.one(pack("XTRIM", key, "MAXLEN", "=", keep), key, write=True))

    async def trim_before(self, stream: str, place: int) -> int:
        return int(await self._client.script(TRIM_BEFORE, [self._prefix + stream], (place,)))

    async def expire(self, stream: str, ttl_ms: int | None) -> bool:
        if ttl_ms is None:
            return bool(await self._client.script(PERSIST, self._keys(stream), ()))
        return bool(await self._client.script(EXPIRE, self._keys(stream), (ttl_ms, ttl_ms + _OUTLIVES_MS)))

    async def drop(self, stream: str) -> bool:
        return bool(await self._client.script(DROP, self._keys(stream), ()))

    async def streams(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        return await scan(self._client, self._prefix, prefix, after, limit)

    def _keys(self, stream: str) -> list[str]:
        """Return the stream and its counter: the braces put both into one slot."""
        key = self._prefix + stream
        return [key, f"{{{key}}}seq"]

    async def _read(self, stream: str, command: str, *words: Word) -> Any:
        key = self._prefix + stream
        return await self._client.one(pack(command, key, *words), key)


def _events(reply: Any) -> list[Event]:
    return [Event(int(place.partition(b"-")[0]), fields[1]) for place, fields in reply]
