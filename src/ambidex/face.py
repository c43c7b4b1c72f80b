"""The flat methods that every face has, written once over the rooms; ``ambidex.storage`` makes the faces of it.

The invariant: a flat method is its room's operation under another name and adds nothing to it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any

from ambidex import stores
from ambidex.assembly import Core
from ambidex.core.dual import Store, context, operation
from ambidex.core.lazy import lazy
from ambidex.core.ports import Backend, Capability, Hit
from ambidex.core.runtime import deadline, in_unit, one_deadline, unit
from ambidex.errors import AmbidexError, Busy, CapabilityMissing, Conflict, TenantMismatch

__all__ = ["Face", "StorageBackend"]

_PROBE_SECONDS = 2.0
_PAUSE_SECONDS = 0.005


class StorageBackend(ABC):
    """The smallest storage that older code asks for: four methods, each a value or an awaitable by context."""

    @abstractmethod
    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""

    @abstractmethod
    def set(self, key: str, value: Any, ttl: stores.TTL | None = None) -> Any:
        """Store a value."""

    @abstractmethod
    def delete(self, key: str) -> Any:
        """Delete a key; true if it existed."""

    @abstractmethod
    def search(self, query: str, **kw: Any) -> Any:
        """Return the best matches of a query."""


class Face(Store):
    """The flat methods that all faces have, written once over the rooms.

    Subclasses say which mode their ports are of.
    """

    _is_blocking = False

    def __init__(self, core: Core, tenant: str = "") -> None:
        self._core = core
        self._tenant = tenant

    def __repr__(self) -> str:
        settings = self._core.settings
        places = "".join(f", {name}={place.display!r}" for name, place in settings.overrides.items())
        tenant = f", tenant={self._tenant!r}" if self._tenant else ""
        return f"{type(self).__name__}({settings.url.display!r}{places}{tenant})"

    def scope(self, capability: Capability, *, blocking: bool) -> stores.Scope:
        """Return the ports for a capability in one mode; repositories and other stores are made from this."""
        core = self._core
        scope = stores.Scope(
            core.leaf(capability, blocking),
            core.runtime(blocking),
            max_bytes=core.settings.max_value_bytes,
            capabilities=core.backend(capability).capabilities,
            cache=core.cache,
            secret=core.settings.secret,
            json_serializer=core.settings.json_serializer,
            embedder=core.embedder if capability is Capability.SEARCH else None,
            timeout=core.settings.timeout,
            kinds=core.kinds,
        )
        return scope.for_tenant(self._tenant) if self._tenant else scope

    def _scope(self, capability: Capability) -> stores.Scope:
        return self.scope(capability, blocking=self._is_blocking)

    @property
    def _timeout(self) -> float:
        return self._core.settings.timeout

    @lazy
    def _kv(self) -> stores.KeyValue:
        return stores.KeyValue(self._scope(Capability.KV))

    @lazy
    def _events(self) -> stores.Log:
        return stores.Log(self._scope(Capability.LOG))

    @lazy
    def _index(self) -> stores.Index:
        return stores.Index(self._scope(Capability.SEARCH))

    @lazy
    def _conversations(self) -> stores.Conversations:
        return stores.Conversations(self._scope(Capability.KV), self._scope(Capability.LOG), self._search_scope())

    @lazy
    def _documents(self) -> stores.Documents:
        return stores.Documents(self._scope(Capability.KV), self._search_scope())

    @lazy
    def _media(self) -> stores.Media:
        kv = self._scope(Capability.KV)
        try:
            return stores.Media(kv, self._scope(Capability.BLOBS))
        except CapabilityMissing:
            from dataclasses import replace

            local = self._core.local_blobs()
            return stores.Media(kv, replace(kv, leaf=local.blocking if self._is_blocking else local.aio))

    @lazy
    def _outbox(self) -> stores.OutboxAdmin:
        if self._tenant:
            raise TenantMismatch("transactions of all tenants share one outbox; ask the storage itself, not a tenant's")
        return stores.OutboxAdmin(self._core.outbox(self._is_blocking), self._timeout)

    def _search_scope(self) -> stores.Scope | None:
        """Return the scope of search, or None: conversations and documents are kept without it, too."""
        try:
            return self._scope(Capability.SEARCH)
        except CapabilityMissing:
            return None

    @operation
    async def get(self, key: str) -> Any:
        """Return the value of a key, or None. See :meth:`KeyValue.get`."""
        return await self._kv.get(key)

    @operation
    async def set(self, key: str, value: Any, ttl: stores.TTL | None = None) -> None:
        """Store a value, for ``ttl`` seconds if given. See :meth:`KeyValue.set`."""
        await self._kv.set(key, value, ttl)

    @operation
    async def delete(self, key: str) -> bool:
        """Delete a key; True if it existed."""
        return await self._kv.delete(key)

    @operation
    async def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        namespace: str = "default",
        filters: Mapping[str, Any] | None = None,
        vector: Sequence[float] | None = None,
        min_score: float = 0.0,
        fusion: str = "scores",
    ) -> list[Hit]:
        """Return the best matches of a query. See :meth:`ambidex.stores.search.Index.search`."""
        return await self._index.search(
            query,
            top_k=top_k,
            namespace=namespace,
            filters=filters,
            vector=vector,
            min_score=min_score,
            fusion=fusion,
        )

    @operation
    async def save_conversation(self, chat_id: str, messages: Iterable[Any], ttl_hours: float | None = 24) -> None:
        """Make these messages the conversation. See :meth:`ambidex.stores.conversations.Conversations.save`."""
        await self._conversations.save(chat_id, messages, ttl_hours)

    @operation
    async def get_conversation(self, chat_id: str, *, strict: bool = False) -> list[stores.Message] | None:
        """Return the system prompt and the last 20 messages, or None where there is no such conversation.

        A storage failure is logged and gives None, unless ``strict``. See
        :meth:`ambidex.stores.conversations.Conversations.get`.
        """
        return await self._conversations.get(chat_id, strict=strict)

    @operation
    @one_deadline
    async def search_context(
        self, query: str, chat_id: str | None = None, include_conversation: bool = True, top_k: int = 5
    ) -> dict[str, Any]:
        """Return what belongs to a question, in three parts. See :func:`ambidex.stores.context.search_context`."""
        from ambidex.stores.context import search_context

        return await search_context(
            lambda: (self._index, self._conversations), query, chat_id, include_conversation, top_k
        )

    @operation
    async def store_document(
        self, content: str, metadata: Mapping[str, Any] | None = None, index_for_search: bool = True
    ) -> str:
        """Store a document and return its id. See :meth:`ambidex.stores.documents.Documents.store`."""
        return await self._documents.store(content, metadata, index_for_search)

    @operation
    async def batch_store_documents(self, documents: Iterable[Any], index_for_search: bool = True) -> list[str]:
        """Store documents and return their ids, in order.

        See :meth:`ambidex.stores.documents.Documents.store_many`.
        """
        return await self._documents.store_many(documents, index_for_search)

    @operation
    async def invalidate_cache(self, pattern: str | None = None) -> int:
        """Forget cached answers; return how many.

        Args:
            pattern: a glob over logical keys, which read ``search:<namespace>:<query>``: ``*`` is any text, ``?`` any
                one character. None: all. A tenant's handle forgets that tenant's only.
        """
        return self._core.cache.invalidate(pattern, self._tenant)

    @operation
    async def store_media(
        self, file_data: Any, file_name: str, content_type: str, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Store a file and return its URL. See :meth:`ambidex.stores.media.Media.store`."""
        return await self._media.store(file_data, file_name, content_type, metadata)

    @operation
    async def health_check(self) -> dict[str, bool]:
        """Probe each configured capability's backend with a real round trip.

        The backends are asked side by side, in both modes: however many are down or frozen, each of these gives False
        within two seconds, and the others True.
        """
        configured = self._core.configured()
        backends = list({id(backend): backend for backend in configured.values()}.values())
        answers = await self._core.runtime(self._is_blocking).side_by_side(
            [functools.partial(self._probe, b) for b in backends]
        )
        well = {id(backend): answer for backend, answer in zip(backends, answers, strict=True)}
        return {str(capability): well[id(backend)] for capability, backend in configured.items()}

    async def _probe(self, backend: Backend) -> bool:
        try:
            with deadline(_PROBE_SECONDS):
                await (backend.blocking if self._is_blocking else backend.aio).ping()
        except AmbidexError as error:
            import logging

            logging.getLogger("ambidex").warning("health check of %s failed: %s", backend.name, error)
            return False
        return True

    @context
    async def transaction(self) -> AsyncGenerator[None, None]:
        """Make everything done inside on the main backend one atomic unit, seen by nobody else before its end.

        An exception undoes it; inside another transaction it is a savepoint. Works with ``with`` and ``async with``.

        Writes to a capability that another backend has are kept in the transaction and made, once, after the commit:
        ``kv.set``, ``set_many``, ``delete`` and ``delete_many``, ``events.append`` (whose place is 0, being unknown),
        and all of the index; of repositories ``upsert``, ``patch``, deletions, and ``create`` where the storage makes
        the id. Until then reads show what that backend held before. Where it cannot be reached after the commit, the
        unit counts as committed and the writes are made when it is back. See :meth:`recover`.

        Raises:
            CapabilityMissing: the backend has no transactions; or, from a write inside, its outcome on another backend
                cannot be known before the commit.
            Conflict: another writer was faster; run the unit again.
            LeaseLost: it took longer than ``lease_timeout``; nothing was stored.
        """
        outbox = self._core.outbox(self._is_blocking)
        async with outbox.transaction():
            with unit():
                yield

    @operation
    async def recover(self) -> int:
        """Make the writes that committed transactions have left for other backends; return of how many transactions.

        It happens by itself, too: at uses of those backends, at most every half minute. What a backend does not take
        now stays for later; what it refuses for good is set aside for ``storage.outbox``.

        Raises:
            CapabilityMissing: the main backend has no transactions.
        """
        return await self._core.outbox(self._is_blocking).recover(force=True)

    @operation
    async def atomically(self, unit: Callable[[], Any], *, attempts: int = 5) -> Any:
        """Run a function inside a transaction, and again from its beginning when another writer was faster.

        Args:
            unit: a function without arguments: plain in synchronous code, ``async def`` in asynchronous code. It may be
                run several times, so what it does outside the storage must bear that.
            attempts: how often it is run at most. Inside a transaction it is run once, as a savepoint: what lost a
                race is the whole, and only the whole can be run again.

        Returns:
            What the function returned.

        Raises:
            CapabilityMissing: the backend has no transactions.
            Conflict: it lost every time.
        """
        import random
        from inspect import isawaitable

        last = 1 if in_unit() else max(1, attempts)
        for attempt in range(1, last + 1):
            try:
                async with self.transaction():
                    result = unit()
                    return await result if isawaitable(result) else result
            except (Conflict, Busy):
                if attempt == last:
                    raise
            # Full jitter, so that those who met do not meet again.
            pause = random.uniform(0, min(_PAUSE_SECONDS * 2**attempt, 1.0))  # noqa: S311  # no secret
            await self._core.runtime(self._is_blocking).sleep(pause)
        raise AssertionError  # the last attempt returns or raises
