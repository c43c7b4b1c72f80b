"""Values as bytes that sort like the values, and conditions as ranges of such bytes; the records' indexes use both.

A member of an index is ``place(value) + id + length of id (four bytes)``, where ``place`` is one byte (0: None, 1: a
value) and then, by kind:

- text: UTF-8 and a NUL (text holds none); UTF-8 sorts by code point;
- bytes: each 00 as 00 FF, and 00 01 at the end;
- integer, datetime and time: eight bytes, big-endian, the sign turned (times in microseconds); date: four, its ordinal;
- float: the eight bytes of IEEE 754, with the sign bit turned, or all bits where it was set;
- boolean: one byte; UUID: its sixteen bytes;
- decimal: 7F below zero, 80 zero, 81 above; then the place of the first digit (two bytes), the digits without zeros at
  the end, and 00; below zero all of these turned. So 1.0 and 1.00 are one place.

The invariants: no place begins another one, so what follows it never decides between different values; ``x < y``
exactly where ``place(x) < place(y)``. A range is half open: from its first bytes up to but without its last ones.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import repeat
from typing import Any, Final
from uuid import UUID

from ambidex.core.query import Condition
from ambidex.core.spec import Kind

__all__ = [
    "EVERYTHING",
    "Range",
    "all_to_plain",
    "encode",
    "encode_all",
    "from_plain",
    "integer_in",
    "intersect",
    "member",
    "place",
    "places",
    "ranges",
    "to_plain",
]

Range = tuple[bytes, bytes]

EVERYTHING: Final[list[Range]] = [(b"\x00", b"\x02")]
_VALUES: Final[list[Range]] = [(b"\x01", b"\x02")]
_NULLS: Final[list[Range]] = [(b"\x00", b"\x01")]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SIGN = 1 << 63
_pack_unsigned = struct.Struct(">Q").pack
_TURNED = bytes(255 - number for number in range(256))


def _integer(value: int) -> bytes:
    return (value + _SIGN).to_bytes(8, "big")


def _float(value: float) -> bytes:
    (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
    return int(bits ^ (2 * _SIGN - 1 if bits & _SIGN else _SIGN)).to_bytes(8, "big")


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    if not text:
        return b"\x80"
    first = len(text) + int(exponent) + 0x8000
    data = first.to_bytes(2, "big") + text.rstrip("0").encode() + b"\x00"
    return b"\x7f" + data.translate(_TURNED) if sign else b"\x81" + data


def _since_epoch(value: datetime) -> int:
    return (value - _EPOCH) // _MICROSECOND


def _since_midnight(value: time) -> int:
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond


def _time(micros: int) -> time:
    return (_EPOCH + timedelta(microseconds=micros)).time()


_ENCODERS: Mapping[Kind, Callable[[Any], bytes]] = {
    Kind.TEXT: lambda value: value.encode() + b"\x00",
    Kind.BYTES: lambda value: value.replace(b"\x00", b"\x00\xff") + b"\x00\x01",
    Kind.INTEGER: _integer,
    Kind.FLOAT: _float,
    Kind.BOOLEAN: lambda value: b"\x01" if value else b"\x00",
    Kind.DECIMAL: _decimal,
    Kind.UUID: lambda value: value.bytes,
    Kind.DATETIME: lambda value: _integer(_since_epoch(value)),
    Kind.DATE: lambda value: value.toordinal().to_bytes(4, "big"),
    Kind.TIME: lambda value: _integer(_since_midnight(value)),
}


def _uuids(values: Sequence[UUID]) -> list[bytes]:
    return [value.int.to_bytes(16, "big") for value in values]


# The same for many values, where there is a faster way.
_ENCODE_ALL: Mapping[Kind, Callable[[Sequence[Any]], list[bytes]]] = {
    Kind.TEXT: lambda values: list(map(bytes.__add__, map(str.encode, values), repeat(b"\x00"))),
    Kind.INTEGER: lambda values: list(map(_pack_unsigned, map(_SIGN.__add__, values))),
    Kind.UUID: _uuids,
}
_ALL_TO_PLAIN: Mapping[Kind, Callable[[Sequence[Any]], Sequence[Any]]] = {
    Kind.UUID: _uuids,
    Kind.DATETIME: lambda values: [(value - _EPOCH) // _MICROSECOND for value in values],
}
_TO_PLAIN: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.DECIMAL: str,
    Kind.UUID: lambda value: value.bytes,
    Kind.DATETIME: _since_epoch,
    Kind.DATE: date.toordinal,
    Kind.TIME: _since_midnight,
}
_FROM_PLAIN: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.DECIMAL: Decimal,
    Kind.UUID: lambda value: UUID(bytes=value),
    Kind.DATETIME: lambda value: _EPOCH + timedelta(microseconds=value),
    Kind.DATE: date.fromordinal,
    Kind.TIME: _time,
}


def to_plain(kind: Kind, value: Any) -> Any:
    """Return a field's value in the form that MessagePack keeps."""
    convert = _TO_PLAIN.get(kind)
    return value if convert is None or value is None else convert(value)


def all_to_plain(kind: Kind, values: Sequence[Any]) -> Sequence[Any]:
    """Return what :func:`to_plain` makes of each value."""
    convert, at_once = _TO_PLAIN.get(kind), _ALL_TO_PLAIN.get(kind)
    if convert is None:
        return values
    if at_once is not None and None not in values:
        return at_once(values)
    return [None if value is None else convert(value) for value in values]


def encode_all(kind: Kind, values: Sequence[Any]) -> list[bytes]:
    """Return what :func:`encode` makes of each value."""
    convert = _ENCODE_ALL.get(kind)
    return list(map(_ENCODERS[kind], values)) if convert is None else convert(values)


def from_plain(kind: Kind, value: Any) -> Any:
    """Return what :func:`to_plain` was given."""
    convert = _FROM_PLAIN.get(kind)
    return value if convert is None or value is None else convert(value)


def encode(kind: Kind, value: Any) -> bytes:
    """Return a value, not None, as bytes that sort like it."""
    return _ENCODERS[kind](value)


def place(kind: Kind, value: Any) -> bytes:
    """Return where a value, or None, stands in an index."""
    return b"\x00" if value is None else b"\x01" + _ENCODERS[kind](value)


def places(kind: Kind, values: Sequence[Any]) -> list[bytes]:
    """Return what :func:`place` says of each value."""
    if None not in values:
        return [b"\x01" + data for data in encode_all(kind, values)]
    return [place(kind, value) for value in values]


def integer_in(data: bytes) -> int:
    """Return the id, an int, in a member of the index of ids."""
    return int.from_bytes(data[1:-4], "big") - _SIGN


def member(where: bytes, id_: bytes) -> bytes:
    """Return the member of an index for a place and an encoded id."""
    return where + id_ + len(id_).to_bytes(4, "big")


def ranges(kind: Kind, condition: Condition) -> list[Range] | None:
    """Return the places that meet a condition, in ascending order; None where no range says it."""
    _, op, value = condition
    if op in ("in", "not_in"):
        points = sorted({_point(kind, item) for item in value})
        return points if op == "in" else _complement(points)
    if op == "eq":
        return [_point(kind, value)]
    if op == "ne":
        return _complement([_point(kind, value)])
    if op == "is_null":
        return _NULLS if value else _VALUES
    if op == "startswith":
        start = b"\x01" + value.encode()
        return [(start, _successor(start))]
    bounds = _BOUNDS.get(op)
    return None if bounds is None else [bounds(*_point(kind, value))]


_BOUNDS: Mapping[str, Callable[[bytes, bytes], Range]] = {
    "gt": lambda _first, last: (last, b"\x02"),
    "ge": lambda first, _last: (first, b"\x02"),
    "lt": lambda first, _last: (b"\x01", first),
    "le": lambda _first, last: (b"\x01", last),
}


def intersect(one: Sequence[Range], other: Sequence[Range]) -> list[Range]:
    """Return what lies in both; each is ascending and does not overlap itself."""
    out: list[Range] = []
    i = j = 0
    while i < len(one) and j < len(other):
        first, last = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if first < last:
            out.append((first, last))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return out


def _point(kind: Kind, value: Any) -> Range:
    where = place(kind, value)
    return where, _successor(where)


def _successor(data: bytes) -> bytes:
    """Return the first bytes behind everything that begins with ``data``."""
    data = data.rstrip(b"\xff")
    return data[:-1] + bytes([data[-1] + 1])


def _complement(points: Iterable[Range]) -> list[Range]:
    out: list[Range] = []
    edge, end = EVERYTHING[0]
    for first, last in points:
        if edge < first:
            out.append((edge, first))
        edge = last
    if edge < end:
        out.append((edge, end))
    return out
