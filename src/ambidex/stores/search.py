"""Texts to be found again, by words and by vectors; ``storage.index`` is one, and documents are found through one.

The invariant: every namespace belongs to one tenant, and a query returns nothing from outside its own; what a user
types is looked for, never executed.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import getrandbits
from typing import Any

from ambidex.core.codec import encode
from ambidex.core.dual import Blocking, Detecting, Store, operation
from ambidex.core.keys import escape
from ambidex.core.ports import Capability, Hit, IndexItem, SearchQuery, When
from ambidex.core.query import Condition, parse_filters
from ambidex.errors import InvalidQuery, UnsupportedValue
from ambidex.stores.cache import copies
from ambidex.stores.scope import Scope

__all__ = ["BlockingIndex", "DetectingIndex", "Index"]

_MOST = 1_000
_PLAIN = (str, int, float, bool, type(None))


class Index(Store):
    """Full text and vectors, asynchronous. ``await storage.aio.index.search("words")``."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._port = scope.leaf.search
        # Generations stand beside the data they speak of, so a backend without key-value has no cache.
        self._cache = scope.cache if Capability.KV in scope.capabilities else None

    @operation
    async def add(
        self,
        id: str,  # noqa: A002  # the field's own name
        text: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        title: str = "",
        vector: Sequence[float] | None = None,
        namespace: str = "default",
    ) -> None:
        """Add one text, or replace the one with this id.

        Args:
            id: unique in the namespace.
            text: what is searched.
            metadata: text, numbers, booleans and None by name, to filter by.
            title: searched as well, and counted double.
            vector: its embedding, if there is one.
            namespace: a space of its own.
        """
        await self.add_many([IndexItem(id, title, text, dict(metadata or {}), vector)], namespace=namespace)

    @operation
    async def add_many(self, items: Iterable[IndexItem], *, namespace: str = "default") -> None:
        """Add or replace items in one atomic batch."""
        checked = [_checked(item) for item in items]
        if checked:
            async with self._writing(namespace):
                await self._port.index(self._space(namespace), checked)

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
    ) -> list[Hit]:
        """Return the best matches, best first.

        Args:
            query: words as a person types them; every character is allowed.
            top_k: how many, 1 to 1,000.
            namespace: where to look.
            filters: conditions on metadata, e.g. ``{"year__ge": 2020}``.
            vector: the query's embedding, to be fused with the words.
            min_score: leave out weaker ones; scores are normalised to 0…1 within a query.
        """
        if not isinstance(query, str):
            raise InvalidQuery(f"a search query is text, not {type(query).__name__}")
        if type(top_k) is not int or not 1 <= top_k <= _MOST:
            raise InvalidQuery(f"top_k is 1 to {_MOST:,}, not {top_k!r}")
        conditions = _conditions(filters or {})
        if not query.strip() and vector is None:
            return []
        wanted = SearchQuery(query, _vector(vector), top_k, conditions, depth=max(200, top_k))
        hits = await self._answer(namespace, wanted)
        return [hit for hit in hits if hit.score >= min_score]

    @operation
    async def fetch(self, ids: Iterable[str], *, namespace: str = "default") -> list[IndexItem]:
        """Return those of the items that exist, in the order of ``ids``."""
        return await self._port.fetch(self._space(namespace), [_id(item) for item in ids])

    @operation
    async def remove(self, *ids: str, namespace: str = "default") -> int:
        """Delete items by id; return how many existed."""
        names = [_id(item) for item in ids]
        async with self._writing(namespace):
            return await self._port.remove(self._space(namespace), names)

    @operation
    async def reset(self, *, namespace: str = "default") -> int:
        """Delete everything in a namespace; return how many items there were."""
        async with self._writing(namespace):
            return await self._port.reset(self._space(namespace))

    @operation
    async def count(self, *, namespace: str = "default") -> int:
        """Return the number of items in a namespace."""
        return await self._port.count(self._space(namespace))

    async def _answer(self, namespace: str, wanted: SearchQuery) -> list[Hit]:
        """Ask the cache, then the port; those who ask the same at the same time share one search."""
        space, cache = self._space(namespace), self._cache
        if cache is None:
            return await self._port.query(space, wanted)
        stored = await self._scope.leaf.kv.get(self._generation(namespace))
        generation = stored if isinstance(stored, int) else 0
        key = repr((space, tuple(wanted))).encode("utf-8", "surrogatepass")
        found = cache.get(key, generation)
        if found is None:
            flight = (id(cache), generation, key)
            shared = await self._scope.runtime.single_flight(flight, lambda: self._port.query(space, wanted))
            found = copies(shared)
            cache.put(key, generation, found, self._scope.tenant, f"search:{namespace}:{wanted.text}")
        return found

    @asynccontextmanager
    async def _writing(self, namespace: str) -> AsyncIterator[None]:
        """End the answers of a namespace with a write to it; see :mod:`ambidex.stores.cache`."""
        try:
            yield
        except BaseException:  # it may have been written all the same
            if self._cache is not None:
                self._cache.invalidate(tenant=self._scope.tenant)
            raise
        if self._cache is not None:
            await self._scope.leaf.kv.put(self._generation(namespace), getrandbits(62) + 1, None, When.ALWAYS)

    def _generation(self, namespace: str) -> str:
        return self._scope.prefix("ixg", namespace)

    def _space(self, namespace: str) -> str:
        return self._scope.prefix("ix", namespace)


class BlockingIndex(Blocking, Index):
    """Full text and vectors, synchronous. ``storage.sync.index.search("words")``."""


class DetectingIndex(Detecting, Index):
    """Full text and vectors whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: Index, sync: BlockingIndex) -> None:
        super().__init__(aio._scope)
        self._aio, self._sync = aio, sync


def _id(item: str) -> str:
    """Refuse an id that no backend could hold; stored as it is, limited like an escaped key."""
    escape(item)
    return item


def _conditions(filters: Mapping[str, Any]) -> list[Condition]:
    """Parse filters over metadata, which holds nothing but text, numbers, booleans and None."""
    conditions = parse_filters(filters)
    for field, op, value in conditions:
        if op == "contains" and not isinstance(value, str):
            raise InvalidQuery(f"the filter on {field!r} looks for text in text, not for {type(value).__name__}")
        for one in value if op in ("in", "not_in") else (value,):
            if not isinstance(one, _PLAIN):
                raise InvalidQuery(
                    f"the filter on {field!r} compares with {type(one).__name__}; "
                    "metadata holds text, numbers, booleans and None"
                )
            try:
                encode(one)
            except UnsupportedValue as error:
                raise InvalidQuery(f"the filter on {field!r}: {error}") from None
    return conditions


def _checked(item: IndexItem) -> IndexItem:
    """Refuse before any I/O what some backend could not hold."""
    _id(item.id)
    for name, value in (("title", item.title), ("text", item.text)):
        if not isinstance(value, str):
            raise UnsupportedValue(f"{name} of an indexed item must be text, not {type(value).__name__}")
        encode(value)
    for key, value in item.metadata.items():
        if not isinstance(value, _PLAIN):
            raise UnsupportedValue(
                f"metadata {key!r} of {item.id!r} is {type(value).__name__}; it holds text, numbers, booleans and None"
            )
    encode(item.metadata)
    return item._replace(vector=_vector(item.vector))


def _vector(vector: Sequence[float] | None) -> list[float] | None:
    if vector is None:
        return None
    floats = [float(number) for number in vector]
    if not floats or not all(map(math.isfinite, floats)):
        raise InvalidQuery("a vector is a list of finite numbers, not empty")
    return floats
