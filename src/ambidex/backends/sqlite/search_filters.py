"""Conditions on metadata as SQL; the search port asks for them.

The invariant: the text is made of a fixed set of parts, and whatever comes from a caller is bound; the meaning is that
of :func:`ambidex.core.query.matches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ambidex.core.query import Condition

__all__ = ["to_json", "where"]

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


def to_json(value: object) -> str:
    """Return JSON text, as the statements of the index take lists and metadata."""
    return msgspec.json.encode(value).decode()


def where(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    """Return the conditions as SQL from a fixed set of texts, and the values to bind."""
    parts: list[str] = []
    bound: list[Any] = []
    for field, op, value in conditions:
        if op in ("in", "not_in"):
            parts.append(f" AND NOT {_LISTED}" if op == "not_in" else f" AND {_LISTED}")
            bound += [field, to_json([one for one in value if one is not None]), field, None in value]
            continue
        if op in ("gt", "ge", "lt", "le", "contains", "startswith"):
            parts.append(f" AND {_IS_TEXT if isinstance(value, str) else _IS_NUMBER}")
            bound.append(field)
        parts.append(f" AND {_OPERATORS[op]}")
        bound += [field, value, value] if op == "startswith" else [field, value]
    return "".join(parts), bound
