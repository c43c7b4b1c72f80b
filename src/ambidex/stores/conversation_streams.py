"""How a conversation lies in its stream: marks, the head, segments, the previous one; ``conversations`` uses it.

A conversation is one stream. A save and a reset append a mark and the new messages in one atomic step, and what stands
behind the last mark is the conversation; so every append lands before or after a save, whole, and none is lost. A small
record (the head) says where to look for the mark, which keeps the cost of a window independent of the length. The
invariant: the head is only a hint. It is written before the mark, never points behind it, and where it points at no
mark the stream is read instead.
"""

from __future__ import annotations

from typing import NamedTuple

from ambidex.core.clock import millis
from ambidex.core.codec import Stored, decode, encode
from ambidex.core.messages import Message
from ambidex.core.ports import Event, When
from ambidex.core.runtime import partly_applied
from ambidex.stores.scope import Scope

__all__ = ["Entry", "Head", "Streams", "unpack"]

_PAGE = 500
_GARBAGE = 1_024
_HEAD_OUTLIVES_MS = 60_000


class Entry(NamedTuple):
    """One entry of the stream: a message, or a mark (``message`` is None)."""

    seq: int
    message: Message | None
    at: int
    """Milliseconds since 1970, by the writer's clock."""
    swaps: bool = False
    """Of a mark: the previous conversation follows it, so what it ended becomes the previous one, even if empty."""


class Head(NamedTuple):
    """Where to look: the mark is the first one behind ``after``; while it is being written, the one behind ``before``.

    ``archive`` says what is still to be copied to the previous conversation: what stands between its second place and
    the first mark behind its first one.
    """

    after: int = 0
    before: int = 0
    archive: tuple[int, int] | None = None
    version: int = 0
    ttl_ms: int | None = None

    def stored(self) -> Stored:
        """Return the form in which it is kept."""
        return encode({"after": self.after, "before": self.before, "archive": self.archive and list(self.archive)})


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

    def pack(self, message: Message | None, at: int, swaps: bool = False) -> bytes:
        """Return what is kept of a message, or of a mark (None)."""
        stored = encode({"m": message, "t": at} | ({"s": True} if swaps else {}), self.max_bytes)
        assert isinstance(stored, bytes)  # noqa: S101  # the codec makes integers of integers only
        return stored

    async def replace(
        self, name: str, messages: list[Message], ttl: int | None, *, archive: bool = False, swaps: bool = False
    ) -> None:
        """Append a mark and the messages; see the module for why this order of writes is safe.

        Args:
            name: of the conversation.
            messages: what it is to be.
            ttl: its time to live in milliseconds; None: for ever, or as before with ``archive``.
            archive: whether what it held becomes the previous conversation, if it is not empty.
            swaps: whether it does even if it is empty, because the messages are the previous conversation.
        """
        head = await self.head(name)
        await self.finish(name, head)
        at, last = millis(), await self.log.tail(self.now + name, 1)
        entries = [self.pack(None, at, swaps), *(self.pack(message, at) for message in messages)]
        after = last[-1].seq if last else 0
        before = await self._known(name, head)
        keep = head.ttl_ms if ttl is None and archive else ttl
        meanwhile = head.ttl_ms if head.version and _is_longer(head.ttl_ms, keep) else keep
        await self._advance(name, Head(after, before, (after, before) if archive else None), meanwhile, anew=not last)
        first = (await self.log.append(self.now + name, entries, ttl))[0]
        with partly_applied():
            if ttl is None and not archive:
                await self.log.expire(self.now + name, None)
            if first != after + 1:  # somebody else appended meanwhile
                await self._advance(name, Head(first - 1, before, (first - 1, before) if archive else None), keep)
            if archive:
                await self.finish(name, await self.head(name))
            if last and await self._is_much(self.now + name, len(entries)):
                await self.finish(name, await self.head(name))  # a reset may still want what is dropped
                await self.log.trim_before(self.now + name, first)
            await self.kv.touch(self.meta + name, _longer(keep))
            if meanwhile != keep:
                await self.kv.touch(self.heads + name, _longer(keep))

    async def _advance(self, name: str, head: Head, ttl: int | None, *, anew: bool = False) -> None:
        """Write the head unless another writer's points further already; what others want copied stays noted."""
        if anew:
            await self.kv.put(self.heads + name, head.stored(), _longer(ttl), When.ALWAYS)
            return
        while True:
            have, wanted = await self.head(name), head
            if have.version and have.after > head.after:
                if head.archive is None:
                    return
                wanted = have._replace(archive=head.archive)
            if have.archive is not None and have.archive != head.archive:
                if await self.finish(name, have):
                    continue
                # Its mark is still to come, or its writer was killed; whichever mark comes first ends what is copied.
                wanted = wanted._replace(archive=have.archive)
            if await self.kv.swap(self.heads + name, wanted.stored(), have.version, _longer(ttl)) is not None:
                return

    async def head(self, name: str) -> Head:
        """Return where to look for the mark, as far as is known."""
        entry = await self.kv.entry(self.heads + name)
        if entry is None:
            return Head()
        kept, ttl = decode(entry.value), entry.ttl_ms
        archive = kept["archive"]
        return Head(
            kept["after"],
            kept["before"],
            tuple(archive) if archive else None,
            entry.version,
            None if ttl is None else max(1, ttl - _HEAD_OUTLIVES_MS),
        )

    async def forget(self, name: str) -> bool:
        """Delete the messages, then the head unless somebody has begun anew; False where there was nothing.

        The stream ends as one whose time has passed, so that no place comes back: whoever saves at this moment, and
        read places before, writes a head that is right for what he appends.
        """
        head = await self.head(name)
        await self.log.trim(self.now + name, 0)
        with partly_applied():
            existed = await self.log.expire(self.now + name, 0)
            if head.version:
                await self.kv.swap(self.heads + name, Head().stored(), head.version, 1)
        return existed

    async def outlive(self, name: str, ttl: int | None) -> None:
        """Make sure that the head is there as long as messages that are about to get this time to live.

        Without it, what stands before the mark would be taken for the conversation's beginning.
        """
        head = await self.head(name)
        if head.version and _is_longer(ttl, head.ttl_ms):
            await self.kv.touch(self.heads + name, _longer(ttl))

    async def touch(self, name: str, ttl: int | None) -> None:
        """Give what belongs to a conversation, beside its messages, a new time to live."""
        for key in (self.heads + name, self.meta + name):
            await self.kv.touch(key, _longer(ttl))
        await self.log.expire(self.previous + name, ttl)

    async def _is_much(self, key: str, count: int) -> bool:
        """Tell whether what stands before the last ``count`` entries should be dropped."""
        return await self.log.length(key) >= count + max(_GARBAGE, count)

    async def finish(self, name: str, head: Head) -> bool:
        """Copy to the previous conversation what a head says is to be copied; False if its mark is not there yet."""
        if head.archive is None:
            return True
        ended = await self._before_mark(self.now + name, *head.archive)
        if ended is None:
            return False
        frozen, mark = ended
        if frozen or mark.swaps:
            at = millis()
            entries = [self.pack(None, at), *(self.pack(entry.message, entry.at) for entry in frozen)]
            first = (await self.log.append(self.previous + name, entries, head.ttl_ms))[0]
            if await self._is_much(self.previous + name, len(entries)):
                await self.log.trim_before(self.previous + name, first)
        done = head._replace(archive=None).stored()
        await self.kv.swap(self.heads + name, done, head.version, _longer(head.ttl_ms))
        return True

    async def segment(self, key: str, after: int = 0) -> list[Entry]:
        """Return the messages behind the last mark; it and what stands before are looked for behind a place."""
        found: list[Entry] = []
        while events := await self.log.range(key, after, _PAGE):
            for entry in map(unpack, events):
                if entry.message is None:
                    found.clear()
                else:
                    found.append(entry)
            after = events[-1].seq
        return found

    async def _before_mark(self, key: str, place: int, after: int) -> tuple[list[Entry], Entry] | None:
        """Return the messages that the first mark behind a place has ended, read from ``after`` on, and the mark."""
        found: list[Entry] = []
        while events := await self.log.range(key, after, _PAGE):
            for entry in map(unpack, events):
                if entry.message is not None:
                    found.append(entry)
                elif entry.seq > place:
                    return found, entry
                else:
                    found.clear()
            after = events[-1].seq
        return None

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


def _is_longer(one: int | None, other: int | None) -> bool:
    """Tell whether a time to live is longer than another; None is for ever."""
    return other is not None and (one is None or one > other)


def unpack(event: Event) -> Entry:
    """Return what :meth:`Streams.pack` made, with its place."""
    value = decode(event.data)
    return Entry(event.seq, value["m"], value["t"], "s" in value)
