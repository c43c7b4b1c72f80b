"""Texts to be found again, by words and by vectors; ``storage.index`` is one, and documents are found through one.

The invariant: every namespace belongs to one tenant, and a query returns nothing from outside its own; what a user
types is looked for, never executed.
"""

from __future__ import annotations

import builtins
import hashlib
import math
from array import array
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from ambidex.core.codec import encode
from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.embedding import Embed, Embedder, checked_vector, packed_vector
from ambidex.core.fusion import FUSIONS
from ambidex.core.keys import escape
from ambidex.core.ports import Hit, IndexItem, SearchQuery, SpaceState
from ambidex.core.query import Condition, parse_filters
from ambidex.core.runtime import one_deadline, time_limit
from ambidex.embedders import embedder_for
from ambidex.errors import ConfigurationError, InvalidQuery, UnsupportedValue
from ambidex.stores.cache import copies
from ambidex.stores.scope import Scope
from ambidex.stores.search_tags import with_tags

__all__ = ["BlockingIndex", "DetectingIndex", "Index", "embedded_text"]

_MOST = 1_000
_PAGE = 200
_EMBEDDED_CHARACTERS = 50_000
"""How much of a text an embedder is shown; a vector of more than that says little of any part of it."""
_DEPTH, _DEPTH_ALONE = 200, 100
"""How many candidates each part of a query contributes; a vector that is not fused with words needs fewer."""
_LONGEST_KEPT = 4_096
"""The longest query, in characters, whose answer is kept."""
_PLAIN = (str, int, float, bool, type(None))


class Index(Store):
    """Full text and vectors, asynchronous. ``await storage.aio.index.search("words")``.

    Texts added without a vector get one from the embedder of the settings, if there is one. A namespace remembers
    whose vectors it holds; another embedder is refused there until :meth:`reindex` or :meth:`reset`.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._port, self._timeout = scope.leaf.search, scope.timeout

    def embedded_by(self, embedder: Embedder | Embed | str) -> Self:
        """Return the same index with another embedder.

        Args:
            embedder: as in :class:`ambidex.settings.Settings`: a callable, a name, or an
                :class:`~ambidex.core.embedding.Embedder`.

        Raises:
            ConfigurationError: it cannot be used.
        """
        return self._derive(replace(self._scope, embedder=embedder_for(embedder)))

    @property
    def embeds(self) -> bool:
        """Whether texts that come without a vector are given one."""
        return self._scope.embedder is not None

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
            vector: its embedding, if the caller has one; a list of numbers or an array of numpy.
            namespace: a space of its own.
        """
        await self.add_many([IndexItem(id, title, text, dict(metadata or {}), vector)], namespace=namespace)

    @operation
    @one_deadline
    async def add_many(self, items: Iterable[IndexItem | Mapping[str, Any]], *, namespace: str = "default") -> None:
        """Add or replace items in one atomic batch.

        Args:
            items: each a dictionary with ``id``, ``text`` (and ``title``, ``metadata``, ``vector`` if it has them), or
                an :class:`ambidex.core.ports.IndexItem`.
            namespace: where they belong.

        Raises:
            ConfigurationError: the namespace holds another embedder's vectors, or the embedder failed to make any.
            InvalidQuery: a vector that was given has not as many numbers as the embedder's.
            UnsupportedValue: an item is none, or holds what cannot be kept; nothing was stored.
        """
        if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
            raise UnsupportedValue(f"items of the index come as a list, not as {type(items).__name__}")
        checked = [_checked(_item(item)) for item in items]
        given = [item.vector for item in checked if item.vector is not None]
        if given:
            state = await self._port.state(self._space(namespace))
            for vector in given:
                _check_size(vector, state.embedder, namespace)
        await self._put(checked, namespace)

    async def _put(self, items: builtins.list[IndexItem], namespace: str) -> None:
        """Add or replace items that are known to be in order."""
        space = self._space(namespace)
        if items:
            await self._port.index(space, await self._embedded(items, namespace))

    @operation
    @one_deadline
    async def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        namespace: str = "default",
        filters: Mapping[str, Any] | Sequence[Condition] | None = None,
        vector: Sequence[float] | None = None,
        min_score: float = 0.0,
        fusion: str = "scores",
    ) -> list[Hit]:
        """Return the best matches, best first. The same question is answered from memory until somebody writes.

        Args:
            query: words as a person types them; every character is allowed.
            top_k: how many, 1 to 1,000.
            namespace: where to look.
            filters: conditions on metadata, e.g. ``{"year__ge": 2020}``.
            vector: the query's embedding; by default the embedder makes it.
            min_score: leave out weaker ones; scores are normalised to 0…1 within a query.
            fusion: "scores" adds the normalised scores of words and vectors by the embedder's weight, "ranks" their
                reciprocal ranks.

        Raises:
            ConfigurationError: the namespace holds another embedder's vectors.
            InvalidQuery: an argument is out of range, or the vector has not as many numbers as the embedder's.
        """
        if not isinstance(query, str):
            raise InvalidQuery(f"a search query is text, not {type(query).__name__}")
        query = query.encode(errors="replace").decode()  # a lone surrogate is in no text, and embedders stumble over it
        if type(top_k) is not int or not 1 <= top_k <= _MOST:
            raise InvalidQuery(f"top_k is 1 to {_MOST:,}, not {top_k!r}")
        if fusion not in FUSIONS:
            raise InvalidQuery(f"fusion is one of {', '.join(FUSIONS)}, not {fusion!r}")
        if type(min_score) not in (int, float) or math.isnan(min_score):
            raise InvalidQuery(f"min_score is a number, usually 0 to 1, not {min_score!r}")
        conditions = _conditions(filters or {})
        given = None if vector is None else checked_vector(vector)
        space = self._space(namespace)
        if not query.strip() and given is None:
            return []
        weight = 0.3 if self._scope.embedder is None else self._scope.embedder.weight
        wanted = SearchQuery(query, given, top_k, conditions, weight, _depth(bool(query.strip()), top_k), fusion)
        hits = await self._answer(space, namespace, wanted)
        return with_tags([hit for hit in hits if hit.score >= min_score])

    async def _answer(self, space: str, namespace: str, query: SearchQuery) -> list[Hit]:
        """Return the hits from the cache, from whoever is asking for them now, or from the port."""
        state = await self._port.state(space)
        if query.vector is not None:
            _check_size(query.vector, state.embedder, namespace)
        label = self._label(state, namespace) if query.vector is None else ""
        cache, tenant = self._scope.cache, self._scope.tenant
        if cache is None or state.private:
            return await self._ask(space, query, label)
        key = _question(space, query, label)
        found = cache.get(key, state.stamp)
        if found is None:

            async def ask() -> list[Hit]:
                return await self._ask(space, query, label)

            flight = (id(cache), state.stamp, key)
            found = copies(await self._scope.runtime.single_flight(flight, ask))
            if len(query.text) <= _LONGEST_KEPT:
                cache.put(key, state.stamp, found, tenant, f"search:{namespace}:{query.text}")
        return found

    async def _ask(self, space: str, query: SearchQuery, label: str) -> list[Hit]:
        embedder = self._scope.embedder
        if label and embedder is not None and query.text.strip():
            (vector,) = await embedder.vectors([query.text[:_EMBEDDED_CHARACTERS]], self._scope.runtime)
            if embedder.label(len(vector)) != label:
                raise ConfigurationError(
                    f"the embedder {embedder.name!r} makes {len(vector)} dimensions now, the vectors there are "
                    f"{label!r}; reindex() makes them anew"
                )
            query = query._replace(vector=vector)
        return await self._port.query(space, query)

    def _label(self, state: SpaceState, namespace: str) -> str:
        """Return the label of the vectors that a query must be compared with, "" where there are none.

        Without an embedder, words alone are looked for.
        """
        embedder = self._scope.embedder
        if embedder is None or not state.embedder:
            return ""
        name, _, dimension = state.embedder.rpartition(":")
        if name != embedder.name or (embedder.dimension is not None and str(embedder.dimension) != dimension):
            raise self._mismatch(state.embedder, namespace)
        return state.embedder

    def _mismatch(self, label: str, namespace: str) -> ConfigurationError:
        name = self._scope.embedder.name if self._scope.embedder else "none"
        return ConfigurationError(
            f"the namespace {namespace!r} holds vectors of {label!r}, and this index embeds with {name!r}; use that "
            f"embedder, or make the vectors anew with index.reindex(namespace={namespace!r})"
        )

    async def _embedded(
        self, items: builtins.list[IndexItem], namespace: str, replacing: bool = False
    ) -> builtins.list[IndexItem]:
        """Return the items with a vector each, the namespace being claimed for the embedder."""
        bare = [place for place, item in enumerate(items) if item.vector is None] if self.embeds else []
        if bare:
            texts = [embedded_text(items[place].title, items[place].text) for place in bare]
            for place, vector in zip(bare, await self._vectors(texts, namespace, replacing), strict=True):
                items[place] = items[place]._replace(vector=vector)
        return items

    async def _vectors(
        self, texts: builtins.list[str], namespace: str, replacing: bool = False
    ) -> builtins.list[Sequence[float]]:
        """Return the vectors of texts, the namespace being claimed for the embedder, which there must be."""
        embedder = self._scope.embedder
        if embedder is None or not texts:
            return []
        space = self._space(namespace)
        state = await self._port.state(space)
        if not replacing:
            self._label(state, namespace)  # before the work, if it is known to be in vain
        vectors = await embedder.vectors(texts, self._scope.runtime)
        label = embedder.label(len(vectors[0]))
        if state.embedder != label:
            held = await self._port.claim(space, label, replacing)
            if held != label:
                raise self._mismatch(held, namespace)
        return vectors

    @stream
    async def reindex(
        self, *, namespace: str = "default", page: int = _PAGE, after: str | None = None
    ) -> AsyncGenerator[builtins.list[str], None]:
        """Make the vector of every item anew with this index's embedder, page by page; yields the ids that are done.

        Vectors that callers gave are replaced, too. Until it has ended, queries compare with the vectors made so far;
        it may be repeated.

        Args:
            namespace: what is made anew.
            page: how many items are embedded and stored at once.
            after: go on behind the last id that an interrupted run yielded.

        Raises:
            ConfigurationError: there is no embedder.
        """
        if self._scope.embedder is None:
            raise ConfigurationError("there is no embedder to make vectors with; choose one: index.embedded_by(...)")
        space = self._space(namespace)
        behind = None if after is None else _id(after)
        while True:
            with time_limit(self._timeout):
                items = await self._port.page(space, behind, page, ())
                if not items:
                    return
                behind = items[-1].id
                bare = [item._replace(vector=None) for item in items]
                await self._port.index(space, await self._embedded(bare, namespace, replacing=True))
            yield [item.id for item in items]

    @operation
    async def fetch(self, ids: Iterable[str], *, namespace: str = "default") -> builtins.list[IndexItem]:
        """Return those of the items that exist, in the order of ``ids``."""
        return await self._port.fetch(self._space(namespace), [_id(item) for item in ids])

    @operation
    async def list(
        self,
        limit: int = 100,
        *,
        after: str | None = None,
        filters: Mapping[str, Any] | None = None,
        namespace: str = "default",
    ) -> builtins.list[IndexItem]:
        """Return a page of items in the order of their ids.

        Args:
            limit: 1 to 1,000.
            after: the id of the last item of the page before.
            filters: conditions on metadata.
            namespace: where to look.
        """
        if type(limit) is not int or not 1 <= limit <= _MOST:
            raise InvalidQuery(f"a limit is 1 to {_MOST:,}, not {limit!r}")
        behind = None if after is None else _id(after)
        return await self._port.page(self._space(namespace), behind, limit, _conditions(filters or {}))

    @operation
    async def update_metadata(
        self, ids: str | Iterable[str], metadata: Mapping[str, Any], *, patch: bool = True, namespace: str = "default"
    ) -> int:
        """Change what items are filtered by, leaving texts and vectors as they are, in one atomic step.

        Args:
            ids: of one item or several.
            metadata: text, numbers, booleans and None by name.
            patch: True merges it into what is there, and None removes a name; False puts it in place of what is there.
            namespace: where the items are.

        Returns:
            How many of the items exist.
        """
        known = [_id(one) for one in ([ids] if isinstance(ids, str) else ids)]
        checked = _metadata(metadata, "the given ids")
        space = self._space(namespace)
        return await self._port.annotate(space, known, checked, patch) if known else 0

    @operation
    async def remove(self, *ids: str, namespace: str = "default") -> int:
        """Delete items by id; return how many existed."""
        return await self._port.remove(self._space(namespace), [_id(item) for item in ids])

    @operation
    async def reset(self, *, namespace: str = "default") -> int:
        """Delete everything in a namespace; return how many items there were."""
        return await self._port.reset(self._space(namespace))

    @operation
    async def count(self, *, namespace: str = "default") -> int:
        """Return the number of items in a namespace."""
        return await self._port.count(self._space(namespace))

    def _space(self, namespace: str) -> str:
        return self._scope.prefix("ix", namespace)


class BlockingIndex(Blocking, Index):
    """Full text and vectors, synchronous. ``storage.sync.index.search("words")``."""


class DetectingIndex(Detecting, Index):
    """Full text and vectors whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: Index, sync: BlockingIndex) -> None:
        super().__init__(aio._scope)
        self._aio, self._sync = aio, sync

    def embedded_by(self, embedder: Embedder | Embed | str) -> Self:
        """Return the same index with another embedder."""
        return type(self)(self._aio.embedded_by(embedder), self._sync.embedded_by(embedder))


def embedded_text(title: str, text: str) -> str:
    """Return what an embedder is shown of an item."""
    return f"{title} {text}"[:_EMBEDDED_CHARACTERS].strip()


def _question(space: str, query: SearchQuery, label: str) -> bytes:
    """Return a short name of everything that an answer depends on."""
    name = hashlib.sha256(repr((space, query._replace(vector=None), label)).encode())
    if query.vector is not None:
        name.update(array("d", query.vector).tobytes())
    return name.digest()


def _depth(words: bool, top_k: int) -> int:
    """Return how many candidates are looked for: twice what is shown at least, as far as that was found to matter."""
    return max(_DEPTH if words else min(_DEPTH, max(_DEPTH_ALONE, 2 * top_k)), top_k)


def _id(item: str) -> str:
    """Refuse an id that no backend could hold; stored as it is, limited like an escaped key."""
    escape(item)
    return item


def _conditions(filters: Mapping[str, Any] | Sequence[Condition]) -> list[Condition]:
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


def _check_size(vector: Sequence[float], label: str, namespace: str) -> None:
    """Refuse a vector that could be nobody's neighbour, because an embedder made those of the namespace."""
    name, _, dimension = label.rpartition(":")
    if dimension.isdecimal() and len(vector) != int(dimension):
        raise InvalidQuery(
            f"the vector has {len(vector)} numbers; those of namespace {namespace!r} have {dimension}, from {name!r}"
        )


def _item(given: Any) -> IndexItem:
    """Return an item that was given as itself or as a dictionary."""
    if isinstance(given, IndexItem):
        return given
    if not isinstance(given, Mapping):
        raise UnsupportedValue(
            f"an item of the index is a dictionary with 'id' and 'text', or an IndexItem, not {type(given).__name__}"
        )
    fields = {"title": "", "metadata": {}, **given}
    if missing := {"id", "text"} - set(fields):
        raise UnsupportedValue(f"an item of the index has no {min(missing)!r}")
    if unknown := set(fields) - set(IndexItem._fields):
        raise UnsupportedValue(
            f"an item of the index has {min(map(str, unknown))!r}, which belongs into its 'metadata'"
        )
    return IndexItem(**fields)


def _checked(item: IndexItem) -> IndexItem:
    """Refuse before any I/O what some backend could not hold."""
    _id(item.id)
    for name, value in (("title", item.title), ("text", item.text)):
        if not isinstance(value, str):
            raise UnsupportedValue(f"{name} of an indexed item must be text, not {type(value).__name__}")
        encode(value)
    about = _metadata(item.metadata, repr(item.id))
    return item._replace(metadata=about, vector=None if item.vector is None else packed_vector(item.vector))


def _metadata(metadata: Any, owner: str) -> dict[str, Any]:
    """Refuse metadata that some backend could not hold or filter by; return a copy."""
    if not isinstance(metadata, Mapping):
        raise UnsupportedValue(f"metadata of {owner} is a dictionary, not {type(metadata).__name__}")
    for key, value in metadata.items():
        if not isinstance(value, _PLAIN):
            raise UnsupportedValue(
                f"metadata {key!r} of {owner} is {type(value).__name__}; it holds text, numbers, booleans and None"
            )
    copy = dict(metadata)
    encode(copy)
    return copy
