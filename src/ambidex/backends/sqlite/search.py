"""Full text and vectors on SQLite; the leaf makes one port.

The recipe was measured on public collections: Porter stemming, terms joined by OR, stop words dropped from the query,
the title counting double, BM25, and exact cosines. With numpy, both are ranked over arrays that are derived from the
rows (``search_space.py``); without it, by FTS5 and in plain Python (``search_plain.py``), as also inside a transaction,
whose rows nobody else may see. The invariant: namespace and filters are applied before candidates are cut, so they
never cost results; whatever is shown was read from the rows.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from array import array
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import apsw
import msgspec

from ambidex.backends.relational.sql import Args, Row, SqlLeaf
from ambidex.backends.sqlite import search_plain
from ambidex.backends.sqlite.search_filters import to_json, where
from ambidex.backends.sqlite.search_schema import forget, put, space_of, stamp
from ambidex.backends.sqlite.search_words import query_words, words_of
from ambidex.core.fusion import fuse
from ambidex.core.ports import Hit, IndexItem, SearchQuery, SpaceState
from ambidex.core.query import Condition
from ambidex.core.text import query_terms

if TYPE_CHECKING:
    from ambidex.backends.sqlite.search_space import Spaces

__all__ = ["SqliteSearch"]

T = TypeVar("T")
Read = Callable[[str, Args], list[Row]]

_RESCORED = 40
"""How many of the nearest by whole numbers are compared once more as they were given, and how many are kept in reserve
where words do not count, in case that some disappear meanwhile."""
_ROUNDING = 0.01
"""Cosines in whole numbers that differ by more are in the right order."""

_STATE = "SELECT stamp, embedder FROM ambidex_spaces WHERE namespace = ?"
_SPACE = "SELECT space FROM ambidex_spaces WHERE namespace = ?"
_SPACE_NOW = "SELECT space, stamp FROM ambidex_spaces WHERE namespace = ?"
_COLUMNS = "i.id, t.title, t.text, i.metadata, t.vector FROM ambidex_items i JOIN ambidex_texts t ON t.item = i.item"
_FETCH = f"SELECT {_COLUMNS} WHERE i.space = ({_SPACE}) AND i.id IN (SELECT value FROM json_each(?))"
_LISTED = f"SELECT {_COLUMNS} WHERE i.space = ({_SPACE}) AND i.id {{behind}} ?{{filters}} ORDER BY i.id LIMIT ?"
_SHOW = (
    "SELECT i.item, i.id, t.title, t.text, i.metadata{vector}"
    " FROM ambidex_items i JOIN ambidex_texts t ON t.item = i.item WHERE i.item IN (SELECT value FROM json_each(?))"
)
_SHOWN, _SHOWN_WITH_VECTORS = _SHOW.format(vector=""), _SHOW.format(vector=", t.vector")
_VECTORS = (
    "SELECT item, vector FROM ambidex_texts WHERE item IN (SELECT value FROM json_each(?)) AND vector IS NOT NULL"
)
_COUNT = f"SELECT count(*) FROM ambidex_items WHERE space = ({_SPACE})"
_FOUND = "SELECT item FROM ambidex_items WHERE space = ? AND id IN (SELECT value FROM json_each(?))"
_CLAIM = "UPDATE ambidex_spaces SET embedder = ? WHERE space = ? AND (embedder = '' OR ?)"
_CLAIMED = "SELECT embedder FROM ambidex_spaces WHERE space = ?"
_REPLACE = "UPDATE ambidex_items SET metadata = ? WHERE item = ?"
_PATCH = "UPDATE ambidex_items SET metadata = json_patch(metadata, ?) WHERE item = ?"


class _Leaf(SqlLeaf, Protocol):
    def in_transaction(self) -> bool: ...

    def together(self, call: Callable[[Read], T]) -> Awaitable[T]: ...

    def change(self, work: Callable[[apsw.Connection], Any]) -> Awaitable[Any]: ...

    def apart(self, call: Callable[[], T]) -> Awaitable[T]: ...


class SqliteSearch:
    """Implements :class:`ambidex.core.ports.SearchPort`.

    Args:
        leaf: runs the statements.
        spaces: returns what this process holds of the namespaces, the same for both colours.
    """

    def __init__(self, leaf: _Leaf, spaces: Callable[[], Spaces]) -> None:
        self._leaf = leaf
        self._spaces = spaces

    async def state(self, namespace: str) -> SpaceState:
        row = await self._leaf.row(_STATE, (namespace,))
        return SpaceState(0) if row is None else SpaceState(row[0], row[1], self._leaf.in_transaction())

    async def claim(self, namespace: str, embedder: str, replace: bool = False) -> str:
        def work(conn: apsw.Connection) -> str:
            space = space_of(conn, namespace)
            conn.execute(_CLAIM, (embedder, space, replace)).fetchall()
            rows: list[Any] = conn.execute(_CLAIMED, (space,)).fetchall()
            return str(rows[0][0])

        return str(await self._leaf.change(work))

    async def index(self, namespace: str, items: Sequence[IndexItem]) -> None:
        last = {item.id: item for item in items}  # of equal ids the last one counts
        rows = await self._leaf.apart(lambda: [_row(item) for item in last.values()])
        ids = to_json(list(last))
        await self._leaf.change(lambda conn: put(conn, namespace, rows, ids))

    async def query(self, namespace: str, query: SearchQuery) -> list[Hit]:
        if self._leaf.in_transaction() or not _has_numpy():
            return await self._leaf.together(lambda read: _plainly(read, namespace, query))
        return await self._leaf.together(lambda read: self._ranked(read, namespace, query))

    def _ranked(self, read: Read, namespace: str, query: SearchQuery) -> list[Hit]:
        rows = read(_SPACE_NOW, (namespace,))
        if not rows:
            return []
        space = self._spaces().get(rows[0][0])
        view = space.view(read, rows[0][1])
        chosen = space.chosen(view, read, query.filters)
        words = query_words(query_terms(query.text))
        by_text = view.by_text(words, chosen, query.depth) if words else {}
        by_vector: dict[int, float] = {}
        known: dict[int, Row] = {}
        if query.vector is not None:
            kept = query.depth if words else query.top_k + _RESCORED
            by_vector = view.by_vector(query.vector, chosen, query.depth, query.top_k, kept)
            nearest = to_json(_doubtful(by_vector, query.top_k, bool(words)))
            if words:
                rows = read(_VECTORS, (nearest,))
            else:  # most of these will be shown
                found = read(_SHOWN_WITH_VECTORS, (nearest,))
                known = {row[0]: row[1:] for row in found}
                rows = [(row[0], row[5]) for row in found if row[5] is not None]
            by_vector.update(view.exactly(query.vector, rows))
        return _show(read, query, by_text, by_vector, known)

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[IndexItem]:
        rows = await self._leaf.rows(_FETCH, (namespace, to_json(list(ids))))
        found = {row[0]: _item(row) for row in rows}
        return [found[id_] for id_ in ids if id_ in found]

    async def page(
        self, namespace: str, after: str | None, limit: int, filters: Sequence[Condition]
    ) -> list[IndexItem]:
        text, bound = where(filters)
        statement = _LISTED.format(filters=text, behind=">=" if after is None else ">")
        rows = await self._leaf.rows(statement, (namespace, after or "", *bound, limit))
        return [_item(row) for row in rows]

    async def annotate(self, namespace: str, ids: Sequence[str], metadata: dict[str, Any], patch: bool) -> int:
        data = to_json(metadata)

        def work(conn: apsw.Connection) -> int:
            space = space_of(conn, namespace)
            found: list[Any] = conn.execute(_FOUND, (space, to_json(list(ids)))).fetchall()
            conn.executemany(_PATCH if patch else _REPLACE, [(data, item) for (item,) in found]).fetchall()
            conn.execute("UPDATE ambidex_spaces SET noted = ? WHERE space = ?", (stamp(), space)).fetchall()
            return len(found)

        return int(await self._leaf.change(work))

    async def remove(self, namespace: str, ids: Sequence[str]) -> int:
        def work(conn: apsw.Connection) -> int:
            space = space_of(conn, namespace)
            found: list[Any] = conn.execute(_FOUND, (space, to_json(list(ids)))).fetchall()
            forget(conn, space, [item for (item,) in found])
            return len(found)

        return int(await self._leaf.change(work)) if ids else 0

    async def reset(self, namespace: str) -> int:
        def work(conn: apsw.Connection) -> int:
            space = space_of(conn, namespace)
            found = conn.execute("SELECT item FROM ambidex_items WHERE space = ?", (space,)).fetchall()
            forget(conn, space, [item for (item,) in found])
            conn.execute("UPDATE ambidex_spaces SET embedder = '', stamp = ? WHERE space = ?", (stamp(), space))
            return len(found)

        return int(await self._leaf.change(work))

    async def count(self, namespace: str) -> int:
        row = await self._leaf.row(_COUNT, (namespace,))
        return int(row[0]) if row else 0


@functools.cache
def _has_numpy() -> bool:
    return importlib.util.find_spec("numpy") is not None


def _row(item: IndexItem) -> tuple[Any, ...]:
    vector = item.vector
    if vector is not None:
        vector = (vector if isinstance(vector, array) and vector.typecode == "f" else array("f", vector)).tobytes()
    return item.id, to_json(item.metadata), vector, words_of(item.title, item.text), item.title, item.text


def _item(row: Row) -> IndexItem:
    vector = None if row[4] is None else array("f", row[4]).tolist()
    return IndexItem(row[0], row[1], row[2], msgspec.json.decode(row[3]), vector)


def _plainly(read: Read, namespace: str, query: SearchQuery) -> list[Hit]:
    by_text = search_plain.by_text(read, namespace, query)
    by_vector = {} if query.vector is None else search_plain.by_vector(read, namespace, query, query.vector)
    return _show(read, query, by_text, by_vector, {})


def _doubtful(cosines: dict[int, float], count: int, fused: bool) -> list[int]:
    """Return the items to compare once more, so that the first ``count`` are right.

    Args:
        cosines: by item, the highest first.
        count: how many are shown.
        fused: the scores themselves matter, not only their order.
    """
    nearest = list(cosines.items())[: max(_RESCORED, count)]
    if fused or len(nearest) <= count:
        return [item for item, _ in nearest]
    least = nearest[count - 1][1] - _ROUNDING
    return [item for item, cosine in nearest if cosine >= least]


def _show(
    read: Read, query: SearchQuery, by_text: dict[int, float], by_vector: dict[int, float], known: dict[int, Row]
) -> list[Hit]:
    """Fuse and return the best items as they are; one that disappeared meanwhile gives its place to the next.

    Args:
        read: runs a query.
        query: what is wanted.
        by_text: the scores by words.
        by_vector: those by vectors.
        known: by item what is shown of it, as far as it was read.
    """
    fused = fuse(by_text, by_vector, query.vector_weight, query.fusion)
    ranked = sorted(sorted(fused.items()), key=itemgetter(1), reverse=True)  # of equal ones the oldest first
    hits: list[Hit] = []
    while ranked and len(hits) < query.top_k:
        missing = query.top_k - len(hits)
        part, ranked = ranked[:missing], ranked[missing:]
        unknown = [item for item, _ in part if item not in known]
        shown = known | {row[0]: row[1:] for row in read(_SHOWN, (to_json(unknown),))} if unknown else known
        hits += [
            Hit(found[0], min(1.0, score), found[1], found[2], msgspec.json.decode(found[3]))
            for item, score in part
            if (found := shown.get(item)) is not None and math.isfinite(score)
        ]
    return hits
