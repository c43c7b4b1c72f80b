"""Values and models to stored form and back; every store that keeps values uses this one codec.

The invariant: what :func:`encode` accepts, :func:`decode` gives back equal and of the same type, on every backend;
anything that some backend could not return unchanged is refused here, before any I/O. Integers are stored as integers
(so that servers can count with them), everything else as bytes: one byte of format version, then MessagePack
(https://msgpack.org) in which types that MessagePack lacks are extensions. Nothing is ever unpickled.

Models (dataclasses, msgspec Structs, attrs and pydantic classes) are stored as the data of their fields.
``decode(stored)`` gives that data, ``decode(stored, Model)`` the validated model: a class name read from storage never
decides what code runs.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import struct
from array import array
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any, Final, TypeVar, cast, overload
from uuid import UUID

import msgspec

from ambidex.core.ports import Stored
from ambidex.core.validating import is_pydantic, validate_nested, validator, why
from ambidex.errors import Corrupted, UnsupportedValue, ValueTooLarge

__all__ = [
    "DEFAULT_MAX_BYTES",
    "FORMAT",
    "Stored",
    "canonical",
    "decode",
    "encode",
    "encode_all",
    "pack",
    "raw",
    "to_plain",
]

T = TypeVar("T")

FORMAT: Final = 1
DEFAULT_MAX_BYTES: Final = 64 * 1024 * 1024

_VERSION = bytes([FORMAT])
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_MAX_DEPTH = 200

# Extension codes are part of the stored format: never reuse one.
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _TUPLE, _SET, _FROZENSET = range(1, 10)

_MANY: Final = 16  # items of a list from which passes of C over all are faster than a look at each
_TOGETHER: Final = 256  # values whose parts are looked at together: no more than the processor has at hand
_MOST_TOGETHER: Final = 100_000  # items of their lists
_DEEP: Final = 10
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_pack = msgspec.msgpack.Encoder().encode
_pack_sorted = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack_plain = msgspec.msgpack.Decoder().decode  # extensions stay as they are
_DELTA = struct.Struct(">qii")


class _Bad(Exception):
    """Carries the path to an unsupported part while the walk unwinds."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []


def encode(value: Any, max_bytes: int = DEFAULT_MAX_BYTES) -> Stored:
    """Return the stored form of a value.

    Args:
        value: JSON-shaped data (None, bool, int, float, str, list, dict with text keys), bytes, tuple, set, frozenset,
            aware datetime, date, time, timedelta, Decimal, UUID, or a model; nested as you like, 200 levels deep.
        max_bytes: the size limit of the result.

    Raises:
        UnsupportedValue: some part would not come back the same from every backend; the message names the part.
        ValueTooLarge: the result would be longer than ``max_bytes``.
    """
    if type(value) is int and _INT_MIN <= value <= _INT_MAX:
        return value
    try:
        stored = _VERSION + _pack(_HANDLERS.get(type(value), _model)(value, 0, max_bytes))
    except _Bad as bad:
        raise UnsupportedValue(f"value{''.join(reversed(bad.path))}: {bad}") from None
    except UnicodeEncodeError:
        raise UnsupportedValue(
            "the value contains text with a lone surrogate; decode it properly, or store bytes"
        ) from None
    if len(stored) > max_bytes:
        raise _too_large(len(stored), max_bytes)
    return stored


def pack(value: Any, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
    """Return the stored form of plain data that is known to be in order, as :func:`encode` does, without a look at it.

    Args:
        value: what :func:`encode` would give back unchanged, tuples being stored as lists; and parts by :func:`raw`.
        max_bytes: the size limit of the result.

    Raises:
        ValueTooLarge: the result would be longer than ``max_bytes``.
    """
    stored = _VERSION + _pack(value)
    if len(stored) > max_bytes:
        raise _too_large(len(stored), max_bytes)
    return stored


def raw(stored: Stored) -> Any:
    """Return a value in stored form as a part of what :func:`pack` takes."""
    return stored if type(stored) is int else msgspec.Raw(memoryview(cast("bytes", stored))[1:])


def encode_all(values: Sequence[Any], max_bytes: int = DEFAULT_MAX_BYTES) -> list[Stored]:
    """Return what :func:`encode` makes of each value; dicts with the same keys are looked at in passes of C over many.

    Raises:
        UnsupportedValue, ValueTooLarge: see :func:`encode`.
    """
    stored: list[Stored] = []
    for start in range(0, len(values), _TOGETHER):
        some = values[start : start + _TOGETHER]
        if len(some) < _MANY or set(map(type, some)) != {dict} or not _fit(some, 0, max_bytes):
            stored += [encode(value, max_bytes) for value in some]
            continue
        try:
            packed = list(map(_VERSION.__add__, map(_pack, some)))
        except UnicodeEncodeError:
            packed = []
        fits = len(max(packed, key=len, default=b"")) <= max_bytes
        stored += packed if packed and fits else [encode(value, max_bytes) for value in some]
    return stored


def _too_large(size: int, limit: int) -> ValueTooLarge:
    return ValueTooLarge(
        f"the value takes {size:,} bytes, the limit is {limit:,}; "
        "store it as a blob or raise max_value_bytes in the settings"
    )


@overload
def decode(stored: Stored, model: None = None) -> Any: ...
@overload
def decode(stored: Stored, model: type[T]) -> T: ...
def decode(stored: Stored, model: type[Any] | None = None) -> Any:
    """Return the value behind a stored form; with ``model``, validated as that class.

    Raises:
        Corrupted: the bytes are not a stored value, or do not fit the model.
    """
    if type(stored) is int:
        value: Any = stored
    else:
        data = cast("bytes", stored)
        if data[:1] != _VERSION:
            raise Corrupted(
                f"a stored value has format {data[:1].hex() or 'empty'}, this version of ambidex reads {FORMAT:02x}"
            )
        try:
            # a slice copies, a memoryview costs more than copying a short value
            value = _unpack(data[1:] if len(data) < 4096 else memoryview(data)[1:])
        except (msgspec.DecodeError, ValueError, TypeError, ArithmeticError, RecursionError, struct.error) as error:
            raise Corrupted(f"a stored value cannot be decoded: {error}") from None
    return value if model is None else _to_model(value, model)


def canonical(stored: Stored) -> Stored:
    """Return a stored form that is equal for dictionaries with the same items in whatever order, at any depth."""
    if type(stored) is int:
        return stored
    return _VERSION + _pack_sorted(_unpack_plain(cast("bytes", stored)[1:]))


# The walk. It returns the same object when nothing needs an extension, so that plain data is not copied.


def _model(value: Any, depth: int, limit: int) -> Any:
    if depth > _MAX_DEPTH:
        raise _Bad(f"nested more than {_MAX_DEPTH} levels deep (or containing itself)")
    data = _fields(value)
    return _HANDLERS.get(type(data), _model)(data, depth + 1, limit)


def _same(value: Any, _depth: int, _limit: int) -> Any:
    return value


def _int(value: int, _depth: int, _limit: int) -> int:
    if _INT_MIN <= value <= _INT_MAX:
        return value
    raise _Bad("the integer needs more than 64 bits; store it as text or Decimal")


def _float(value: float, _depth: int, _limit: int) -> float:
    if value - value != 0.0:
        raise _Bad(f"{value} has no form in JSON and SQL; store None or text instead")
    if value == 0.0 and math.copysign(1.0, value) < 0:
        raise _Bad("-0.0 loses its sign on some backends; store 0.0")
    return value


def _str(value: str, _depth: int, limit: int) -> str:
    if "\x00" in value:
        raise _Bad("the text contains a NUL character, which PostgreSQL text cannot hold; store bytes instead")
    if len(value) > limit:
        raise _too_large(len(value), limit)
    return value


def _bytes(value: bytes, _depth: int, limit: int) -> bytes:
    if len(value) > limit:
        raise _too_large(len(value), limit)
    return value


def _list(value: list[Any], depth: int, limit: int) -> list[Any]:
    if depth >= _MAX_DEPTH:
        raise _Bad(f"nested more than {_MAX_DEPTH} levels deep (or containing itself)")
    if len(value) >= _MANY and _alike(value, limit):
        return value
    out: list[Any] | None = None
    for index, item in enumerate(value):
        kind = type(item)
        if (  # as in _dict
            ("\x00" not in item and len(item) <= limit)
            if kind is str
            else -0x8000_0000_0000_0000 <= item <= 0x7FFF_FFFF_FFFF_FFFF
            if kind is int
            else item - item == 0.0 != item
            if kind is float
            else kind is bool or item is None
        ):
            continue
        try:
            plain = _HANDLERS.get(kind, _model)(item, depth + 1, limit)
        except _Bad as bad:
            bad.path.append(f"[{index}]")
            raise
        if plain is not item:
            if out is None:
                out = list(value)
            out[index] = plain
    return value if out is None else out


def _alike(value: Sequence[Any], limit: int) -> bool:
    """Tell whether a list of one kind has nothing in it to refuse or replace, in passes of C; False: look closer."""
    kinds = set(map(type, value))
    if len(kinds) > 1:
        return False
    kind = kinds.pop()
    if kind is float:
        # A sum is finite only if each part is. A zero could be -0.0.
        return math.isfinite(sum(value)) and 0.0 not in value
    if kind is int:
        try:
            array("q", value)
        except OverflowError:
            return False
        return True
    if kind is str:
        text = "".join(value)
        return "\x00" not in text and len(text) <= limit
    return kind is bool or kind is type(None)


def _fit(values: Sequence[Any], depth: int, limit: int) -> bool:
    """Tell whether values of one shape have nothing in them to refuse or replace; False: look at each closer."""
    kinds = set(map(type, values))
    if len(kinds) == 2 and type(None) in kinds:
        kinds.discard(type(None))
        values = [value for value in values if value is not None]
    if len(kinds) != 1:
        return not kinds
    (kind,) = kinds
    if kind is dict:
        names, *others = set(map(tuple, values))
        if others or depth == _DEEP or not set(map(type, names)) <= {str} or "\x00" in "".join(names):
            return False
        return all(_fit(column, depth + 1, limit) for column in zip(*map(dict.values, values), strict=True))
    if kind is list:
        if depth == _DEEP or sum(map(len, values)) > _MOST_TOGETHER:
            return False
        return _fit(list(chain.from_iterable(values)), depth + 1, limit)
    if kind is float and 0.0 in values:
        return math.isfinite(sum(values)) and not any(
            value == 0.0 and math.copysign(1.0, value) < 0 for value in values
        )
    return kind in _SCALARS and _alike(values, limit)


def _dict(value: dict[Any, Any], depth: int, limit: int) -> dict[str, Any]:
    if depth >= _MAX_DEPTH:
        raise _Bad(f"nested more than {_MAX_DEPTH} levels deep (or containing itself)")
    out: dict[str, Any] | None = None
    for key, item in value.items():
        if type(key) is not str:
            raise _Bad(f"the key {key!r} is {type(key).__name__}; JSON-shaped data has text keys only")
        try:
            if "\x00" in key:
                _str(key, depth, limit)
            kind = type(item)  # the common kinds in place: a call for each would take most of the time of a write
            if (
                ("\x00" not in item and len(item) <= limit)
                if kind is str
                else -0x8000_0000_0000_0000 <= item <= 0x7FFF_FFFF_FFFF_FFFF  # names would be looked up each time
                if kind is int
                else item - item == 0.0 != item  # finite, and not a zero that could be -0.0
                if kind is float
                else kind is bool or item is None
            ):
                continue
            plain = _HANDLERS.get(kind, _model)(item, depth + 1, limit)
        except _Bad as bad:
            bad.path.append(f"[{key!r}]")
            raise
        if plain is not item:
            if out is None:
                out = dict(value)
            out[key] = plain
    return value if out is None else out


def _sequence(code: int, ordered: bool) -> Callable[[Any, int, int], msgspec.msgpack.Ext]:
    def handler(value: Any, depth: int, limit: int) -> msgspec.msgpack.Ext:
        if not ordered:
            _check_members(value)
        items = [_pack(item) for item in _list(list(value), depth, limit)]
        if not ordered:
            items.sort()  # equal sets get equal bytes
        return msgspec.msgpack.Ext(code, _pack([msgspec.Raw(item) for item in items]))

    return handler


def _check_members(value: Any) -> None:
    """Refuse a set whose members would come back as something that no set can hold."""
    for item in value:
        if type(item) is tuple or type(item) is frozenset:
            _check_members(item)
        elif is_model(type(item)):
            raise _Bad(f"a set cannot hold a {type(item).__name__}: it comes back as a dict; use a list or its key")


def _datetime(value: datetime, _depth: int, _limit: int) -> msgspec.msgpack.Ext:
    offset = value.utcoffset()
    if offset is None:
        raise _Bad(
            f"the datetime {value.isoformat()} is naive; give it a time zone, e.g. value.replace(tzinfo=timezone.utc)"
        )
    if offset.microseconds:
        raise _Bad(f"the zone of {value.isoformat()} is off by a fraction of a second; give it a zone of whole seconds")
    return msgspec.msgpack.Ext(_DATETIME, value.isoformat().encode())


def _time(value: time, _depth: int, _limit: int) -> msgspec.msgpack.Ext:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise _Bad("a time with a named zone has no fixed offset; store a datetime")
    return msgspec.msgpack.Ext(_TIME, value.isoformat().encode())


def _decimal(value: Decimal, _depth: int, _limit: int) -> msgspec.msgpack.Ext:
    if not value.is_finite():
        raise _Bad(f"Decimal('{value}') has no form in SQL; store None or text instead")
    return msgspec.msgpack.Ext(_DECIMAL, str(value).encode())


_HANDLERS: dict[type, Callable[[Any, int, int], Any]] = {
    type(None): _same,
    bool: _same,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    list: _list,
    dict: _dict,
    tuple: _sequence(_TUPLE, ordered=True),
    set: _sequence(_SET, ordered=False),
    frozenset: _sequence(_FROZENSET, ordered=False),
    datetime: _datetime,
    date: lambda value, _depth, _limit: msgspec.msgpack.Ext(_DATE, value.isoformat().encode()),
    time: _time,
    timedelta: lambda v, _depth, _limit: msgspec.msgpack.Ext(
        _TIMEDELTA, _DELTA.pack(v.days, v.seconds, v.microseconds)
    ),
    Decimal: _decimal,
    UUID: lambda value, _depth, _limit: msgspec.msgpack.Ext(_UUID, value.bytes),
}


def _unpack_ext(code: int, data: memoryview) -> Any:
    reader = _READERS.get(code)
    if reader is None:
        raise ValueError(f"unknown extension {code}; it was written by a newer version of ambidex")
    return reader(bytes(data))


def _read_timedelta(data: bytes) -> timedelta:
    days, seconds, microseconds = _DELTA.unpack(data)
    return timedelta(days, seconds, microseconds)


_unpack = msgspec.msgpack.Decoder(ext_hook=_unpack_ext).decode

_READERS: dict[int, Callable[[bytes], Any]] = {
    _DATETIME: lambda data: datetime.fromisoformat(data.decode()),
    _DATE: lambda data: date.fromisoformat(data.decode()),
    _TIME: lambda data: time.fromisoformat(data.decode()),
    _TIMEDELTA: _read_timedelta,
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: lambda data: UUID(bytes=data),
    _TUPLE: lambda data: tuple(_unpack(data)),
    _SET: lambda data: set(_unpack(data)),
    _FROZENSET: lambda data: frozenset(_unpack(data)),
}


# Models.

_NATIVE = (datetime, date, time, timedelta, Decimal, UUID, bytes)


def is_model(cls: type) -> bool:
    """Tell whether values of ``cls`` are stored as the data of their fields."""
    return (
        hasattr(cls, "__pydantic_core_schema__")  # first, because pydantic's classes are slow to say no to the others
        or dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
    )


def _fields(value: Any) -> Any:
    """Return a model's data one level down, or refuse the value."""
    cls = type(value)
    if not is_model(cls):
        raise _Bad(_why_not(value))
    return to_plain(value)


def _why_not(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, (str, int, float, bytes, list, dict, tuple, set)):
        return f"{name} is a subclass of a built-in type and would come back as that type; convert it first"
    if isinstance(value, (bytearray, memoryview)):
        return f"{name} would come back as bytes; convert it with bytes()"
    return (
        f"values of type {name} cannot be stored; "
        "use JSON-shaped data, bytes or a model (dataclass, Struct, attrs, pydantic)"
    )


def to_plain(model: Any) -> Any:
    """Return a model's fields as plain data that keeps datetimes, Decimals, UUIDs and bytes.

    Raises:
        UnsupportedValue: a field's type has no plain form.
    """
    try:
        if is_pydantic(type(model)):
            return _plain_fields(model)
        return msgspec.to_builtins(model, builtin_types=_NATIVE, enc_hook=_nested)
    except RecursionError:
        raise UnsupportedValue(f"{type(model).__name__}: nested too deep (or containing itself)") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedValue(f"{type(model).__name__}: {error}") from None


def _nested(value: Any) -> Any:
    """Let a pydantic model stand inside a dataclass or Struct."""
    if is_model(type(value)):
        return to_plain(value)
    raise TypeError(_why_not(value))


_PLAIN = frozenset((type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID))
_MANY_PLAIN = frozenset((list, tuple, set, frozenset))


def _plain_fields(model: Any) -> Any:
    """Return what a pydantic model holds, not what it shows.

    ``model_dump`` adds computed fields, leaves out what is excluded and writes as serializers say: that is made for
    readers, and not always such that the model can be made of it again.
    """
    cls, held = type(model), model.__dict__
    names = cls.__pydantic_fields__
    values = {name: held[name] for name in names if name in held}
    if len(values) < len(names):  # SQLAlchemy loads some of a table's when they are asked for
        values |= {name: getattr(model, name) for name in names if name not in values and hasattr(model, name)}
    if getattr(cls, "__pydantic_root_model__", False):
        return _plain(values["root"])
    more = getattr(model, "__pydantic_extra__", None)
    if more:
        values |= more
    return {name: value if type(value) in _PLAIN else _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Return a value with the members of enumerations replaced by their values, and models by their fields."""
    cls = type(value)
    if cls in _PLAIN:
        return value
    if cls is dict:
        if _PLAIN.issuperset(map(type, value)) and _PLAIN.issuperset(map(type, value.values())):
            return value
        return {_plain(key): _plain(item) for key, item in value.items()}
    if cls in _MANY_PLAIN:
        return value if _PLAIN.issuperset(map(type, value)) else cls(map(_plain, value))
    if isinstance(value, enum.Enum):
        return value.value
    if is_pydantic(cls):
        return _plain_fields(value)
    return to_plain(value) if is_model(cls) else value


def _to_model(value: Any, model: type[Any]) -> Any:
    try:
        if is_pydantic(model):
            return validator(model)(value)
        return msgspec.convert(value, type=model, dec_hook=validate_nested)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise Corrupted(f"a stored value does not fit {getattr(model, '__name__', model)}: {why(error)}") from None
