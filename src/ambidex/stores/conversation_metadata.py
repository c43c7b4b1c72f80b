"""What is known about a conversation beside its messages: metadata and counts; ``conversations`` asks.

The invariant: metadata is only ever changed by compare-and-set, so of two that change it at once neither loses what the
other wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ambidex.core.codec import decode, encode
from ambidex.core.messages import Count, counted_text, text_of
from ambidex.stores.conversation_streams import Streams

__all__ = ["merge_metadata", "read_metadata", "statistics"]


async def merge_metadata(streams: Streams, name: str, values: Mapping[str, Any]) -> None:
    """Add to what is known of a conversation; a value of None removes an entry."""
    while True:
        entry = await streams.kv.entry(streams.meta + name)
        ttl = (await streams.head(name)).ttl_ms
        have = {} if entry is None else decode(entry.value)
        merged = {key: value for key, value in {**have, **values}.items() if value is not None}
        stored = encode(merged, streams.max_bytes)
        if await streams.kv.swap(streams.meta + name, stored, 0 if entry is None else entry.version, ttl) is not None:
            return


async def read_metadata(streams: Streams, name: str) -> dict[str, Any]:
    """Return what :func:`merge_metadata` has kept; empty where there is nothing."""
    stored = await streams.kv.get(streams.meta + name)
    return {} if stored is None else dict(decode(stored))


async def statistics(streams: Streams, name: str, count: Count) -> dict[str, Any] | None:
    """Count the messages of a conversation, their roles, characters and tokens; None where there is none."""
    entries = await streams.current(name)
    if not entries and not await streams.log.tail(streams.now + name, 1):
        return None
    messages = [entry.message for entry in entries if entry.message is not None]
    return {
        "messages": len(messages),
        "by_role": dict(Counter(message["role"] for message in messages)),
        "characters": sum(len(text_of(message)) for message in messages),
        "tokens": sum([await count(counted_text(message)) for message in messages]),
        "first_at": _moment(entries[0].at) if entries else None,
        "last_at": _moment(entries[-1].at) if entries else None,
    }


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)
