"""Full text by BM25 and vectors by exact cosine, over every item at each query.

The reference for every other ``SearchPort``.

The ranking is Okapi BM25 over Porter stems with k1 = 1.2 and b = 0.75, the title counting double (Robertson and
Zaragoza 2009, "The Probabilistic Relevance Framework"). The invariant: filters are applied before candidates are cut,
so a filter never costs results.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ambidex.backends.memory.data import Data, Tables, first_version
from ambidex.core.fusion import fuse
from ambidex.core.ports import Hit, IndexItem, SearchQuery, SpaceState
from ambidex.core.query import Condition, matches
from ambidex.core.stem import stem
from ambidex.core.text import query_terms, terms

__all__ = ["MemorySearch"]

_K1, _B, _TITLE = 1.2, 0.75, 2


class MemorySearch:
    """Implements :class:`ambidex.core.ports.SearchPort`."""

    def __init__(self, data: Data) -> None:
        self._data = data

    async def state(self, namespace: str) -> SpaceState:
        with self._data.tables() as tables:
            return tables.spaces.get(namespace, SpaceState(0))._replace(private=self._data.in_transaction)

    async def claim(self, namespace: str, embedder: str, replace: bool = False) -> str:
        with self._data.tables(write=True) as tables:
            state = tables.spaces.get(namespace, SpaceState(0))
            label = embedder if replace or not state.embedder else state.embedder
            _stamp(tables, namespace, label)
            return label

    async def index(self, namespace: str, items: Sequence[IndexItem]) -> None:
        with self._data.tables(write=True) as tables:
            tables.indexes.setdefault(namespace, {}).update((item.id, _copy(item)) for item in items)
            _stamp(tables, namespace)

    async def query(self, namespace: str, query: SearchQuery) -> list[Hit]:
        with self._data.tables() as tables:
            everything = list(tables.indexes.get(namespace, {}).values())
        candidates = {item.id: item for item in everything if matches(query.filters, item.metadata)}
        text = _best(_bm25(query.text, everything, candidates), query.depth)
        vector = {} if query.vector is None else _best(_cosine(query.vector, candidates.values()), query.depth)
        scores = _best(fuse(text, vector, query.vector_weight, query.fusion), query.top_k)
        return [
            Hit(id_, min(1.0, score), (item := candidates[id_]).title, item.text, item.metadata.copy())
            for id_, score in scores.items()
        ]

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[IndexItem]:
        with self._data.tables() as tables:
            items = tables.indexes.get(namespace, {})
            return [_copy(items[id_]) for id_ in ids if id_ in items]

    async def page(
        self, namespace: str, after: str | None, limit: int, filters: Sequence[Condition]
    ) -> list[IndexItem]:
        with self._data.tables() as tables:
            items = list(tables.indexes.get(namespace, {}).values())
        found = [item for item in items if (after is None or item.id > after) and matches(filters, item.metadata)]
        return [_copy(item) for item in sorted(found, key=lambda item: item.id)[:limit]]

    async def annotate(self, namespace: str, ids: Sequence[str], metadata: dict[str, Any], patch: bool) -> int:
        with self._data.tables(write=True) as tables:
            items = tables.indexes.get(namespace, {})
            known = [id_ for id_ in dict.fromkeys(ids) if id_ in items]
            for id_ in known:
                about = {**items[id_].metadata, **metadata} if patch else metadata.copy()
                if patch:
                    about = {name: value for name, value in about.items() if metadata.get(name, name) is not None}
                items[id_] = items[id_]._replace(metadata=about)
            _stamp(tables, namespace)
            return len(known)

    async def remove(self, namespace: str, ids: Sequence[str]) -> int:
        with self._data.tables(write=True) as tables:
            items = tables.indexes.get(namespace, {})
            _stamp(tables, namespace)
            return sum(items.pop(id_, None) is not None for id_ in ids)

    async def reset(self, namespace: str) -> int:
        with self._data.tables(write=True) as tables:
            _stamp(tables, namespace, "")
            return len(tables.indexes.pop(namespace, {}))

    async def count(self, namespace: str) -> int:
        with self._data.tables() as tables:
            return len(tables.indexes.get(namespace, {}))


def _stamp(tables: Tables, namespace: str, embedder: str | None = None) -> None:
    """Note that a namespace was written to."""
    if embedder is None:
        embedder = tables.spaces.get(namespace, SpaceState(0)).embedder
    tables.spaces[namespace] = SpaceState(first_version(), embedder)


def _copy(item: IndexItem) -> IndexItem:
    """Return the item with metadata of its own, so that nobody changes what is stored by changing what they got."""
    return item._replace(metadata=item.metadata.copy(), vector=None if item.vector is None else list(item.vector))


def _best(scores: dict[str, float], count: int) -> dict[str, float]:
    """Keep the highest scores, best first; equal ones in the order of their ids, so that results repeat."""
    return dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:count])


def _bm25(query: str, everything: Sequence[IndexItem], candidates: dict[str, IndexItem]) -> dict[str, float]:
    words = list(map(stem, query_terms(query)))
    bags = {item.id: _bag(item) for item in everything}
    if not words or not bags:
        return {}
    average = sum(bag.total() for bag in bags.values()) / len(bags) or 1.0
    weight: dict[str, float] = {}
    for word in set(words):
        found = sum(word in bag for bag in bags.values())
        weight[word] = math.log(1 + (len(bags) - found + 0.5) / (found + 0.5))
    scores = {}
    for id_ in candidates:
        bag = bags[id_]
        norm = _K1 * (1 - _B + _B * bag.total() / average)
        score = sum(weight[word] * bag[word] * (_K1 + 1) / (bag[word] + norm) for word in words if word in bag)
        if score:
            scores[id_] = score
    return scores


def _bag(item: IndexItem) -> Counter[str]:
    bag = Counter(map(stem, terms(item.text)))
    for word in terms(item.title):
        bag[stem(word)] += _TITLE
    return bag


def _cosine(vector: Sequence[float], items: Iterable[IndexItem]) -> dict[str, float]:
    length = math.hypot(*vector) or 1.0
    scores = {}
    for item in items:
        if item.vector is not None and len(item.vector) == len(vector):
            other = math.hypot(*item.vector) or 1.0
            scores[item.id] = sum(a * b for a, b in zip(vector, item.vector, strict=True)) / (length * other)
    return scores
