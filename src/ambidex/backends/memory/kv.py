"""Key-value on dictionaries; the reference for every other ``KeyValuePort``.

The invariant: an expired entry is absent for every method. It is removed when it is met, and a few more are looked for
at each write.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import islice
from time import monotonic

from ambidex.backends.memory.data import Data, Tables, Value, expired, expiry, first_version
from ambidex.core.codec import Stored
from ambidex.core.ports import Entry, Put, When
from ambidex.errors import UnsupportedValue

__all__ = ["MemoryKeyValue"]

_LOOKED_AT = 4
"""Keys checked for expiry at each write: bounded, yet faster than keys can be added."""


class MemoryKeyValue:
    """Implements :class:`ambidex.core.ports.KeyValuePort`."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._expiring: list[tuple[float, str]] = []

    async def get(self, key: str) -> Stored | None:
        with self._data.tables() as tables:
            value = _live(tables, key)
            return None if value is None else value.stored

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        with self._data.tables() as tables:
            return [None if (value := _live(tables, key)) is None else value.stored for key in keys]

    async def entry(self, key: str) -> Entry | None:
        with self._data.tables() as tables:
            value = _live(tables, key)
            if value is None:
                return None
            left = None if value.expires is None else max(1, round((value.expires - monotonic()) * 1000))
            return Entry(value.stored, value.version, left)

    async def put(self, key: str, value: Stored, ttl_ms: int | None, when: When) -> bool:
        with self._data.tables(write=True) as tables:
            present = _live(tables, key) is not None
            if (when is When.ABSENT and present) or (when is When.PRESENT and not present):
                return False
            self._write(tables, key, value, ttl_ms)
            return True

    async def put_many(self, items: Sequence[Put], ttl_ms: int | None) -> None:
        with self._data.tables(write=True) as tables:
            for key, value in items:
                self._write(tables, key, value, ttl_ms)

    async def add_many(self, items: Sequence[Put], ttl_ms: int | None) -> list[bool]:
        with self._data.tables(write=True) as tables:
            absent = [_live(tables, key) is None for key, _ in items]
            for (key, value), free in zip(items, absent, strict=True):
                if free:
                    self._write(tables, key, value, ttl_ms)
            return absent

    async def swap(self, key: str, value: Stored, version: int, ttl_ms: int | None) -> int | None:
        with self._data.tables(write=True) as tables:
            have = _live(tables, key)
            if (0 if have is None else have.version) != version:
                return None
            return self._write(tables, key, value, ttl_ms)

    async def delete_many(self, keys: Sequence[str]) -> int:
        with self._data.tables(write=True) as tables:
            return sum(_live(tables, key) is not None and tables.values.pop(key, None) is not None for key in keys)

    async def touch(self, key: str, ttl_ms: int | None) -> bool:
        with self._data.tables(write=True) as tables:
            value = _live(tables, key)
            if value is None:
                return False
            tables.values[key] = value = value._replace(expires=expiry(ttl_ms))
            self._note(key, value.expires)
            return True

    async def incr(self, key: str, by: int, ttl_ms: int | None) -> int:
        with self._data.tables(write=True) as tables:
            value = _live(tables, key)
            if value is None:
                self._write(tables, key, by, ttl_ms)
                return by
            if not isinstance(value.stored, int):
                raise UnsupportedValue("incr needs an integer, the stored value is something else")
            total = value.stored + by
            if not -(2**63) <= total < 2**63:
                raise UnsupportedValue("incr would leave the range of 64-bit integers; the value is unchanged")
            tables.values[key] = value._replace(stored=total, version=value.version + 1)
            return total

    async def scan(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        with self._data.tables() as tables:
            start = after or ""
            keys = heapq.nsmallest(
                limit + 1,
                (
                    key
                    for key, v in tables.values.items()
                    if key.startswith(prefix) and key > start and not expired(v.expires)
                ),
            )
        return keys[:limit], keys[limit - 1] if len(keys) > limit else None

    def _write(self, tables: Tables, key: str, stored: Stored, ttl_ms: int | None) -> int:
        have = tables.values.get(key)
        value = Value(stored, first_version() if have is None else have.version + 1, expiry(ttl_ms))
        tables.values[key] = value
        self._note(key, value.expires)
        self._reclaim(tables)
        return value.version

    def _note(self, key: str, expires: float | None) -> None:
        if expires is not None:
            heapq.heappush(self._expiring, (expires, key))

    def _reclaim(self, tables: Tables) -> None:
        for _ in islice(range(_LOOKED_AT), len(self._expiring)):
            if not expired(self._expiring[0][0]):
                return
            _live(tables, heapq.heappop(self._expiring)[1])


def _live(tables: Tables, key: str) -> Value | None:
    """Return the entry, or None after removing it if it has expired."""
    value = tables.values.get(key)
    if value is not None and expired(value.expires):
        del tables.values[key]
        return None
    return value
