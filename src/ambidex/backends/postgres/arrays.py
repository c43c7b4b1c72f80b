"""Many values of one field as a binary array of the column's own type; the records port inserts rows with these.

The invariant: an array's elements are what single values bound by ``columns.py`` become in the database. Only the way
there is another one: nothing is written as text on this side that the server would have to read again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

import msgspec

from ambidex.backends.postgres.wire import array, bigint_array, bytea_array, text_array
from ambidex.core.spec import Kind

__all__ = ["ARRAYS", "Array"]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_DAY = _EPOCH.toordinal()
_MICROSECOND = timedelta(microseconds=1)
_json = msgspec.json.Encoder(order="sorted").encode


class Array(NamedTuple):
    """How a kind's values travel together."""

    type: str
    """The elements' type in SQL; cast to the column's where that is another one."""
    make: Callable[[Sequence[Any]], bytes]
    """Takes values in stored form, None among them."""


def _of(type_: str, oid: int, element: Callable[[Any], bytes]) -> Array:
    """Return an array whose elements are packed one by one, each behind its size."""
    return Array(type_, lambda values: array(oid, [_NULL if value is None else element(value) for value in values]))


_NULL = struct.pack(">i", -1)
_pack_day = struct.Struct(">ii").pack
_pack_time = struct.Struct(">iq").pack
_pack_float = struct.Struct(">id").pack
_pack_size = struct.Struct(">i").pack


def _datetime(value: datetime) -> bytes:
    return _pack_time(8, (value - _EPOCH) // _MICROSECOND)


def _time(value: time) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return _pack_time(8, seconds * 1_000_000 + value.microsecond)


def _date(value: date) -> bytes:
    return _pack_day(4, value.toordinal() - _DAY)


def _nested(value: Any) -> bytes:
    data = _json(value)
    return _pack_size(len(data)) + data


def _decimals(values: Sequence[Any]) -> bytes:
    return text_array([None if value is None else str(value) for value in values])


# The numbers are PostgreSQL's own for its types (pg_type.oid).
ARRAYS: Mapping[Kind, Array] = {
    Kind.TEXT: Array("text", text_array),
    Kind.INTEGER: Array("bigint", bigint_array),
    Kind.FLOAT: _of("double precision", 701, lambda value: _pack_float(8, value)),
    Kind.BOOLEAN: _of("boolean", 16, lambda value: b"\x00\x00\x00\x01\x01" if value else b"\x00\x00\x00\x01\x00"),
    Kind.DECIMAL: Array("text", _decimals),
    Kind.UUID: _of("uuid", 2950, lambda value: b"\x00\x00\x00\x10" + value.bytes),
    Kind.DATETIME: _of("timestamp with time zone", 1184, _datetime),
    Kind.DATE: _of("date", 1082, _date),
    Kind.TIME: _of("time without time zone", 1083, _time),
    Kind.BYTES: Array("bytea", bytea_array),
    Kind.JSON: _of("json", 114, _nested),
}
