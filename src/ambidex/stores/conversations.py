"""Chats: messages appended by many writers, read by a sliding window; ``storage.conversations`` is one.

A conversation is one stream. ``save`` and ``reset`` append a mark and the new messages in one atomic step, and what
stands behind the last mark is the conversation; so every append lands before or after a save, whole, and none is lost.
A small record (the head) says where to look for the mark, which keeps the cost of a window independent of the length.
The invariant: the head is only a hint. It is written before the mark, never points behind it, and where it points at
no mark the stream is read instead.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import uuid4

from ambidex.core.codec import decode, encode
from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.keys import escape, unescape
from ambidex.core.messages import (
    Message,
    Tokeniser,
    check_messages,
    estimate_tokens,
    leading_system,
    newest_within,
    text_of,
)
from ambidex.core.ports import Capability, Event, IndexItem, When
from ambidex.core.runtime import one_deadline, partly_applied
from ambidex.errors import CapabilityMissing, Conflict, InvalidKey, InvalidQuery, NotFound
from ambidex.stores.kv import ttl_to_ms
from ambidex.stores.scope import Scope
from ambidex.stores.search import Index

__all__ = ["BlockingConversations", "Conversations", "DetectingConversations"]

_log = logging.getLogger("ambidex")

_LAST = 20
_MOST = 10_000
_PAGE = 500
_LEAD = 5  # a mark and up to four system messages: one read finds the usual beginning
_GARBAGE = 1_024
_HEAD_OUTLIVES_MS = 60_000
_INDEXED_CHARACTERS = 1_000


class _Entry(NamedTuple):
    """One entry of the stream: a message, or a mark (``message`` is None)."""

    seq: int
    message: Message | None
    at: int
    """Milliseconds since 1970, by the writer's clock."""


class _Head(NamedTuple):
    """Where to look: the mark is the first one behind ``after``; while it is being written, the one behind ``before``.

    ``archive`` is true until what stood before the mark was copied to the previous conversation.
    """

    after: int = 0
    before: int = 0
    archive: bool = False
    version: int = 0
    ttl_ms: int | None = None


class Conversations(Store):
    """Conversations, asynchronous. ``await storage.aio.conversations.append("chat-1", {...})``.

    Args:
        kv: where the heads and the metadata are kept.
        log: where the messages are kept.
        search: where the last answers are indexed; None: nowhere.
        count_tokens: says how many tokens a text takes; the default is a quarter of its characters.
    """

    def __init__(
        self, kv: Scope, log: Scope, search: Scope | None = None, count_tokens: Tokeniser | None = None
    ) -> None:
        self._scopes = kv, log, search
        self._count_tokens = count_tokens or estimate_tokens
        self._kv, self._log = kv.leaf.kv, log.leaf.log
        self._runtime, self._max, self._timeout = log.runtime, log.max_bytes, log.timeout
        self._heads, self._meta = kv.prefix("chat", "head"), kv.prefix("chat", "meta")
        self._now, self._previous = log.prefix("chat", "now"), log.prefix("chat", "previous")
        self._unit = log.leaf.transaction if Capability.TRANSACTIONS in log.capabilities else None
        self._index = None if search is None else Index(search)

    def __repr__(self) -> str:
        tenant = self._scopes[0].tenant
        return f"{type(self).__name__}({f'tenant={tenant!r}' if tenant else ''})"

    def with_tokeniser(self, count_tokens: Tokeniser) -> Self:
        """Return the same conversations with another way to count tokens."""
        return self._derive(*self._scopes, count_tokens)

    def _check_at_once(self, what: str) -> None:
        """Refuse, inside a unit of another backend, what reads places and heads to know what it writes."""
        kv, log, _ = self._scopes
        hint = "An append without ttl_hours can wait for the commit."
        kv.check_at_once("kv", f"conversations.{what}", hint)
        log.check_at_once("log", f"conversations.{what}", hint)

    # ---------------------------------------------------------------- writing

    @operation
    @one_deadline
    async def save(
        self, chat_id: str, messages: Iterable[Mapping[str, Any]], ttl_hours: float | None = 24, *, index: bool = True
    ) -> None:
        """Make these messages the conversation, in place of what it held.

        The last message, if it is an assistant's and not the only one, is indexed for search; a failure of that only
        warns.

        Args:
            chat_id: any text without NUL.
            messages: dictionaries with ``role`` and ``content``; other keys are kept.
            ttl_hours: hours until the conversation is gone; None: it stays.
            index: whether to index the last answer.

        Raises:
            UnsupportedValue: a message cannot be kept; nothing was stored.
        """
        name, checked = _name(chat_id), check_messages(messages)
        self._check_at_once("save")
        await self._replace(name, checked, _hours(ttl_hours))
        if index:
            await self._index_last(chat_id, checked)

    @operation
    @one_deadline
    async def append(self, chat_id: str, *messages: Mapping[str, Any], ttl_hours: float | None = None) -> int:
        """Add messages at the end in one atomic step; nothing is lost, however many append at once.

        Args:
            chat_id: the conversation; it is made by the first append.
            *messages: dictionaries with ``role`` and ``content``; they stay together.
            ttl_hours: a new time to live for the whole conversation; None leaves it as it is.

        Returns:
            The place of the last message: a number that grows within the conversation; 0 where it is not known before
            the commit of a transaction on another backend.
        """
        name, checked, ttl = _name(chat_id), check_messages(messages), _hours(ttl_hours)
        if not checked:
            raise InvalidQuery("append needs at least one message")
        if ttl is not None:
            self._check_at_once("append with ttl_hours")
        now = _millis()
        seqs = await self._log.append(self._now + name, [self._pack(message, now) for message in checked], ttl)
        if ttl is not None:
            with partly_applied():
                await self._touch(name, ttl)
        return seqs[-1]

    @operation
    @one_deadline
    async def extend(self, chat_id: str, ttl_hours: float | None = 24) -> bool:
        """Give a conversation a new time to live from now (None: for ever); False if it does not exist."""
        name, ttl = _name(chat_id), _hours(ttl_hours)
        self._check_at_once("extend")
        if not await self._log.expire(self._now + name, ttl):
            return False
        with partly_applied():
            await self._touch(name, ttl)
        return True

    @operation
    @one_deadline
    async def delete(self, chat_id: str) -> bool:
        """Delete a conversation with its metadata and its previous one; True if it existed."""
        name = _name(chat_id)
        self._check_at_once("delete")
        await self._kv.delete_many([self._heads + name, self._meta + name])
        with partly_applied():
            await self._log.drop(self._previous + name)
            return await self._log.drop(self._now + name)

    @operation
    @one_deadline
    async def reset(self, chat_id: str) -> bool:
        """Begin anew with an empty conversation; what it held is kept as the previous one.

        Returns:
            True if there was anything to put away.
        """
        name = _name(chat_id)
        self._check_at_once("reset")
        if not await self._log.tail(self._now + name, 1):
            return False
        await self._replace(name, [], None, archive=True)
        return True

    @operation
    @one_deadline
    async def restore(self, chat_id: str) -> bool:
        """Make the previous conversation the current one, and the current the previous; False if there is none."""
        name = _name(chat_id)
        self._check_at_once("restore")
        await self._finish(name, await self._head(name))
        previous = await self._segment(self._previous + name)
        if not previous:
            return False
        await self._replace(name, [entry.message for entry in previous if entry.message], None, archive=True)
        return True

    @operation
    @one_deadline
    async def fork(
        self, chat_id: str, at: int = -1, new_chat_id: str | None = None, ttl_hours: float | None = 24
    ) -> str:
        """Copy a conversation up to one message into a new one.

        Args:
            chat_id: the conversation to copy.
            at: the place of the last message to copy in ``history``, from 0; negative counts from the end.
            new_chat_id: the name of the copy; None: a random one.
            ttl_hours: the copy's time to live.

        Returns:
            The name of the copy.

        Raises:
            NotFound: there is no such conversation, or no such message in it.
        """
        self._check_at_once("fork")
        messages = await self.history(chat_id)
        if not -len(messages) <= at < len(messages):
            raise NotFound(f"the conversation {chat_id!r} has {len(messages)} messages, none at {at}")
        place = at % len(messages)
        made = new_chat_id if new_chat_id is not None else f"{chat_id}-{uuid4().hex}"
        await self._replace(_name(made), messages[: place + 1], _hours(ttl_hours))
        with partly_applied():
            await self.set_metadata(made, forked_from=chat_id, forked_at=place)
        return made

    # ---------------------------------------------------------------- reading

    @operation
    @one_deadline
    async def get(
        self, chat_id: str, *, last: int = _LAST, tokens: int | None = None, strict: bool = False
    ) -> list[Message] | None:
        """Return the window of a conversation, or None where there is none.

        Args:
            chat_id: the conversation.
            last: see :meth:`window`.
            tokens: see :meth:`window`.
            strict: raise a storage failure; otherwise it is logged and None returned.
        """
        _name(chat_id)
        _check_window(last, tokens)
        try:
            return await self.window(chat_id, last=last, tokens=tokens)
        except Exception as error:
            if strict:
                raise
            _log.error("the conversation %r could not be read: %s", chat_id, error)  # no trace wanted
            return None

    @operation
    @one_deadline
    async def window(self, chat_id: str, *, last: int = _LAST, tokens: int | None = None) -> list[Message] | None:
        """Return the system prompt and the newest messages; the cost does not depend on the conversation's length.

        Args:
            chat_id: the conversation.
            last: how many messages at most, beside the system prompt.
            tokens: how many tokens at most, the system prompt included; the oldest are left out.

        Returns:
            The messages, oldest first; None where there is no such conversation.
        """
        name = _name(chat_id)
        _check_window(last, tokens)
        while True:
            newest, complete = await self._newest(name, last, tokens)
            if newest is None:
                return None
            if complete is not None:
                return self._fit(complete, newest, last, tokens)

    @operation
    @one_deadline
    async def history(self, chat_id: str) -> list[Message]:
        """Return every message, oldest first; empty where there is no such conversation."""
        return [entry.message for entry in await self._current(_name(chat_id)) if entry.message is not None]

    @operation
    async def exists(self, chat_id: str) -> bool:
        """Tell whether there is such a conversation."""
        return bool(await self._log.tail(self._now + _name(chat_id), 1))

    @operation
    @one_deadline
    async def list_active(self, prefix: str = "", limit: int = 1_000) -> list[str]:
        """Return the names of up to ``limit`` conversations that have not expired; see :meth:`active` for all."""
        if type(limit) is not int or not 1 <= limit <= _MOST:
            raise InvalidQuery(f"a limit is 1 to {_MOST:,}, not {limit!r}")
        found, after = await self._log.streams(self._now + escape(prefix), None, limit)
        while after is not None and len(found) < limit:
            more, after = await self._log.streams(self._now + escape(prefix), after, limit - len(found))
            found += more
        return [unescape(name[len(self._now) :]) for name in found[:limit]]

    @stream
    async def active(self, prefix: str = "", *, page: int = _PAGE) -> AsyncGenerator[list[str], None]:
        """Iterate the names of the conversations that have not expired and begin with ``prefix``."""
        after: str | None = None
        while True:
            names, after = await self._log.streams(self._now + escape(prefix), after, page)
            yield [unescape(name[len(self._now) :]) for name in names]
            if after is None:
                return

    # ---------------------------------------------------------------- about a conversation

    @operation
    @one_deadline
    async def set_metadata(self, chat_id: str, /, **values: Any) -> None:
        """Add to what is known of a conversation; a value of None removes an entry."""
        name = _name(chat_id)
        self._scopes[0].check_at_once("kv", "conversations.set_metadata")
        while True:
            entry = await self._kv.entry(self._meta + name)
            ttl = (await self._head(name)).ttl_ms
            have = {} if entry is None else decode(entry.value)
            merged = {key: value for key, value in {**have, **values}.items() if value is not None}
            stored = encode(merged, self._max)
            if await self._kv.swap(self._meta + name, stored, 0 if entry is None else entry.version, ttl) is not None:
                return

    @operation
    async def metadata(self, chat_id: str) -> dict[str, Any]:
        """Return what :meth:`set_metadata` has kept; empty where there is nothing."""
        stored = await self._kv.get(self._meta + _name(chat_id))
        return {} if stored is None else dict(decode(stored))

    @operation
    @one_deadline
    async def statistics(self, chat_id: str) -> dict[str, Any] | None:
        """Count a conversation; it is read whole.

        Returns:
            ``messages``, ``by_role``, ``characters``, ``tokens`` (estimated by the tokeniser), and ``first_at`` and
            ``last_at`` (aware datetimes, or None); None where there is no such conversation.
        """
        name = _name(chat_id)
        entries = await self._current(name)
        if not entries and not await self._log.tail(self._now + name, 1):
            return None
        texts = [text_of(entry.message) for entry in entries if entry.message is not None]
        return {
            "messages": len(texts),
            "by_role": dict(Counter(entry.message["role"] for entry in entries if entry.message is not None)),
            "characters": sum(map(len, texts)),
            "tokens": sum(map(self._count_tokens, texts)),
            "first_at": _moment(entries[0].at) if entries else None,
            "last_at": _moment(entries[-1].at) if entries else None,
        }

    # ---------------------------------------------------------------- inside

    def _pack(self, message: Message | None, at: int) -> bytes:
        stored = encode({"m": message, "t": at}, self._max)
        assert isinstance(stored, bytes)  # noqa: S101  # the codec makes integers of integers only
        return stored

    async def _replace(self, name: str, messages: list[Message], ttl: int | None, *, archive: bool = False) -> None:
        """Append a mark and the messages; see the module for why this order of writes is safe."""
        head = await self._head(name)
        await self._finish(name, head)
        at, last = _millis(), await self._log.tail(self._now + name, 1)
        entries = [self._pack(None, at), *(self._pack(message, at) for message in messages)]
        after = last[-1].seq if last else 0
        before = await self._known(name, head)
        keep = head.ttl_ms if ttl is None and archive else ttl
        await self._advance(name, _Head(after, before, archive), keep, anew=not last)
        first = (await self._log.append(self._now + name, entries, ttl))[0]
        with partly_applied():
            if ttl is None and not archive:
                await self._log.expire(self._now + name, None)
            if first != after + 1:  # somebody else appended meanwhile
                await self._advance(name, _Head(first - 1, before, archive), keep)
            if archive:
                await self._finish(name, await self._head(name))
            if last:
                await self._trim(self._now + name, first, len(entries))
            await self._kv.touch(self._meta + name, _longer(keep))

    async def _advance(self, name: str, head: _Head, ttl: int | None, *, anew: bool = False) -> None:
        """Write the head unless another writer's points further already."""
        stored = encode({"after": head.after, "before": head.before, "archive": head.archive})
        if anew:
            await self._kv.put(self._heads + name, stored, _longer(ttl), When.ALWAYS)
            return
        while True:
            have = await self._head(name)
            if have.version and have.after > head.after:
                return
            if await self._kv.swap(self._heads + name, stored, have.version, _longer(ttl)) is not None:
                return

    async def _head(self, name: str) -> _Head:
        entry = await self._kv.entry(self._heads + name)
        if entry is None:
            return _Head()
        ttl = None if entry.ttl_ms is None else max(1, entry.ttl_ms - _HEAD_OUTLIVES_MS)
        return _Head(**decode(entry.value), version=entry.version, ttl_ms=ttl)

    async def _touch(self, name: str, ttl: int | None) -> None:
        for key in (self._heads + name, self._meta + name):
            await self._kv.touch(key, _longer(ttl))
        await self._log.expire(self._previous + name, ttl)

    async def _trim(self, key: str, mark: int, count: int) -> None:
        """Drop what stands before the mark, once it is much.

        Trimming counts from the end, so what others append meanwhile must be counted in: a transaction keeps them
        out; without one, as many entries as could come in between are kept beside.
        """
        if await self._log.length(key) < count + max(_GARBAGE, count):
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
        last = await self._log.tail(key, 1)
        if last:
            await self._log.trim(key, last[-1].seq - mark + 1 + beside)

    async def _finish(self, name: str, head: _Head) -> None:
        """Copy what stood before the mark to the previous conversation, if that has not been done yet."""
        if not head.archive:
            return
        frozen = await self._segment(self._now + name, head.before, before_mark_behind=head.after)
        if frozen:
            at = _millis()
            entries = [self._pack(None, at), *(self._pack(entry.message, entry.at) for entry in frozen)]
            first = (await self._log.append(self._previous + name, entries, head.ttl_ms))[0]
            await self._trim(self._previous + name, first, len(entries))
        done = encode({"after": head.after, "before": head.before, "archive": False})
        await self._kv.swap(self._heads + name, done, head.version, _longer(head.ttl_ms))

    async def _segment(self, key: str, after: int = 0, *, before_mark_behind: int | None = None) -> list[_Entry]:
        """Return the messages behind the last mark; or those before the first mark behind a place, if there is one."""
        found: list[_Entry] = []
        while events := await self._log.range(key, after, _PAGE):
            for entry in map(_unpack, events):
                if entry.message is not None:
                    found.append(entry)
                elif before_mark_behind is not None and entry.seq > before_mark_behind:
                    return found
                else:
                    found = []
            after = events[-1].seq
        return found if before_mark_behind is None else []

    async def _current(self, name: str) -> list[_Entry]:
        return await self._segment(self._now + name, await self._known(name, await self._head(name)))

    async def _known(self, name: str, head: _Head) -> int:
        """Return the place behind which the mark is for certain (if there is any)."""
        if head.after > head.before:
            behind = await self._log.range(self._now + name, head.after, 1)
            if not behind or _unpack(behind[0]).message is not None:
                return head.before
        return head.after

    async def _newest(
        self, name: str, last: int, tokens: int | None
    ) -> tuple[list[_Entry] | None, list[Message] | None]:
        """Return the newest entries, and the system prompt; instead of it None if a save came between the two reads."""
        size = last if tokens is None else min(last, 32)
        while True:
            newest = [_unpack(event) for event in await self._log.tail(self._now + name, size)]
            if not newest:
                return None, None
            marks = [place for place, entry in enumerate(newest) if entry.message is None]
            if marks:
                behind = newest[marks[-1] + 1 :]
                return behind, leading_system(entry.message for entry in behind if entry.message is not None)
            enough = len(newest) < size or size >= last
            if not enough and tokens is not None:
                enough = newest_within([e.message for e in newest if e.message], tokens, self._count_tokens) < len(
                    newest
                )
            if enough:
                break
            size = min(last, size * 2)
        start, prompt = await self._beginning(name)
        return newest, prompt if start < newest[0].seq or start == 0 else None

    async def _beginning(self, name: str) -> tuple[int, list[Message]]:
        """Return the place of the mark (0: none) and the system messages behind it."""
        head = await self._head(name)
        lead = [_unpack(event) for event in await self._log.range(self._now + name, head.after, _LEAD)]
        if head.version and (not lead or lead[0].message is not None):
            # the mark is being written, its writer was killed, or others appended just before it
            whole = await self._segment(self._now + name, head.before)
            return whole[0].seq - 1 if whole else 0, leading_system(e.message for e in whole if e.message is not None)
        marks = [place for place, entry in enumerate(lead) if entry.message is None]
        behind = lead[marks[-1] + 1 :] if marks else lead
        start = lead[marks[-1]].seq if marks else 0
        return start, leading_system(entry.message for entry in behind if entry.message is not None)

    def _fit(self, prompt: list[Message], newest: list[_Entry], last: int, tokens: int | None) -> list[Message]:
        messages = [entry.message for entry in newest if entry.message is not None]
        if messages[: len(prompt)] == prompt:
            messages = messages[len(prompt) :]
        messages = messages[-last:]
        if tokens is not None:
            left = tokens - sum(self._count_tokens(text_of(message)) for message in prompt)
            messages = messages[len(messages) - newest_within(messages, left, self._count_tokens) :]
        return [*prompt, *messages]

    async def _index_last(self, chat_id: str, messages: list[Message]) -> None:
        if self._index is None or len(messages) < 2 or messages[-1]["role"] != "assistant":
            return
        text = text_of(messages[-1])[:_INDEXED_CHARACTERS]
        if not text.strip():
            return
        about = {"type": "conversation", "chat_id": chat_id, "timestamp": datetime.now(UTC).isoformat()}
        try:
            await self._index.add_many([IndexItem(f"conversation:{uuid4().hex}", "", text, about)])
        except Exception as error:
            _log.warning("the last answer of the conversation %r was not indexed: %s", chat_id, error)


class BlockingConversations(Blocking, Conversations):
    """Conversations, synchronous. ``storage.sync.conversations.append("chat-1", {...})``."""


class DetectingConversations(Detecting, Conversations):
    """Conversations whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: Conversations, sync: BlockingConversations) -> None:
        super().__init__(*aio._scopes, aio._count_tokens)
        self._aio, self._sync = aio, sync

    def with_tokeniser(self, count_tokens: Tokeniser) -> Self:
        """Return the same conversations with another way to count tokens."""
        return type(self)(self._aio.with_tokeniser(count_tokens), self._sync.with_tokeniser(count_tokens))


def _name(chat_id: str) -> str:
    if chat_id == "":
        raise InvalidKey("a conversation needs a name: chat_id is empty")
    return escape(chat_id)


def _hours(ttl_hours: float | None) -> int | None:
    if ttl_hours is None:
        return None
    try:
        ttl = timedelta(hours=ttl_hours)
    except (TypeError, ValueError, OverflowError):
        raise InvalidQuery(f"ttl_hours is a number of hours or None, not {ttl_hours!r}") from None
    return ttl_to_ms(ttl)


def _longer(ttl: int | None) -> int | None:
    """Return the time to live of what must not be gone before the messages are."""
    return None if ttl is None else ttl + _HEAD_OUTLIVES_MS


def _check_window(last: int, tokens: int | None) -> None:
    if type(last) is not int or not 1 <= last <= _MOST:
        raise InvalidQuery(f"a window holds 1 to {_MOST:,} messages, not {last!r}")
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise InvalidQuery(f"tokens is a whole number above 0, not {tokens!r}")


def _millis() -> int:
    return time.time_ns() // 1_000_000


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)


def _unpack(event: Event) -> _Entry:
    value = decode(event.data)
    return _Entry(event.seq, value["m"], value["t"])
