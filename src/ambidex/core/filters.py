"""Filters and orders of a model's own fields.

Names checked, values brought to the field's kind; repositories call this.

The invariant: what leaves here names only fields of the spec, and every value has the Python type of its field, so a
backend can bind it without looking at it again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ambidex.core.ports import Order
from ambidex.core.query import ELEMENT, Condition, parse_filters
from ambidex.core.spec import Field, Kind, RecordSpec
from ambidex.core.values import scalar
from ambidex.errors import InvalidQuery, UnsupportedValue

__all__ = ["bind", "conditions_of", "order_of"]

_MOST = 10_000
_TEXT_ONLY = {"contains", "startswith"}


def conditions_of(spec: RecordSpec, filters: Mapping[str, Any]) -> list[Condition]:
    """Return keyword filters as conditions on the spec's fields.

    Raises:
        InvalidQuery: an unknown field or operator, or a value that the field cannot have.
    """
    names = [field.name for field in spec.fields]
    return [bind(spec, condition) for condition in parse_filters(filters, names)]


def bind(spec: RecordSpec, condition: Condition) -> Condition:
    """Return a condition with its value brought to the field's kind.

    Raises:
        InvalidQuery: the field is unknown, or the value is of the wrong type.
    """
    name, op, value = condition
    field = next((field for field in spec.fields if field.name == name), None)
    if field is None:
        raise InvalidQuery(f"{spec.name} has no field {name!r}; it has: {', '.join(f.name for f in spec.fields)}")
    if op == "is_null":
        if not isinstance(value, bool):
            raise InvalidQuery(f"{name}__is_null takes True or False, not {value!r}")
        return condition
    if field.kind is Kind.JSON:
        return _json(name, op, value)
    if op in _TEXT_ONLY and field.kind is not Kind.TEXT:
        raise InvalidQuery(f"{name}__{op} works on text, and {name} is {field.kind}")
    if op in ("in", "not_in"):
        if len(value) > _MOST:
            raise InvalidQuery(f"{name}__{op} takes up to {_MOST:,} values, not {len(value):,}; ask in parts")
        return Condition(name, op, [_value(field, item) for item in value])
    if value is None and op in ("gt", "ge", "lt", "le"):
        raise InvalidQuery(f"{name}__{op} cannot compare with None; use {name}__is_null")
    if value is None and op in _TEXT_ONLY:
        raise InvalidQuery(f"{name}__{op} needs text, not None")
    return Condition(name, op, _value(field, value))


def _json(name: str, op: str, value: Any) -> Condition:
    """Allow on nested data only what means the same in every database."""
    if op in ("eq", "ne") and value is None:
        return Condition(name, "is_null", op == "eq")
    if op != "contains":
        raise InvalidQuery(
            f"{name} is nested data, which takes {name}__contains (an element of a list) and {name}__is_null only; "
            "keep what you filter by in a field of its own"
        )
    if isinstance(value, enum.Enum):
        value = value.value
    for kind, accepted in ((Kind.TEXT, str), (Kind.INTEGER, int)):
        if isinstance(value, accepted) and not isinstance(value, bool):
            return Condition(name, ELEMENT, _scalar(kind, value, name))
    raise InvalidQuery(f"{name}__contains looks for text or an int in a list, not for {type(value).__name__}")


def _value(field: Field, value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return None
    if field.kind is Kind.UUID and isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            raise InvalidQuery(f"{field.name}: {value!r} is not a UUID") from None
    if field.kind in (Kind.FLOAT, Kind.DECIMAL) and value == 0:
        value = 0  # zero is compared, not kept, so its sign does not matter
    return _scalar(field.kind, value, field.name)


def _scalar(kind: Kind, value: Any, name: str) -> Any:
    try:
        return scalar(kind, value, name)
    except UnsupportedValue as error:
        raise InvalidQuery(f"a filter cannot take this value: {error}") from None


def order_of(spec: RecordSpec, order_by: str | Sequence[str] | None) -> tuple[Order, ...]:
    """Return an order over fields of the spec; the id stands at its end, so that it decides between equals.

    Raises:
        InvalidQuery: it is no name and no list of names, or a field is unknown, named twice, or holds nested data.
    """
    if isinstance(order_by, str):
        names = [order_by]
    elif order_by is None or isinstance(order_by, Sequence):
        names = list(order_by or ())
    else:
        raise InvalidQuery(f"order_by is a field's name or a list of them, not {type(order_by).__name__}")
    kinds = {field.name: field.kind for field in spec.fields}
    order: list[Order] = []
    for name in names:
        field = str(name).removeprefix("-")
        if kinds.get(field, Kind.JSON) is Kind.JSON or any(field == step.field for step in order):
            known = ", ".join(name for name, kind in kinds.items() if kind is not Kind.JSON)
            raise InvalidQuery(f"cannot order {spec.name} by {name!r}; fields to order by, each once: {known}")
        order.append(Order(field, str(name).startswith("-")))
    if all(step.field != spec.id for step in order):
        order.append(Order(spec.id, order[-1].descending if order else False))
    return tuple(order)
