"""One value of a field brought to the form in which every backend keeps it; models and filters call this.

The invariant: what :func:`scalar` and :func:`nested` return comes back equal from every backend. What some backend
could not return unchanged is refused here, before any I/O, with the field and the remedy in the message.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID

import msgspec

from ambidex.core.codec import is_model, to_plain
from ambidex.core.spec import Kind
from ambidex.errors import UnsupportedValue

__all__ = ["all_nested", "nested", "scalar", "scalars"]

_MAX_DEPTH = 200
_MAX_DIGITS = 1_000
_EXACT = 2**53


def scalar(kind: Kind, value: Any, where: str) -> Any:
    """Return a value, not None, as the exact Python type of its kind.

    Args:
        kind: the field's kind, not JSON.
        value: as it stands in the object; members of enumerations are replaced by their values.
        where: ``Model.field``, for messages.

    Raises:
        UnsupportedValue: it is of another type, or some backend could not keep it.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    return _SCALARS[kind](value, where)


def scalars(kind: Kind, values: Sequence[Any], where: str) -> Sequence[Any]:
    """Return many values of one field, None among them, as :func:`scalar` returns each.

    Most are already what they shall be, which is seen faster of all of them together than of one after the other.

    Raises:
        UnsupportedValue: see :func:`scalar`.
    """
    types = set(map(type, values))
    given: Sequence[Any] = values
    if type(None) in types:
        types.discard(type(None))
        given = [value for value in values if value is not None]
    exact, settled = _SETTLED.get(kind, (None, None))
    if not types or (types == {exact} and settled is not None and settled(given)):
        return values
    return [None if value is None else scalar(kind, value, where) for value in values]


def nested(value: Any, where: str, serializer: Callable[[Any], str | bytes] | None = None) -> Any:
    """Return nested data in the one form that JSON columns hold on every backend.

    Raises:
        UnsupportedValue: some part has no such form; the message names the path to it.
    """
    if serializer is not None and value is not None:
        try:
            value = msgspec.json.decode(serializer(value))
        except (TypeError, ValueError) as error:
            raise UnsupportedValue(f"{where}: the json_serializer refused the value: {error}") from None
    try:
        return _json(value, "", 0)
    except UnsupportedValue:
        return _json(value, where, 0)  # again for the path to what is wrong: writing it down is dear


def all_nested(
    values: Sequence[Any], where: str, serializer: Callable[[Any], str | bytes] | None = None
) -> Sequence[Any]:
    """Return nested data of one field, None among it, as :func:`nested` returns each.

    Raises:
        UnsupportedValue: see :func:`nested`.
    """
    if serializer is None and set(map(type, values)) == {list}:
        items = list(chain.from_iterable(values))
        if set(map(type, items)) == {str} and _whole_text(items):
            return list(map(list, values))
    return [None if value is None else nested(value, where, serializer) for value in values]


def _wrong(kind: Kind, value: Any, where: str) -> UnsupportedValue:
    return UnsupportedValue(f"{where} is {kind}, and {type(value).__name__} was given: {str(value)[:60]!r}")


def _text(given: Any, where: str) -> str:
    if not isinstance(given, str):
        raise _wrong(Kind.TEXT, given, where)
    value: str = given if type(given) is str else str.__str__(given)
    if "\x00" in value:
        raise UnsupportedValue(f"{where}: the text contains a NUL character, which PostgreSQL cannot hold; use bytes")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnsupportedValue(f"{where}: the text contains a lone surrogate; decode it properly") from None
    return value


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(Kind.INTEGER, value, where)
    if not -(2**63) <= value < 2**63:
        raise UnsupportedValue(f"{where}: {value} needs more than 64 bits; use a Decimal or text field")
    return int(value)


def _float(given: Any, where: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (float, int)):
        raise _wrong(Kind.FLOAT, given, where)
    if isinstance(given, int) and not -_EXACT <= given <= _EXACT:
        raise UnsupportedValue(f"{where}: the int {given} would lose digits as a float; use an int or Decimal field")
    value = float(given)
    if value - value != 0.0:
        raise UnsupportedValue(f"{where}: {value} has no form in JSON and SQL; store None instead (float | None)")
    if value == 0.0 and math.copysign(1.0, value) < 0:
        raise UnsupportedValue(f"{where}: -0.0 loses its sign on some backends; store 0.0")
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(Kind.BOOLEAN, value, where)
    return value


def _decimal(value: Any, where: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (Decimal, int)):
        raise _wrong(Kind.DECIMAL, value, where)
    value = Decimal(value)
    if not value.is_finite():
        raise UnsupportedValue(f"{where}: Decimal('{value}') has no form in SQL; store None instead (Decimal | None)")
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # noqa: S101  # finite
    if len(digits) + exponent > _MAX_DIGITS or -exponent > _MAX_DIGITS:
        raise UnsupportedValue(f"{where}: a Decimal has at most {_MAX_DIGITS:,} digits on each side of the point")
    if not value:
        if sign:
            raise UnsupportedValue(f"{where}: Decimal('{value}') loses its sign on some backends; store Decimal(0)")
        return Decimal((0, (0,), min(exponent, 0)))
    return Decimal((sign, digits + (0,) * exponent, 0)) if exponent > 0 else value  # SQL writes no exponents


def _uuid(value: Any, where: str) -> UUID:
    if not isinstance(value, UUID):
        raise _wrong(Kind.UUID, value, where)
    return value if type(value) is UUID else UUID(int=value.int)


def _datetime(value: Any, where: str) -> datetime:
    if not isinstance(value, datetime):
        raise _wrong(Kind.DATETIME, value, where)
    if value.utcoffset() is None:
        raise UnsupportedValue(
            f"{where}: the datetime {value.isoformat()} is naive; give it a time zone, e.g. value.replace(tzinfo=UTC)"
        )
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise UnsupportedValue(f"{where}: {value.isoformat()} lies outside the years 1 to 9999 in UTC") from None
    if type(utc) is datetime:
        return utc
    return datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, UTC)


def _date(value: Any, where: str) -> date:
    if isinstance(value, datetime) or not isinstance(value, date):
        raise _wrong(Kind.DATE, value, where)
    return value if type(value) is date else date(value.year, value.month, value.day)


def _time(value: Any, where: str) -> time:
    if not isinstance(value, time):
        raise _wrong(Kind.TIME, value, where)
    if value.tzinfo is not None:
        raise UnsupportedValue(f"{where}: a time with a zone has no fixed place in a day; store an aware datetime")
    return time(value.hour, value.minute, value.second, value.microsecond)


def _bytes(value: Any, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise _wrong(Kind.BYTES, value, where)
    return value if type(value) is bytes else bytes(value)


_SCALARS: Mapping[Kind, Callable[[Any, str], Any]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.FLOAT: _float,
    Kind.BOOLEAN: _boolean,
    Kind.DECIMAL: _decimal,
    Kind.UUID: _uuid,
    Kind.DATETIME: _datetime,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.BYTES: _bytes,
}


def _whole_text(values: Sequence[str]) -> bool:
    """Tell whether no text has a NUL character or a lone surrogate."""
    joined = "".join(values)
    if not joined.isascii():
        try:
            joined.encode()
        except UnicodeEncodeError:
            return False
    return "\x00" not in joined


_SETTLED: Mapping[Kind, tuple[type, Callable[[Sequence[Any]], bool]]] = {
    Kind.TEXT: (str, _whole_text),
    Kind.INTEGER: (int, lambda values: min(values) >= -(2**63) and max(values) < 2**63),
    Kind.FLOAT: (float, lambda values: all(map(math.isfinite, values)) and 0.0 not in values),
    Kind.BOOLEAN: (bool, lambda _values: True),
    Kind.UUID: (UUID, lambda _values: True),
    Kind.DATETIME: (datetime, lambda values: all(value.tzinfo is UTC for value in values)),
    Kind.DATE: (date, lambda _values: True),
    Kind.BYTES: (bytes, lambda _values: True),
}
"""Of what exact type values are that stay as they are, and what must hold for them; other kinds are always rebuilt."""


# Nested data.


def _json(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise UnsupportedValue(f"{where}: nested more than {_MAX_DEPTH} levels deep (or containing itself)")
    handler = _NESTED.get(type(value))
    return _other(value, where, depth) if handler is None else handler(value, where, depth)


def _mapping(value: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = key if type(key) is str else _key(key, where)
        if name in out:
            raise UnsupportedValue(f"{where}: two keys of a dict read {name!r} in JSON")
        out[_text(name, where)] = _json(item, where and f"{where}[{name!r}]", depth + 1)
    return out


def _key(key: Any, where: str) -> str:
    try:
        text = msgspec.to_builtins({key: None}, str_keys=True)
    except (TypeError, ValueError):
        text = {key: None}
    (name,) = text
    if not isinstance(name, str):
        raise UnsupportedValue(f"{where}: the key {key!r} is {type(key).__name__}; JSON has text keys only")
    return name


def _items(value: Any, where: str, depth: int) -> list[Any]:
    if not where:
        return [_json(item, "", depth + 1) for item in value]
    return [_json(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]


def _set(value: Any, where: str, depth: int) -> list[Any]:
    return sorted(_items(value, where, depth), key=msgspec.json.encode)  # equal sets are equal JSON


def _no_bytes(_value: Any, where: str, _depth: int) -> Any:
    raise UnsupportedValue(
        f"{where}: nested data is JSON, which has no bytes; keep them in a bytes field of their own, or as base64 text"
    )


def _written(value: Any, _where: str, _depth: int) -> Any:
    return msgspec.to_builtins(value)


def _number(value: Decimal, where: str, _depth: int) -> str:
    if not value.is_finite():
        raise UnsupportedValue(f"{where}: Decimal('{value}') has no form in JSON; store None or text instead")
    return str(value)


_AS_TEXT = {"ipaddress", "pathlib", "pydantic", "pydantic_core"}
"""Where the types come from that are written and read as text: paths, addresses, URLs."""

_NESTED: Mapping[type, Callable[[Any, str, int], Any]] = {
    type(None): lambda value, _where, _depth: value,
    bool: lambda value, _where, _depth: value,
    str: lambda value, where, _depth: _text(value, where),
    int: lambda value, where, _depth: _integer(value, where),
    float: lambda value, where, _depth: _float(value, where),
    dict: _mapping,
    list: _items,
    tuple: _items,
    set: _set,
    frozenset: _set,
    bytes: _no_bytes,
    bytearray: _no_bytes,
    memoryview: _no_bytes,
    datetime: _written,
    date: _written,
    time: _written,
    timedelta: _written,
    UUID: _written,
    Decimal: _number,
}


def _other(value: Any, where: str, depth: int) -> Any:
    """Write members, models, subclasses, and what reads back from text."""
    if isinstance(value, enum.Enum):
        return _json(value.value, where, depth + 1)
    if hasattr(value, "get_secret_value"):
        raise UnsupportedValue(f"{where}: a secret would be stored masked; keep get_secret_value() in a str field")
    if is_model(type(value)):
        return _json(to_plain(value), where, depth + 1)
    for base, handler in _NESTED.items():
        if isinstance(value, base):
            return handler(value, where, depth)
    if type(value).__module__.partition(".")[0] in _AS_TEXT:
        return _text(str(value), where)
    raise UnsupportedValue(f"{where}: values of type {type(value).__name__} cannot be stored as JSON")
