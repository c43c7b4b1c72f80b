"""Full text and vectors on PostgreSQL; the leaf makes one port.

The recipe is that of the SQLite backend: Porter stemming, terms joined by OR, stop words dropped from the query, the
title counting double, BM25, and cosines. The invariant: namespace and filters are applied before candidates are cut, so
they never cost results; whatever is shown was read from the rows; nothing is kept between calls, so that every process
and every transaction sees what the database shows it. ``search_schema.py`` says how writers keep out of each other's
way.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from ambidex.backends.postgres.search_filters import to_json, where
from ambidex.backends.postgres.search_graph import Graph, find, nearest, shown, wanting
from ambidex.backends.postgres.search_schema import Texts, level_of, stamp
from ambidex.backends.postgres.search_upkeep import Upkeep
from ambidex.backends.postgres.search_vectors import Half, Vectors, nearest_of, unit_half
from ambidex.backends.postgres.search_words import Bag, Corpus, bag_of, best, postings, query_words
from ambidex.backends.postgres.wire import bigint_array, bytea_array, text_array
from ambidex.backends.relational.sql import Row, SqlLeaf, Statement
from ambidex.core.fusion import fuse, normalise
from ambidex.core.ports import Hit, IndexItem, SearchQuery, SpaceState
from ambidex.core.query import Condition

__all__ = ["PostgresSearch"]

T = TypeVar("T")

_AT_ONCE = 1_000
"""Items a batch of postings; more only make the request larger."""
_INLINE_BYTES = 32_768
"""Postings up to this size are summed on the loop itself, which takes less than to hand them over."""

_FEW, _FEW_SHARE = 8_000, 0.04
"""Up to so many vectors, or such a share of all, are compared one by one rather than by the graph."""


class _Leaf(SqlLeaf, Protocol):
    def in_transaction(self) -> bool: ...

    def together(self, statements: Sequence[Statement]) -> Awaitable[list[list[Row]]]: ...

    def apart(self, call: Callable[[], T]) -> Awaitable[T]: ...


class _Asked(NamedTuple):
    """What asks a graph, before it is known whether the namespace still has it."""

    graph: Graph
    statements: list[Statement]


class PostgresSearch:
    """Implements :class:`ambidex.core.ports.SearchPort`.

    Args:
        leaf: runs the statements.
        prefix: of the tables: a schema and its dot, or "".
        vectors: what is known of them, the same for both colours.
        upkeep: is told of writes and of queries by vector.
    """

    def __init__(self, leaf: _Leaf, prefix: str, vectors: Vectors, upkeep: Upkeep) -> None:
        self._leaf, self._vectors, self._upkeep = leaf, vectors, upkeep
        self._sql, self._prefix = Texts.of(prefix), prefix
        space = f"(SELECT space FROM {prefix}ambidex_spaces WHERE namespace = ?)"
        self._sums = (
            f"SELECT coalesce(sum(items), 0)::bigint, coalesce(sum(words), 0)::bigint, {space}"
            f" FROM {prefix}ambidex_changes WHERE space = {space}"
        )
        self._postings = (
            f"SELECT term, docs FROM {prefix}ambidex_postings WHERE space = {space}"
            " AND level = ANY ('{0,1,2,3}') AND term = ANY (?::bigint[]::int[])"
        )
        self._gone = f"SELECT array_send(array_agg(item)) FROM {prefix}ambidex_gone WHERE space = {space}"
        self._kept = f"SELECT array_send(array_agg(i.item)) FROM {prefix}ambidex_items i WHERE i.space = {space}"
        self._show = (
            f"SELECT i.item, i.id, t.title, t.text, i.metadata::text FROM {prefix}ambidex_items i"
            f" JOIN {prefix}ambidex_texts t ON t.item = i.item WHERE i.item = ANY (?::bigint[])"
        )

    async def state(self, namespace: str) -> SpaceState:
        row = await self._leaf.row(self._sql.state, (namespace,))
        private = self._leaf.in_transaction()
        return SpaceState(0, private=private) if row is None else SpaceState(row[0], row[1], private)

    async def claim(self, namespace: str, embedder: str, replace: bool = False) -> str:
        sql = self._sql
        rows = await self._leaf.script(
            [
                *self._opening(namespace),
                (sql.claim, (embedder, namespace, replace)),
                (sql.change, (stamp(), None, 0, 0, namespace)),
                (sql.state, (namespace,)),
            ]
        )
        return str(rows[-1][0][1])

    def _opening(self, namespace: str) -> list[Statement]:
        """Return what makes the namespace, if need be, and keeps it from being emptied meanwhile."""
        return [(self._sql.begin, (namespace, namespace)), (self._sql.share, (namespace,))]

    async def _half(self) -> Half | None:
        return await self._vectors.half(self._leaf.script, lasting=not self._leaf.in_transaction())

    async def index(self, namespace: str, items: Sequence[IndexItem]) -> None:
        last = {item.id: item for item in items}  # of equal ids the last one counts
        if not last:
            return
        ordered = [last[id_] for id_ in sorted(last)]  # so that two batches cannot lock rows crosswise
        bags = await self._leaf.apart(lambda: [bag_of(item.title, item.text) for item in ordered])
        half = await self._half() if any(item.vector is not None for item in ordered) else None
        numbers = sorted(row[0] for row in await self._leaf.rows(self._sql.numbers, (len(ordered),)))
        statements = await self._leaf.apart(lambda: self._storing(namespace, ordered, bags, numbers, half))
        await self._leaf.script(statements)
        self._upkeep.written(namespace, len(ordered))

    def _storing(
        self,
        namespace: str,
        items: Sequence[IndexItem],
        bags: Sequence[Bag],
        numbers: Sequence[int],
        half: Half | None,
    ) -> list[Statement]:
        """Return the statements that add or replace items, which are in the order of their ids."""
        sql, new = self._sql, bigint_array(numbers)
        words = bigint_array([bag.words for bag in bags])
        about = text_array([to_json(item.metadata) for item in items])
        titles, texts = text_array([item.title for item in items]), text_array([item.text for item in items])
        vectors = bytea_array([None if one.vector is None else array("f", one.vector).tobytes() for one in items])
        statements = [
            *self._opening(namespace),
            (sql.items, (namespace, text_array([item.id for item in items]), new, words, about)),
            (sql.replaced, (new,)),
            (sql.texts, (new, titles, texts, vectors)),
        ]
        if half is not None:
            statements += self._vectors.store(half, namespace, numbers, [item.vector for item in items])
        for start in range(0, len(items), _AT_ONCE):
            part, level = numbers[start : start + _AT_ONCE], level_of(min(_AT_ONCE, len(items) - start))
            docs = postings(bags[start : start + _AT_ONCE], part)
            if docs:
                columns = bigint_array(list(docs)), bytea_array(list(docs.values()))
                statements.append((sql.postings, (namespace, level, part[0], *columns)))
            total = sum(bag.words for bag in bags[start : start + _AT_ONCE])
            statements.append((sql.change, (stamp(), level, len(part), total, namespace)))
        return statements

    async def query(self, namespace: str, query: SearchQuery) -> list[Hit]:
        words = query_words(query.text)
        asked = self._foreseen(namespace, query, bool(words))
        if asked is not None and not words:
            by_graph = await self._leaf.together(asked.statements)
            if asked.graph == _graph(by_graph[0], asked.graph.dimension):
                self._upkeep.asked(namespace, missing=False)
                return _hits(by_graph[1])
            asked = None
        space, corpus, graph, by_vector = await self._read(namespace, words, query, asked)
        by_text: dict[int, float] = {}
        if words and corpus.items:
            size = sum(len(part) for parts in corpus.postings.values() for part in parts)
            if size <= _INLINE_BYTES:
                by_text = best(words, corpus, query.depth)
            else:
                by_text = await self._leaf.apart(lambda: best(words, corpus, query.depth))
        if by_vector is None:
            by_vector = {}
            if query.vector is not None and corpus.items and corpus.kept != b"":
                by_vector = await self._by_vector(namespace, space, query, query.vector, corpus, graph)
        return await self._shown(query, by_text, by_vector)

    def _foreseen(self, namespace: str, query: SearchQuery, fused: bool) -> _Asked | None:
        """Return what asks the graph that was there the last time, for the same request may ask whether it still is.

        Under filters it depends on what they keep whether the graph is asked at all.
        """
        vector, half = query.vector, self._vectors.known
        if vector is None or half is None or not half.graphs or query.filters:
            return None
        graph = self._vectors.graph(namespace, len(vector))
        if graph is None:
            return None
        unit, depth = unit_half(vector), query.depth
        if fused:
            ask = nearest(self._prefix, half.schema, graph, unit, ("", ()), depth)
        else:
            ask = shown(self._prefix, half.schema, graph, unit, depth, query.top_k)
        return _Asked(graph, [find(self._prefix, namespace, graph.dimension, depth), ask])

    async def _read(
        self, namespace: str, words: dict[int, int], query: SearchQuery, asked: _Asked | None
    ) -> tuple[int, Corpus, Graph | None, dict[int, float] | None]:
        """Read in one round trip the namespace's number, what words are ranked by, what filters keep, and its graph.

        With the graph comes what it finds, if it is the one that was foreseen.
        """
        statements: list[Statement] = [(self._sums, (namespace, namespace))]
        if words:
            statements.append((self._postings, (namespace, bigint_array(list(words)))))
            statements.append((self._gone, (namespace,)))
        if query.filters:
            text, bound = where(query.filters)
            statements.append((self._kept + text, (namespace, *bound)))
        dimension = 0 if query.vector is None else len(query.vector)
        place = len(statements)
        statements += asked.statements if asked else [find(self._prefix, namespace, dimension)]
        answers = await self._leaf.together(statements)
        items, total, space = answers[0][0]
        found: dict[int, list[bytes]] = {}
        for term, docs in answers[1] if words else ():
            found.setdefault(term, []).append(docs)
        gone = answers[2][0][0] if words else None
        kept = (answers[place - 1][0][0] or b"") if query.filters else None
        graph = _graph(answers[place], dimension)
        self._vectors.note(namespace, dimension, graph)
        if dimension and (graph is not None or wanting(items, dimension)):
            self._upkeep.asked(namespace, missing=graph is None)
        by_vector: dict[int, float] | None = dict(answers[-1]) if asked is not None and asked.graph == graph else None
        return space, Corpus(items, total, found, gone or b"", kept), graph, by_vector

    async def _by_vector(
        self,
        namespace: str,
        space: int,
        query: SearchQuery,
        vector: Sequence[float],
        corpus: Corpus,
        graph: Graph | None,
    ) -> dict[int, float]:
        half = await self._half()
        if half is not None and self._vectors.fits(half, len(vector)):
            kept = corpus.items if corpus.kept is None else len(corpus.kept) // 12
            if graph is None or not half.graphs or kept < _FEW or kept < _FEW_SHARE * corpus.items:
                asked = [self._vectors.nearest(half, space, vector, corpus.kept, query.depth)]
            else:
                filters = where(query.filters)
                by_graph = nearest(self._prefix, half.schema, graph, unit_half(vector), filters, query.depth)
                asked = [find(self._prefix, namespace, graph.dimension, query.depth), by_graph]
            return dict((await self._leaf.together(asked))[-1])
        text, bound = where(query.filters)
        found: dict[int, float] = {}
        last = 0
        while rows := await self._leaf.rows(*self._vectors.page(namespace, len(vector), last, text, bound)):
            last = rows[-1][0]
            part, so_far = rows, found
            found = await self._leaf.apart(lambda: nearest_of(vector, part, so_far, query.depth))  # noqa: B023
        return found

    async def _shown(self, query: SearchQuery, by_text: dict[int, float], by_vector: dict[int, float]) -> list[Hit]:
        """Fuse and return the best items as they are; one that disappeared meanwhile gives its place to the next."""
        fused = fuse(by_text, by_vector, query.vector_weight, query.fusion)
        ranked = sorted(fused.items(), key=lambda pair: (-pair[1], pair[0]))
        hits: list[Hit] = []
        while ranked and len(hits) < query.top_k:
            missing = query.top_k - len(hits)
            part, ranked = ranked[:missing], ranked[missing:]
            rows = await self._leaf.rows(self._show, (bigint_array([item for item, _ in part]),))
            shown = {row[0]: row[1:] for row in rows}
            hits += [
                Hit(found[0], min(1.0, score), found[1], found[2], msgspec.json.decode(found[3]))
                for item, score in part
                if (found := shown.get(item)) is not None and math.isfinite(score)
            ]
        return hits

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[IndexItem]:
        rows = await self._leaf.rows(self._sql.fetch, (namespace, text_array(ids)))
        found = {row[0]: _item(row) for row in rows}
        return [found[id_] for id_ in ids if id_ in found]

    async def page(
        self, namespace: str, after: str | None, limit: int, filters: Sequence[Condition]
    ) -> list[IndexItem]:
        text, bound = where(filters)
        statement = self._sql.listed.format(filters=text, behind=">=" if after is None else ">")
        rows = await self._leaf.rows(statement, (namespace, after or "", *bound, limit))
        return [_item(row) for row in rows]

    async def annotate(self, namespace: str, ids: Sequence[str], metadata: dict[str, Any], patch: bool) -> int:
        sql, chosen = self._sql, text_array(sorted(set(ids)))
        if patch:
            added = to_json({name: value for name, value in metadata.items() if value is not None})
            dropped = text_array([name for name, value in metadata.items() if value is None])
            change: Statement = (sql.patch, (added, dropped, namespace, chosen))
        else:
            change = (sql.replace, (to_json(metadata), namespace, chosen))
        rows = await self._leaf.script(
            [
                (sql.share, (namespace,)),
                (sql.lock, (namespace, chosen)),
                change,
                (sql.change, (stamp(), None, 0, 0, namespace)),
            ]
        )
        self._upkeep.written(namespace, 0)
        return len(rows[2])

    async def remove(self, namespace: str, ids: Sequence[str]) -> int:
        if not ids:
            return 0
        chosen = text_array(sorted(set(ids)))
        statements: list[Statement] = [
            (self._sql.share, (namespace,)),
            (self._sql.lock, (namespace, chosen)),
            (self._sql.doom, (namespace, chosen)),
            (self._sql.remove, (namespace, chosen, stamp())),
        ]
        rows = (await self._leaf.script(statements))[-1]
        self._upkeep.written(namespace, len(ids))
        return int(rows[0][0]) if rows else 0

    async def reset(self, namespace: str) -> int:
        sql = self._sql
        rows = await self._leaf.script(
            [
                (sql.exclude, (namespace,)),
                *((text, (namespace,)) for text in sql.reset[:-1]),
                (sql.reset[-1], (stamp(), namespace)),
            ]
        )
        return int(rows[-len(sql.reset)][0][0])

    async def count(self, namespace: str) -> int:
        row = await self._leaf.row(self._sql.count, (namespace,))
        return int(row[0]) if row else 0


def _graph(rows: Sequence[Row], dimension: int) -> Graph | None:
    """Return the graph that :func:`find` found."""
    return Graph(rows[0][0], dimension, rows[0][1]) if rows else None


def _hits(rows: Sequence[Row]) -> list[Hit]:
    """Return what :func:`shown` shows, as it would be found beside no words."""
    cosines = {row[0]: row[1] for row in rows}
    for row in rows[:1]:
        cosines[-1] = row[2]  # the least of all that were found, which decides what 0 is
    scores = normalise(cosines)
    return [Hit(row[3], scores[row[0]], row[4], row[5], msgspec.json.decode(row[6])) for row in rows]


def _item(row: Row) -> IndexItem:
    vector = None if row[4] is None else array("f", row[4]).tolist()
    return IndexItem(row[0], row[1], row[2], msgspec.json.decode(row[3]), vector)
