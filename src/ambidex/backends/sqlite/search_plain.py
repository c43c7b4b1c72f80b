"""Ranking with nothing but SQLite and Python: where numpy is missing, and inside transactions; the port calls this.

The invariant: query text becomes quoted terms only, so no character of it is FTS5 syntax. FTS5 counts how rare a word
is over all namespaces of the file together; the order of results may differ a little from that of ``search_space.py``.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Sequence

from ambidex.backends.relational.sql import Args, Row
from ambidex.backends.sqlite.search_filters import where
from ambidex.core.ports import SearchQuery
from ambidex.core.text import query_terms

__all__ = ["by_text", "by_vector", "cosine"]

Read = Callable[[str, Args], list[Row]]

_SPACE = "(SELECT space FROM ambidex_spaces WHERE namespace = ?)"
_BY_TEXT = (
    "SELECT i.item, -bm25(ambidex_fts, 2.0, 1.0) FROM ambidex_fts JOIN ambidex_items i ON i.item = ambidex_fts.rowid"
    f" WHERE ambidex_fts MATCH ? AND i.space = {_SPACE}{{filters}}"
    " ORDER BY bm25(ambidex_fts, 2.0, 1.0), i.item LIMIT ?"
)
_BY_VECTOR = (
    "SELECT i.item, t.vector FROM ambidex_items i JOIN ambidex_texts t ON t.item = i.item"
    f" WHERE i.space = {_SPACE} AND length(t.vector) = ? AND i.item > ?{{filters}} ORDER BY i.item LIMIT 1000"
)


def by_text(read: Read, namespace: str, query: SearchQuery) -> dict[int, float]:
    """Return the BM25 scores of the best items, by number."""
    match = " OR ".join(f'"{word}"' for word in query_terms(query.text))
    if not match:
        return {}
    filters, bound = where(query.filters)
    return dict(read(_BY_TEXT.format(filters=filters), (match, namespace, *bound, query.depth)))


def by_vector(read: Read, namespace: str, query: SearchQuery, vector: Sequence[float]) -> dict[int, float]:
    """Return the cosines of the nearest items, by number; reads a thousand at a time."""
    filters, bound = where(query.filters)
    sql = _BY_VECTOR.format(filters=filters)
    best: list[tuple[float, int]] = []
    last = 0
    while rows := read(sql, (namespace, 4 * len(vector), last, *bound)):
        best = heapq.nlargest(query.depth, [*best, *((cosine(vector, array("f", row[1])), -row[0]) for row in rows)])
        last = rows[-1][0]
    return {-item: score for score, item in best}


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors, 0 where one has no direction."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(map(float.__mul__, one, other)) / lengths if lengths else 0.0
