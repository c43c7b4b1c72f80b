"""Chats: messages appended by many writers, read by a sliding window; ``storage.conversations`` is one.

How they are kept is ``conversation_streams``; ``conversation_windows`` reads the window, ``conversation_metadata`` what
is known beside the messages. The invariant: a call whose arguments are refused has stored nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Self
from uuid import uuid4

from ambidex.core.clock import millis
from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.keys import escape, unescape
from ambidex.core.messages import Message, Tokeniser, check_messages, counting, estimate_tokens, text_of
from ambidex.core.ports import IndexItem
from ambidex.core.runtime import one_deadline, partly_applied
from ambidex.errors import AlreadyExists, ConfigurationError, InvalidKey, InvalidQuery, NotFound
from ambidex.stores.conversation_metadata import merge_metadata, read_metadata, statistics
from ambidex.stores.conversation_streams import Streams
from ambidex.stores.conversation_windows import MOST, checked_window, read_window
from ambidex.stores.kv import ttl_to_ms
from ambidex.stores.scope import Scope
from ambidex.stores.search import Index

__all__ = ["BlockingConversations", "Conversations", "DetectingConversations"]

_log = logging.getLogger("ambidex")

_PAGE = 500
_INDEXED_CHARACTERS = 1_000


class Conversations(Store):
    """Conversations, asynchronous. ``await storage.aio.conversations.append("chat-1", {...})``.

    Args:
        kv: where the heads and the metadata are kept.
        log: where the messages are kept.
        search: where the last answers are indexed; None: nowhere.
        count_tokens: says how many tokens a text takes, a function or a coroutine function; the default is a quarter of
            its characters.
    """

    def __init__(
        self, kv: Scope, log: Scope, search: Scope | None = None, count_tokens: Tokeniser | None = None
    ) -> None:
        self._scopes = kv, log, search
        self._count_tokens = count_tokens or estimate_tokens
        self._count = counting(self._count_tokens, log.runtime)
        self._timeout = log.timeout
        self._streams = Streams(kv, log)
        self._index = None if search is None else Index(search)

    def __repr__(self) -> str:
        tenant = self._scopes[0].tenant
        return f"{type(self).__name__}({f'tenant={tenant!r}' if tenant else ''})"

    def with_tokeniser(self, count_tokens: Tokeniser) -> Self:
        """Return the same conversations with another way to count tokens.

        Args:
            count_tokens: returns how many tokens a text takes; a function, or a coroutine function.

        Raises:
            ConfigurationError: it cannot be called.
        """
        if not callable(count_tokens):
            raise ConfigurationError(f"a tokeniser is a function of a text, not {type(count_tokens).__name__}")
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
        self, chat_id: str, messages: Iterable[Any], ttl_hours: float | None = 24, *, index: bool = True
    ) -> None:
        """Make these messages the conversation, in place of what it held.

        The last message, if it is an assistant's and not the only one, is indexed for search; a failure of that only
        warns.

        Args:
            chat_id: any text without NUL.
            messages: dictionaries (or models) with ``role`` and ``content``; other keys are kept.
            ttl_hours: hours until the conversation is gone; None: it stays.
            index: whether to index the last answer.

        Raises:
            UnsupportedValue: a message cannot be kept; nothing was stored.
        """
        name, checked = _name(chat_id), check_messages(messages)
        self._check_at_once("save")
        await self._streams.replace(name, checked, _hours(ttl_hours))
        if index:
            await self._index_last(chat_id, checked)

    @operation
    @one_deadline
    async def append(self, chat_id: str, *messages: Any, ttl_hours: float | None = None) -> int:
        """Add messages at the end in one atomic step; nothing is lost, however many append at once.

        Args:
            chat_id: the conversation; it is made by the first append.
            *messages: dictionaries (or models) with ``role`` and ``content``; they stay together.
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
            await self._streams.outlive(name, ttl)
        now = millis()
        seqs = await self._streams.log.append(
            self._streams.now + name, [self._streams.pack(message, now) for message in checked], ttl
        )
        if ttl is not None:
            with partly_applied():
                await self._streams.touch(name, ttl)
        return seqs[-1]

    @operation
    @one_deadline
    async def extend(self, chat_id: str, ttl_hours: float | None = 24) -> bool:
        """Give a conversation a new time to live from now (None: for ever); False if it does not exist."""
        name, ttl = _name(chat_id), _hours(ttl_hours)
        self._check_at_once("extend")
        await self._streams.outlive(name, ttl)
        if not await self._streams.log.expire(self._streams.now + name, ttl):
            return False
        with partly_applied():
            await self._streams.touch(name, ttl)
        return True

    @operation
    @one_deadline
    async def delete(self, chat_id: str) -> bool:
        """Delete a conversation with its metadata, its previous one and what was indexed of it; True if it existed.

        Raises:
            AmbidexError: it, or its entries of the index, could not be deleted; delete it again.
        """
        name = _name(chat_id)
        self._check_at_once("delete")
        existed = await self._drop(name)  # first: where its store is away, nothing of it is lost
        with partly_applied() if existed else nullcontext():
            await self._unindex(chat_id)
        return existed

    async def _drop(self, name: str) -> bool:
        await self._streams.kv.delete_many([self._streams.meta + name])
        with partly_applied():
            await self._streams.log.drop(self._streams.previous + name)
            return await self._streams.forget(name)

    @operation
    @one_deadline
    async def reset(self, chat_id: str) -> bool:
        """Begin anew with an empty conversation; what it held is kept as the previous one.

        Returns:
            True if there was anything to put away.
        """
        name = _name(chat_id)
        self._check_at_once("reset")
        if not await self._streams.log.tail(self._streams.now + name, 1):
            return False
        await self._streams.replace(name, [], None, archive=True)
        return True

    @operation
    @one_deadline
    async def restore(self, chat_id: str) -> bool:
        """Make the previous conversation the current one, and the current the previous; False if there is none.

        An empty one, as :meth:`reset` leaves it, is none: restored over, it leaves nothing to restore.
        """
        name = _name(chat_id)
        self._check_at_once("restore")
        await self._streams.finish(name, await self._streams.head(name))
        previous = await self._streams.segment(self._streams.previous + name)
        if not previous:
            return False
        messages = [entry.message for entry in previous if entry.message]
        await self._streams.replace(name, messages, None, archive=True, swaps=True)
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
            AlreadyExists: there is a conversation of the new name.
        """
        if type(at) is not int:
            raise InvalidQuery(f"at is the place of a message, a whole number, not {at!r}")
        made = new_chat_id if new_chat_id is not None else f"{chat_id}-{uuid4().hex}"
        copy, ttl = _name(made), _hours(ttl_hours)
        self._check_at_once("fork")
        messages = await self.history(chat_id)
        if not -len(messages) <= at < len(messages):
            raise NotFound(f"the conversation {chat_id!r} has {len(messages)} messages, none at {at}")
        place = at % len(messages)
        if new_chat_id is not None and await self.exists(new_chat_id):
            raise AlreadyExists(f"there is a conversation {made!r} already; delete it first, or choose another name")
        await self._streams.replace(copy, messages[: place + 1], ttl)
        with partly_applied():
            await self.set_metadata(made, forked_from=chat_id, forked_at=place)
        return made

    # ---------------------------------------------------------------- reading

    @operation
    @one_deadline
    async def get(
        self, chat_id: str, *, last: int | None = None, tokens: int | None = None, strict: bool = False
    ) -> list[Message] | None:
        """Return the window of a conversation, or None where there is none.

        Args:
            chat_id: the conversation.
            last: see :meth:`window`.
            tokens: see :meth:`window`.
            strict: raise a storage failure; otherwise it is logged and None returned.
        """
        _name(chat_id)
        last = checked_window(last, tokens)
        try:
            return await self.window(chat_id, last=last, tokens=tokens)
        except Exception as error:
            if strict:
                raise
            _log.error("the conversation %r could not be read: %s", chat_id, error)  # no trace wanted
            return None

    @operation
    @one_deadline
    async def window(self, chat_id: str, *, last: int | None = None, tokens: int | None = None) -> list[Message] | None:
        """Return the system prompt and the newest messages; the cost does not depend on the conversation's length.

        Args:
            chat_id: the conversation.
            last: how many messages at most, beside the system prompt; None: 20, or with ``tokens`` as many as fit.
            tokens: how many tokens at most, the system prompt included; the oldest are left out.

        Returns:
            The messages, oldest first; None where there is no such conversation.
        """
        name, most = _name(chat_id), checked_window(last, tokens)
        return await read_window(self._streams, name, most, tokens, self._count)

    @operation
    @one_deadline
    async def history(self, chat_id: str) -> list[Message]:
        """Return every message, oldest first; empty where there is no such conversation."""
        return [entry.message for entry in await self._streams.current(_name(chat_id)) if entry.message is not None]

    @operation
    async def exists(self, chat_id: str) -> bool:
        """Tell whether there is such a conversation."""
        return bool(await self._streams.log.tail(self._streams.now + _name(chat_id), 1))

    @operation
    @one_deadline
    async def list_active(self, prefix: str = "", limit: int = 1_000) -> list[str]:
        """Return the names of up to ``limit`` conversations that have not expired; see :meth:`active` for all."""
        if type(limit) is not int or not 1 <= limit <= MOST:
            raise InvalidQuery(f"a limit is 1 to {MOST:,}, not {limit!r}")
        found, after = await self._streams.log.streams(self._streams.now + escape(prefix), None, limit)
        while after is not None and len(found) < limit:
            more, after = await self._streams.log.streams(self._streams.now + escape(prefix), after, limit - len(found))
            found += more
        return [unescape(name[len(self._streams.now) :]) for name in found[:limit]]

    @stream
    async def active(self, prefix: str = "", *, page: int = _PAGE) -> AsyncGenerator[list[str], None]:
        """Iterate the names of the conversations that have not expired and begin with ``prefix``."""
        after: str | None = None
        while True:
            names, after = await self._streams.log.streams(self._streams.now + escape(prefix), after, page)
            yield [unescape(name[len(self._streams.now) :]) for name in names]
            if after is None:
                return

    # ---------------------------------------------------------------- about a conversation

    @operation
    @one_deadline
    async def set_metadata(self, chat_id: str, /, **values: Any) -> None:
        """Add to what is known of a conversation; a value of None removes an entry."""
        name = _name(chat_id)
        self._scopes[0].check_at_once("kv", "conversations.set_metadata")
        await merge_metadata(self._streams, name, values)

    @operation
    async def metadata(self, chat_id: str) -> dict[str, Any]:
        """Return what :meth:`set_metadata` has kept; empty where there is nothing."""
        return await read_metadata(self._streams, _name(chat_id))

    @operation
    @one_deadline
    async def statistics(self, chat_id: str) -> dict[str, Any] | None:
        """Count a conversation; it is read whole.

        Returns:
            ``messages``, ``by_role``, ``characters``, ``tokens`` (by the tokeniser, calls of tools included),
            and ``first_at`` and ``last_at`` (aware datetimes, or None); None where there is no such conversation.
        """
        return await statistics(self._streams, _name(chat_id), self._count)

    # ---------------------------------------------------------------- inside

    async def _index_last(self, chat_id: str, messages: list[Message]) -> None:
        if self._index is None or len(messages) < 2 or messages[-1]["role"] != "assistant":
            return
        text = text_of(messages[-1])[:_INDEXED_CHARACTERS]
        if not text.strip():
            return
        about = {"type": "conversation", "chat_id": chat_id, "timestamp": datetime.now(UTC).isoformat()}
        try:
            await self._index.add_many([IndexItem(_entries(chat_id) + uuid4().hex, "", text, about)])
        except Exception as error:
            _log.warning("the last answer of the conversation %r was not indexed: %s", chat_id, error)

    async def _unindex(self, chat_id: str) -> None:
        """Remove the entries of the index, because what was deleted must not be found."""
        after = begin = _entries(chat_id)
        while self._index is not None:
            items = await self._index.list(_PAGE, after=after)
            mine = [item.id for item in items if item.id.startswith(begin)]
            await self._index.remove(*mine)
            if len(mine) < _PAGE:
                break
            after = mine[-1]


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


def _entries(chat_id: str) -> str:
    """Return with what the ids of a conversation's entries of the index begin: short, however long its name is."""
    return f"conversation:{sha256(chat_id.encode()).hexdigest()[:32]}:"


def _hours(ttl_hours: float | None) -> int | None:
    if ttl_hours is None:
        return None
    try:
        ttl = timedelta(hours=ttl_hours)
    except (TypeError, ValueError, OverflowError):
        raise InvalidQuery(f"ttl_hours is a number of hours or None, not {ttl_hours!r}") from None
    return ttl_to_ms(ttl)
