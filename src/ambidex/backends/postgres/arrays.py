"""Many values of one field as a binary array of the column's own type; the records port inserts rows with these.

The invariant: an array's elements are what single values bound by ``columns.py`` become in the database. Only the way
there is another one: nothing is written as text on this side that the server would have to read again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from ambidex.backends.postgres.wire import bigint_array, bytea_array, even_array, sized_array, text_array
from ambidex.core.spec import Kind

__all__ = ["ARRAYS", "Array"]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_DAY = _EPOCH.toordinal()
_MICROSECOND = timedelta(microseconds=1)
_json = msgspec.json.Encoder(order="sorted").encode_lines


class Array(NamedTuple):
    """How a kind's values travel together."""

    type: str
    """The elements' type in SQL; cast to the column's where that is another one."""
    make: Callable[[Sequence[Any]], bytes]
    """Takes values in stored form, None among them."""


def _of(type_: str, oid: int, size: int, packed: Callable[[Any], Iterable[bytes]]) -> Array:
    """Return an array whose elements take ``size`` bytes each.

    Args:
        type_: see :class:`Array`.
        oid: of the elements' type.
        size: of an element.
        packed: makes the elements of values among which no None is.
    """

    def make(values: Sequence[Any]) -> bytes:
        if type(None) not in set(map(type, values)):
            return even_array(oid, size, list(packed(values)))
        there = iter(packed([value for value in values if value is not None]))
        return even_array(oid, size, [None if value is None else next(there) for value in values])

    return Array(type_, make)


_pack_day = struct.Struct(">i").pack
_pack_time = struct.Struct(">q").pack
_pack_float = struct.Struct(">d").pack


def _uuids(values: Iterable[UUID]) -> Iterable[bytes]:
    return [value.int.to_bytes(16, "big") for value in values]


def _datetimes(values: Iterable[datetime]) -> Iterable[bytes]:
    return [_pack_time((value - _EPOCH) // _MICROSECOND) for value in values]


def _time(value: time) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return _pack_time(seconds * 1_000_000 + value.microsecond)


def _date(value: date) -> bytes:
    return _pack_day(value.toordinal() - _DAY)


def _nested(values: Sequence[Any]) -> bytes:
    lines = _json(values).split(b"\n")  # JSON has no line breaks of its own
    return sized_array(114, [None if value is None else line for value, line in zip(values, lines, strict=False)])


def _decimals(values: Sequence[Any]) -> bytes:
    return text_array([None if value is None else str(value) for value in values])


# The numbers are PostgreSQL's own for its types (pg_type.oid).
ARRAYS: Mapping[Kind, Array] = {
    Kind.TEXT: Array("text", text_array),
    Kind.INTEGER: Array("bigint", bigint_array),
    Kind.FLOAT: _of("double precision", 701, 8, partial(map, _pack_float)),
    Kind.BOOLEAN: _of("boolean", 16, 1, partial(map, (b"\x00", b"\x01").__getitem__)),
    Kind.DECIMAL: Array("text", _decimals),
    Kind.UUID: _of("uuid", 2950, 16, _uuids),
    Kind.DATETIME: _of("timestamp with time zone", 1184, 8, _datetimes),
    Kind.DATE: _of("date", 1082, 4, partial(map, _date)),
    Kind.TIME: _of("time without time zone", 1083, 8, partial(map, _time)),
    Kind.BYTES: Array("bytea", bytea_array),
    Kind.JSON: Array("json", _nested),
}
