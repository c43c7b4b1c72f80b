"""Conditions as data: how a filter is described before any backend turns it into SQL, a set lookup or a loop.

Stores build :class:`Condition` values from keyword filters, backends translate them. The invariant: a field name comes
from the caller's declared fields and is checked here, a value is only ever bound; no text of a query is made from
either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ambidex.errors import InvalidQuery

__all__ = ["ELEMENT", "OPERATORS", "Condition", "matches", "none_first", "parse_filters"]


class Condition(NamedTuple):
    """``field`` compared with ``value`` by the operator named ``op``."""

    field: str
    op: str
    value: Any

    @property
    def said(self) -> str:
        """How a filter says it: ``field__operator``."""
        return f"{self.field}__{'contains' if self.op == ELEMENT else self.op}"


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def check(have: Any, want: Any) -> bool:
        if have is None or want is None:
            return False
        if isinstance(have, str) is not isinstance(want, str):
            return False
        return test(have, want)

    return check


_HOLDERS = (list, tuple, set, frozenset)


def _contains(have: Any, want: Any) -> bool:
    if isinstance(have, str):
        return isinstance(want, str) and want in have
    return _has_element(have, want)


def _has_element(have: Any, want: Any) -> bool:
    return isinstance(have, _HOLDERS) and any(type(item) is type(want) and item == want for item in have)


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda have, want: bool(have == want),
    "ne": lambda have, want: bool(have != want),
    "gt": _ordered(lambda have, want: bool(have > want)),
    "ge": _ordered(lambda have, want: bool(have >= want)),
    "lt": _ordered(lambda have, want: bool(have < want)),
    "le": _ordered(lambda have, want: bool(have <= want)),
    "in": lambda have, want: have in want,
    "not_in": lambda have, want: have not in want,
    "contains": _contains,
    "startswith": lambda have, want: isinstance(have, str) and have.startswith(want),
    "is_null": lambda have, want: (have is None) is bool(want),
}
"""What each operator means; backends that compile it to something else must agree with this table."""

ELEMENT = "element"
"""What ``contains`` is on nested data, where a text is no list of characters; no filter names it."""

_MEANINGS = {**OPERATORS, ELEMENT: _has_element}

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


def parse_filters(
    filters: Mapping[str, Any] | Sequence[Condition], fields: Iterable[str] | None = None
) -> list[Condition]:
    """Turn ``{"age__ge": 18, "city": "Paris"}`` into conditions.

    Args:
        filters: field names with an optional ``__operator`` suffix; without one the operator is ``eq``. Conditions are
            returned as they are.
        fields: the names that exist; None where any well-formed name may (free metadata).

    Raises:
        InvalidQuery: an unknown field or operator, or a value that the operator cannot take.
    """
    if isinstance(filters, list) and all(isinstance(one, Condition) for one in filters):
        return filters
    if not isinstance(filters, Mapping):
        raise InvalidQuery(f"filters are a dictionary such as {{'year__ge': 2020}}, not {type(filters).__name__}")
    known = None if fields is None else frozenset(fields)
    return [_condition(name, value, known) for name, value in filters.items()]


def _condition(name: str, value: Any, known: frozenset[str] | None) -> Condition:
    if not isinstance(name, str):
        raise InvalidQuery(f"{name!r} is not a field name")
    field, separator, op = name.rpartition("__")
    if not separator or not field:
        field, op = name, "eq"
    elif op not in OPERATORS:
        if known is not None and name in known:
            field, op = name, "eq"
        else:
            raise InvalidQuery(f"unknown operator {op!r} in the filter {name!r}; there are: {', '.join(OPERATORS)}")
    if known is not None and field not in known:
        raise InvalidQuery(f"unknown field {field!r} in a filter; there are: {', '.join(sorted(known))}")
    if not _FIELD.match(field):
        raise InvalidQuery(f"{field!r} is not a field name")
    if op in ("in", "not_in"):
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise InvalidQuery(f"the filter {name!r} needs a list of values, not {type(value).__name__}")
        value = list(value)
    if op == "is_null" and not isinstance(value, bool):
        raise InvalidQuery(f"the filter {name!r} needs True or False, not {type(value).__name__}")
    if op == "startswith" and not isinstance(value, str):
        raise InvalidQuery(f"the filter {name!r} needs text, not {type(value).__name__}")
    return Condition(field, op, value)


def matches(conditions: Iterable[Condition], record: Mapping[str, Any]) -> bool:
    """Tell whether a record meets every condition; the reference for all backends."""
    return all(_MEANINGS[op](record.get(field), value) for field, op, value in conditions)


def none_first(value: Any) -> tuple[bool, Any]:
    """Return a value to sort by in which None comes first; the order of every backend."""
    return (value is not None, value if value is not None else 0)
