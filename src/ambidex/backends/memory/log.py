"""Append-only streams on lists; the reference for every other ``LogPort``.

The invariant: places are given out in order and never twice while the stream exists, also when its entries were
trimmed or have expired.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from ambidex.backends.memory.data import Data, Stream, Tables, expired, expiry
from ambidex.core.ports import Event

__all__ = ["MemoryLog"]


class MemoryLog:
    """Implements :class:`ambidex.core.ports.LogPort`."""

    def __init__(self, data: Data) -> None:
        self._data = data

    async def append(self, stream: str, entries: Sequence[bytes], ttl_ms: int | None) -> list[int]:
        with self._data.tables(write=True) as tables:
            log = _live(tables, stream)
            if log is None:
                log = tables.streams.setdefault(stream, Stream())
                log.expires = None
            events = [Event(log.seq + place, data) for place, data in enumerate(entries, 1)]
            log.events.extend(events)
            log.seq += len(events)
            if ttl_ms is not None:
                log.expires = expiry(ttl_ms)
            return [event.seq for event in events]

    async def tail(self, stream: str, count: int) -> list[Event]:
        with self._data.tables() as tables:
            log = _live(tables, stream)
            return log.events[-count:] if log is not None and count > 0 else []

    async def range(self, stream: str, after: int, limit: int) -> list[Event]:
        with self._data.tables() as tables:
            log = _live(tables, stream)
            if log is None or not log.events:
                return []
            start = max(0, after - log.events[0].seq + 1)
            return log.events[start : start + limit]

    async def trim(self, stream: str, keep: int) -> int:
        with self._data.tables(write=True) as tables:
            log = _live(tables, stream)
            dropped = 0 if log is None else max(0, len(log.events) - keep)
            if log is not None:
                del log.events[:dropped]
            return dropped

    async def trim_before(self, stream: str, place: int) -> int:
        with self._data.tables(write=True) as tables:
            log = _live(tables, stream)
            dead = max(0, place - log.events[0].seq) if log is not None and log.events else 0
            if log is not None:
                dead = min(dead, len(log.events))
                del log.events[:dead]
            return dead

    async def length(self, stream: str) -> int:
        with self._data.tables() as tables:
            log = _live(tables, stream)
            return 0 if log is None else len(log.events)

    async def expire(self, stream: str, ttl_ms: int | None) -> bool:
        with self._data.tables(write=True) as tables:
            log = _live(tables, stream)
            if log is None:
                return False
            log.expires = expiry(ttl_ms)
            return True

    async def drop(self, stream: str) -> bool:
        with self._data.tables(write=True) as tables:
            existed = _live(tables, stream) is not None
            tables.streams.pop(stream, None)
            return existed

    async def streams(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        with self._data.tables() as tables:
            start = after or ""
            names = heapq.nsmallest(
                limit + 1,
                (
                    name
                    for name, log in tables.streams.items()
                    if name.startswith(prefix) and name > start and not expired(log.expires)
                ),
            )
        return names[:limit], names[limit - 1] if len(names) > limit else None


def _live(tables: Tables, stream: str) -> Stream | None:
    """Return the stream; one that has expired loses its entries but keeps its place, so that no place repeats."""
    log = tables.streams.get(stream)
    if log is None or not expired(log.expires):
        return log
    log.events.clear()
    return None
