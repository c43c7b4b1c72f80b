"""How a conversation lies in its stream: marks, the head, segments, the previous one; ``conversations`` uses it.

A conversation is one stream. A save and a reset append a mark and the new messages in one atomic step, and what stands
behind the last mark is the conversation; so every append lands before or after a save, whole, and none is lost. A small
record (the head) says where to look for the mark, which keeps the cost of a window independent of the length. The
invariant: the head is only a hint. It is written before the mark, never points behind it, and where it points at no
mark the stream is read instead.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from ambidex.core.codec import decode, encode
from ambidex.core.messages import Message
from ambidex.core.ports import Capability, Event, When
from ambidex.core.runtime import partly_applied
from ambidex.errors import CapabilityMissing, Conflict
from ambidex.stores.scope import Scope

__all__ = ["Entry", "Head", "Streams", "millis", "unpack"]

_PAGE = 500
_GARBAGE = 1_024
_HEAD_OUTLIVES_MS = 60_000


class Entry(NamedTuple):
    """One entry of the stream: a message, or a mark (``message`` is None)."""

    seq: int
    message: Message | None
    at: int
    """Milliseconds since 1970, by the writer's clock."""


class Head(NamedTuple):
    """Where to look: the mark is the first one behind ``after``; while it is being written, the one behind ``before``.

    ``archive`` is true until what stood before the mark was copied to the previous conversation.
    """

    after: int = 0
    before: int = 0
    archive: bool = False
    version: int = 0
    ttl_ms: int | None = None


class Streams:
    """The conversations of one scope, by their escaped names: their messages, heads and metadata.

    Args:
        kv: where the heads and the metadata are kept.
        log: where the messages are kept.
    """

    def __init__(self, kv: Scope, log: Scope) -> None:
        self.kv, self.log, self.max_bytes = kv.leaf.kv, log.leaf.log, log.max_bytes
        self.heads, self.meta = kv.prefix("chat", "head"), kv.prefix("chat", "meta")
        self.now, self.previous = log.prefix("chat", "now"), log.prefix("chat", "previous")
        self._unit = log.leaf.transaction if Capability.TRANSACTIONS in log.capabilities else None

    def pack(self, message: Message | None, at: int) -> bytes:
        """Return what is kept of a message, or of a mark (None)."""
        stored = encode({"m": message, "t": at}, self.max_bytes)
        assert isinstance(stored, bytes)  # noqa: S101  # the codec makes integers of integers only
        return stored

    async def replace(self, name: str, messages: list[Message], ttl: int | None, *, archive: bool = False) -> None:
        """Append a mark and the messages; see the module for why this order of writes is safe."""
        head = await self.head(name)
        await self.finish(name, head)
        at, last = millis(), await self.log.tail(self.now + name, 1)
        entries = [self.pack(None, at), *(self.pack(message, at) for message in messages)]
        after = last[-1].seq if last else 0
        before = await self._known(name, head)
        keep = head.ttl_ms if ttl is None and archive else ttl
        await self._advance(name, Head(after, before, archive), keep, anew=not last)
        first = (await self.log.append(self.now + name, entries, ttl))[0]
        with partly_applied():
            if ttl is None and not archive:
                await self.log.expire(self.now + name, None)
            if first != after + 1:  # somebody else appended meanwhile
                await self._advance(name, Head(first - 1, before, archive), keep)
            if archive:
                await self.finish(name, await self.head(name))
            if last:
                await self._trim(self.now + name, first, len(entries))
            await self.kv.touch(self.meta + name, _longer(keep))

    async def _advance(self, name: str, head: Head, ttl: int | None, *, anew: bool = False) -> None:
        """Write the head unless another writer's points further already."""
        stored = encode({"after": head.after, "before": head.before, "archive": head.archive})
        if anew:
            await self.kv.put(self.heads + name, stored, _longer(ttl), When.ALWAYS)
            return
        while True:
            have = await self.head(name)
            if have.version and have.after > head.after:
                return
            if await self.kv.swap(self.heads + name, stored, have.version, _longer(ttl)) is not None:
                return

    async def head(self, name: str) -> Head:
        """Return where to look for the mark, as far as is known."""
        entry = await self.kv.entry(self.heads + name)
        if entry is None:
            return Head()
        ttl = None if entry.ttl_ms is None else max(1, entry.ttl_ms - _HEAD_OUTLIVES_MS)
        return Head(**decode(entry.value), version=entry.version, ttl_ms=ttl)

    async def touch(self, name: str, ttl: int | None) -> None:
        """Give what belongs to a conversation, beside its messages, a new time to live."""
        for key in (self.heads + name, self.meta + name):
            await self.kv.touch(key, _longer(ttl))
        await self.log.expire(self.previous + name, ttl)

    async def _trim(self, key: str, mark: int, count: int) -> None:
        """Drop what stands before the mark, once it is much.

        Trimming counts from the end, so what others append meanwhile must be counted in: a transaction keeps them
        out; without one, as many entries as could come in between are kept beside.
        """
        if await self.log.length(key) < count + max(_GARBAGE, count):
            return
        try:
            if self._unit is not None:
                async with self._unit():
                    await self._drop_before(key, mark, 0)
                return
        except (Conflict, CapabilityMissing):
            return  # the next save tries again
        await self._drop_before(key, mark, _GARBAGE)

    async def _drop_before(self, key: str, mark: int, beside: int) -> None:
        last = await self.log.tail(key, 1)
        if last:
            await self.log.trim(key, last[-1].seq - mark + 1 + beside)

    async def finish(self, name: str, head: Head) -> None:
        """Copy what stood before the mark to the previous conversation, if that has not been done yet."""
        if not head.archive:
            return
        frozen = await self.segment(self.now + name, head.before, before_mark_behind=head.after)
        if frozen:
            at = millis()
            entries = [self.pack(None, at), *(self.pack(entry.message, entry.at) for entry in frozen)]
            first = (await self.log.append(self.previous + name, entries, head.ttl_ms))[0]
            await self._trim(self.previous + name, first, len(entries))
        done = encode({"after": head.after, "before": head.before, "archive": False})
        await self.kv.swap(self.heads + name, done, head.version, _longer(head.ttl_ms))

    async def segment(self, key: str, after: int = 0, *, before_mark_behind: int | None = None) -> list[Entry]:
        """Return the messages behind the last mark; or those before the first mark behind a place, if there is one."""
        found: list[Entry] = []
        while events := await self.log.range(key, after, _PAGE):
            for entry in map(unpack, events):
                if entry.message is not None:
                    found.append(entry)
                elif before_mark_behind is not None and entry.seq > before_mark_behind:
                    return found
                else:
                    found = []
            after = events[-1].seq
        return found if before_mark_behind is None else []

    async def current(self, name: str) -> list[Entry]:
        """Return the messages of a conversation, oldest first; it is read whole."""
        return await self.segment(self.now + name, await self._known(name, await self.head(name)))

    async def _known(self, name: str, head: Head) -> int:
        """Return the place behind which the mark is for certain (if there is any)."""
        if head.after > head.before:
            behind = await self.log.range(self.now + name, head.after, 1)
            if not behind or unpack(behind[0]).message is not None:
                return head.before
        return head.after


def _longer(ttl: int | None) -> int | None:
    """Return the time to live of what must not be gone before the messages are."""
    return None if ttl is None else ttl + _HEAD_OUTLIVES_MS


def millis() -> int:
    """Return the time by this process's clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def unpack(event: Event) -> Entry:
    """Return what :meth:`Streams.pack` made, with its place."""
    value = decode(event.data)
    return Entry(event.seq, value["m"], value["t"])
