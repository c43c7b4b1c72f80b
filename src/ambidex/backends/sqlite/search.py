"""Full text on SQLite's FTS5, with vectors beside it; the leaf makes one.

The recipe was measured on public collections: Porter stemming, terms joined by OR, stop words dropped from the query,
the title counting double, BM25. The invariant: query text becomes quoted terms only, so no character of it is FTS5
syntax; namespace and filters stand in the statement that selects the candidates, so they never cost results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ambidex.backends.relational.sql import Args, Row, SqlLeaf
from ambidex.core.fusion import fuse
from ambidex.core.ports import Hit, IndexItem, SearchQuery
from ambidex.core.query import Condition
from ambidex.core.text import query_terms

__all__ = ["SCHEMA", "SqliteSearch"]

SCHEMA = (
    "CREATE TABLE ambidex_items (item INTEGER PRIMARY KEY, namespace TEXT NOT NULL, id TEXT NOT NULL,"
    " title TEXT NOT NULL,"
    " text TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB, UNIQUE (namespace, id))",
    "CREATE VIRTUAL TABLE ambidex_fts USING fts5(title, text, content='ambidex_items', content_rowid='item',"
    " tokenize='porter unicode61')",
    "CREATE TRIGGER ambidex_items_added AFTER INSERT ON ambidex_items BEGIN"
    " INSERT INTO ambidex_fts (rowid, title, text) VALUES (new.item, new.title, new.text); END",
    "CREATE TRIGGER ambidex_items_removed AFTER DELETE ON ambidex_items BEGIN"
    " INSERT INTO ambidex_fts (ambidex_fts, rowid, title, text) VALUES ('delete', old.item, old.title, old.text); END",
    "CREATE TRIGGER ambidex_items_changed AFTER UPDATE ON ambidex_items BEGIN"
    " INSERT INTO ambidex_fts (ambidex_fts, rowid, title, text) VALUES ('delete', old.item, old.title, old.text);"
    " INSERT INTO ambidex_fts (rowid, title, text) VALUES (new.item, new.title, new.text); END",
)

_PUT = (
    "INSERT INTO ambidex_items (namespace, id, title, text, metadata, vector) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace, id) DO UPDATE"
    " SET title = excluded.title, text = excluded.text, metadata = excluded.metadata, vector = excluded.vector"
)
_BY_TEXT = (
    "SELECT i.item, -bm25(ambidex_fts, 2.0, 1.0) FROM ambidex_fts JOIN ambidex_items i ON i.item = ambidex_fts.rowid"
    " WHERE ambidex_fts MATCH ? AND i.namespace = ?{filters} ORDER BY bm25(ambidex_fts, 2.0, 1.0), i.id LIMIT ?"
)
_BY_VECTOR = "SELECT i.item, i.vector FROM ambidex_items i WHERE i.namespace = ? AND i.vector IS NOT NULL{filters}"
_FETCH = (
    "SELECT id, title, text, metadata, vector FROM ambidex_items"
    " WHERE namespace = ? AND id IN (SELECT value FROM json_each(?))"
)
_SHOW = "SELECT item, id, title, text, metadata FROM ambidex_items WHERE item IN (SELECT value FROM json_each(?))"
_REMOVE = "DELETE FROM ambidex_items WHERE namespace = ? AND id IN (SELECT value FROM json_each(?)) RETURNING 1"
_RESET = "DELETE FROM ambidex_items WHERE namespace = ? RETURNING 1"
_COUNT = "SELECT count(*) FROM ambidex_items WHERE namespace = ?"

_FIELD = "json_extract(i.metadata, '$.' || json_quote(?))"
_OPERATORS = {
    "eq": f"{_FIELD} IS ?",
    "ne": f"{_FIELD} IS NOT ?",
    "gt": f"{_FIELD} > ?",
    "ge": f"{_FIELD} >= ?",
    "lt": f"{_FIELD} < ?",
    "le": f"{_FIELD} <= ?",
    "contains": f"instr({_FIELD}, ?) > 0",
    "startswith": f"substr({_FIELD}, 1, length(?)) = ?",
    "is_null": f"({_FIELD} IS NULL) = ?",
}
_LISTED = f"(coalesce({_FIELD} IN (SELECT value FROM json_each(?)), 0) OR ({_FIELD} IS NULL AND ?))"
# SQLite orders every text above every number; ambidex never compares one with the other.
_IS_TEXT = f"typeof({_FIELD}) = 'text'"
_IS_NUMBER = f"typeof({_FIELD}) IN ('integer', 'real')"


class _Leaf(SqlLeaf, Protocol):
    async def heavy(self, sql: str, args: Args = ()) -> list[Row]: ...


class SqliteSearch:
    """Implements :class:`ambidex.core.ports.SearchPort`."""

    def __init__(self, leaf: _Leaf) -> None:
        self._leaf = leaf

    async def index(self, namespace: str, items: Sequence[IndexItem]) -> None:
        rows = [(namespace, i.id, i.title, i.text, _json(i.metadata), _floats(i.vector)) for i in items]
        await self._leaf.write_many(_PUT, rows)

    async def query(self, namespace: str, query: SearchQuery) -> list[Hit]:
        filters, bound = _where(query.filters)
        match = " OR ".join(f'"{word}"' for word in query_terms(query.text))
        by_text: dict[int, float] = {}
        if match:
            by_text = dict(
                await self._leaf.heavy(_BY_TEXT.format(filters=filters), (match, namespace, *bound, query.depth))
            )
        by_vector: dict[int, float] = {}
        if query.vector is not None:
            rows = await self._leaf.heavy(_BY_VECTOR.format(filters=filters), (namespace, *bound))
            by_vector = _nearest(query.vector, rows, query.depth)
        scores = sorted(fuse(by_text, by_vector, query.vector_weight).items(), key=lambda pair: -pair[1])[: query.top_k]
        shown = {row[0]: row[1:] for row in await self._leaf.rows(_SHOW, (_json([item for item, _ in scores]),))}
        return [
            Hit(found[0], score, found[1], found[2], msgspec.json.decode(found[3]))
            for item, score in scores
            if (found := shown.get(item)) is not None  # it may have been removed since
        ]

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[IndexItem]:
        rows = await self._leaf.rows(_FETCH, (namespace, _json(list(ids))))
        found = {
            row[0]: IndexItem(row[0], row[1], row[2], msgspec.json.decode(row[3]), _vector(row[4])) for row in rows
        }
        return [found[id_] for id_ in ids if id_ in found]

    async def remove(self, namespace: str, ids: Sequence[str]) -> int:
        return len(await self._leaf.write(_REMOVE, (namespace, _json(list(ids)))))

    async def reset(self, namespace: str) -> int:
        return len(await self._leaf.write(_RESET, (namespace,)))

    async def count(self, namespace: str) -> int:
        row = await self._leaf.row(_COUNT, (namespace,))
        return int(row[0]) if row else 0


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _floats(vector: Sequence[float] | None) -> bytes | None:
    from array import array

    return None if vector is None else array("f", vector).tobytes()


def _vector(data: bytes | None) -> list[float] | None:
    from array import array

    return None if data is None else array("f", data).tolist()


def _nearest(vector: Sequence[float], rows: Sequence[Row], depth: int) -> dict[int, float]:
    """Return the ``depth`` items with the highest cosine."""
    length = math.hypot(*vector) or 1.0
    scores: dict[int, float] = {}
    for item, data in rows:
        other = _vector(data) or []
        if len(other) == len(vector):
            dot = sum(a * b for a, b in zip(vector, other, strict=True))
            scores[item] = dot / (length * (math.hypot(*other) or 1.0))
    return dict(sorted(scores.items(), key=lambda pair: -pair[1])[:depth])


def _where(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    """Return the conditions as SQL from a fixed set of texts, and the values to bind."""
    parts: list[str] = []
    bound: list[Any] = []
    for field, op, value in conditions:
        if op in ("in", "not_in"):
            parts.append(f" AND NOT {_LISTED}" if op == "not_in" else f" AND {_LISTED}")
            bound += [field, _json([one for one in value if one is not None]), field, None in value]
            continue
        if op in ("gt", "ge", "lt", "le", "contains", "startswith"):
            parts.append(f" AND {_IS_TEXT if isinstance(value, str) else _IS_NUMBER}")
            bound.append(field)
        parts.append(f" AND {_OPERATORS[op]}")
        bound += [field, value, value] if op == "startswith" else [field, value]
    return "".join(parts), bound
