"""Filters and orders of a model's own fields.

Names checked, values brought to the field's kind; repositories call this.

The invariant: what leaves here names only fields of the spec, and every value has the Python type of its field, so a
backend can bind it without looking at it again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from ambidex.core.models import Field, Kind, RecordSpec
from ambidex.core.ports import Order
from ambidex.core.query import Condition, parse_filters
from ambidex.errors import InvalidQuery

__all__ = ["bind", "conditions_of", "order_of"]

_ACCEPTED: Mapping[Kind, tuple[type, ...]] = {
    Kind.TEXT: (str,),
    Kind.INTEGER: (int,),
    Kind.FLOAT: (float, int),
    Kind.BOOLEAN: (bool,),
    Kind.DECIMAL: (Decimal, int),
    Kind.UUID: (UUID,),
    Kind.DATETIME: (datetime,),
    Kind.DATE: (date,),
    Kind.TIME: (time,),
    Kind.BYTES: (bytes,),
}
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
    if op in _TEXT_ONLY and field.kind is not Kind.TEXT and not (op == "contains" and field.kind is Kind.JSON):
        raise InvalidQuery(f"{name}__{op} works on text, and {name} is {field.kind}")
    if op in ("in", "not_in"):
        return Condition(name, op, [_value(field, item) for item in value])
    if value is None and op in ("gt", "ge", "lt", "le"):
        raise InvalidQuery(f"{name}__{op} cannot compare with None; use {name}__is_null")
    return Condition(name, op, _value(field, value))


def _value(field: Field, value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or field.kind is Kind.JSON:
        return value
    accepted = _ACCEPTED[field.kind]
    wrong = not isinstance(value, accepted) or (isinstance(value, bool) and field.kind is not Kind.BOOLEAN)
    if field.kind is Kind.DATE and isinstance(value, datetime):
        wrong = True
    if wrong:
        if field.kind is Kind.UUID and isinstance(value, str):
            try:
                return UUID(value)
            except ValueError:
                raise InvalidQuery(f"{field.name}: {value!r} is not a UUID") from None
        raise InvalidQuery(f"{field.name} is {field.kind}; {value!r} is {type(value).__name__}")
    return _checked(field, value)


def _checked(field: Field, value: Any) -> Any:
    """Refuse values of the right type that some database cannot hold, and widen the narrower type."""
    if field.kind is Kind.INTEGER and not -(2**63) <= value < 2**63:
        raise InvalidQuery(f"{field.name}: {value} needs more than 64 bits")
    if field.kind is Kind.FLOAT:
        value = float(value)
        if value - value != 0.0:
            raise InvalidQuery(f"{field.name}: {value} is no number that SQL can compare")
    if field.kind is Kind.DECIMAL and isinstance(value, int):
        return Decimal(value)
    if field.kind is Kind.DATETIME and value.utcoffset() is None:
        raise InvalidQuery(f"{field.name}: the datetime {value.isoformat()} is naive; give it a time zone")
    if field.kind is Kind.TEXT and ("\x00" in value or not value.isascii()):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidQuery(f"{field.name}: the text contains a lone surrogate") from None
        if "\x00" in value:
            raise InvalidQuery(f"{field.name}: the text contains a NUL character")
    return value


def order_of(spec: RecordSpec, order_by: str | Sequence[str]) -> tuple[Order, ...]:
    """Return an order over fields of the spec; the id stands at its end, so that it decides between equals.

    Raises:
        InvalidQuery: a field is unknown, named twice, or holds nested data.
    """
    names = [order_by] if isinstance(order_by, str) else list(order_by)
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
