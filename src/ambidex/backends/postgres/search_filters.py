"""Metadata between Python and PostgreSQL's ``jsonb``, and conditions on it as SQL; the search port asks for both.

The invariant: the text of a condition is made of a fixed set of parts, and whatever comes from a caller is bound; the
meaning is that of :func:`ambidex.core.query.matches`, where True equals 1 and a missing field is None. A float stays a
float on its way through ``jsonb``, which keeps the digits behind the point but no exponent.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from ambidex.backends.postgres.wire import text_array
from ambidex.core.query import Condition

__all__ = ["to_json", "where"]

_encode = msgspec.json.encode

_VALUE = "coalesce(i.metadata -> ?, 'null')"
_LISTED = f"{_VALUE} = ANY (?::text[]::jsonb[])"
_TEXT = '((i.metadata ->> ?) COLLATE "C")'
_NUMBER = (
    "(CASE jsonb_typeof(i.metadata -> {0}) WHEN 'number' THEN (i.metadata -> {0})::numeric"
    " WHEN 'boolean' THEN (i.metadata -> {0})::boolean::int::numeric END)"
)
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_MOST_LOOKUPS = 16
"""How many values of ``in`` are looked up in the index one by one."""


def to_json(value: dict[str, Any]) -> str:
    """Return metadata as JSON text."""
    return _encode({name: _plain(one) for name, one in value.items()}).decode()


def _plain(value: Any) -> Any:
    if type(value) is not float or (value < 1e16 and value > -1e16 and "e" not in repr(value)):
        return value
    # All digits of large ones, so that they equal the same integers; the point, so that they stay floats.
    text = f"{int(value)}.0" if abs(value) >= 1e16 else format(Decimal(repr(value)), "f")
    return msgspec.Raw(text.encode())


def where(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    """Return the conditions as SQL on an item ``i``, from a fixed set of texts, and the values to bind."""
    parts: list[str] = []
    bound: list[Any] = []
    for field, op, value in conditions:
        text, values = _condition(field, op, value)
        parts.append(f" AND {text}")
        bound += values
    return "".join(parts), bound


def _condition(field: str, op: str, value: Any) -> tuple[str, list[Any]]:
    if op == "is_null":
        return f"({_VALUE} = 'null') = ?", [field, value]
    if op in ("eq", "in"):
        return _equal(field, [value] if op == "eq" else value)
    if op in ("ne", "not_in"):
        text, values = _listed(field, [value] if op == "ne" else value)
        return f"NOT {text}", values
    if op in _SIGNS:
        return _ordered(field, _SIGNS[op], value)
    is_text = "jsonb_typeof(i.metadata -> ?) = 'string'"
    if op == "startswith":
        return f"({is_text} AND starts_with(i.metadata ->> ?, ?))", [field, field, value]
    return f"({is_text} AND strpos(i.metadata ->> ?, ?) > 0)", [field, field, value]


def _equal(field: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return a condition that an index answers, unless it asks for None or for too much."""
    texts = _equals(values)
    if "null" in texts or not 0 < len(texts) <= _MOST_LOOKUPS:
        return _listed(field, values)
    name = _encode(field).decode()
    lookups = " OR ".join(["i.metadata @> ?::jsonb"] * len(texts))
    return f"({lookups})", [f"{{{name}:{text}}}" for text in texts]


def _listed(field: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    return f"({_LISTED})", [field, text_array(_equals(values))]


def _equals(values: Sequence[Any]) -> list[str]:
    """Return the JSON of each value, and of what Python holds for equal to it."""
    found: list[Any] = []
    for value in values:
        found.append(_plain(value))
        if type(value) is bool:
            found.append(int(value))
        elif type(value) in (int, float) and value in (0, 1):
            found.append(bool(value))
    return [_encode(one).decode() for one in found]


def _ordered(field: str, sign: str, value: Any) -> tuple[str, list[Any]]:
    if value is None:
        return "false", []
    if isinstance(value, str):
        return f"(jsonb_typeof(i.metadata -> ?) = 'string' AND {_TEXT} {sign} ?)", [field, field, value]
    number = _encode(_plain(float(value) if type(value) is bool else value)).decode()
    return f"coalesce({_NUMBER.format('?')} {sign} ?::numeric, false)", [field, field, field, number]
