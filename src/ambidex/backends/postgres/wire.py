"""Statements and values between Python and PostgreSQL's protocol; ``session.py`` and the ports call this.

The invariant: values are bound, never formatted into SQL, and each goes in the one form that PostgreSQL reads
unambiguously: bytes and arrays in binary, everything else as text whose type the statement decides.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import add
from typing import Any, overload

from ambidex.errors import UnsupportedValue

__all__ = ["Later", "bigint_array", "bytea_array", "dump", "even_array", "native", "sized_array", "text_array"]

_TEXT, _BYTEA, _BIGINT = 25, 17, 20  # pg_type.oid
_HEAD = struct.Struct(">iiIii")
_SIZE = struct.Struct(">i")
_SIZED_INT = struct.Struct(">iq")
_NULL = _SIZE.pack(-1)


class Later(Sequence[Any]):
    """Arguments that are made when they are sent: while the server works on what was sent before them.

    Args:
        make: makes them, each time they are sent; nothing in them may be such that it cannot be bound.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[], Sequence[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        return self._make()[at]


@lru_cache(maxsize=4096)
def native(sql: str) -> bytes:
    """Return a statement with its ``?`` written as ``$1``, ``$2`` and so on."""
    parts = sql.split("?")
    return "".join(f"{part}${place}" for place, part in enumerate(parts[:-1], 1)).encode() + parts[-1].encode()


def dump(args: Sequence[Any]) -> tuple[list[bytes | None], list[int]]:
    """Return arguments as the protocol takes them: values, and for each its format (0 text, 1 binary)."""
    values: list[bytes | None] = []
    formats: list[int] = []
    for arg in args:
        kind = type(arg)
        formats.append(1 if kind is bytes else 0)
        if kind is bytes or arg is None:
            values.append(arg)
        elif kind is str:
            if "\x00" in arg:  # libpq would cut the text there
                raise UnsupportedValue("the text contains a NUL character, which PostgreSQL cannot hold")
            values.append(arg.encode())
        elif kind is int:
            values.append(b"%d" % arg)
        elif kind is bool:
            values.append(b"t" if arg else b"f")
        elif kind is float:
            values.append(repr(arg).encode())
        else:
            raise UnsupportedValue(f"PostgreSQL's driver is given text, bytes and numbers, not {kind.__name__}")
    return values, formats


def text_array(items: Sequence[str | None]) -> bytes:
    """Return the binary form of ``text[]``."""
    try:
        data: Sequence[bytes | None] = list(map(str.encode, items))  # type: ignore[arg-type]  # None is why it may fail
    except TypeError:
        data = [None if item is None else item.encode() for item in items]
    return sized_array(_TEXT, data)


def bytea_array(items: Sequence[bytes | None]) -> bytes:
    """Return the binary form of ``bytea[]``."""
    return sized_array(_BYTEA, items)


def bigint_array(items: Sequence[int | None]) -> bytes:
    """Return the binary form of ``bigint[]``."""
    number = len(items)
    try:
        flat = [8] * (2 * number)
        flat[1::2] = items  # type: ignore[assignment]  # None is why it may fail
        return _array(_BIGINT, number, struct.pack(">" + "iq" * number, *flat))
    except struct.error:
        return _array(_BIGINT, number, b"".join(_NULL if item is None else _SIZED_INT.pack(8, item) for item in items))


def sized_array(oid: int, items: Sequence[bytes | None]) -> bytes:
    """Return the binary form of an array of any type, of elements in their binary form.

    Args:
        oid: of the type of the elements.
        items: the elements.
    """
    pack = _SIZE.pack
    try:
        data = b"".join(map(add, map(pack, map(len, items)), items))  # type: ignore[arg-type]  # as above
    except TypeError:
        data = b"".join([_NULL if item is None else pack(len(item)) + item for item in items])
    return _array(oid, len(items), data)


def even_array(oid: int, size: int, items: Sequence[bytes | None]) -> bytes:
    """Return what :func:`sized_array` does, where each element takes ``size`` bytes."""
    head = _SIZE.pack(size)
    try:
        data = head + head.join(items)  # type: ignore[arg-type]  # as above
    except TypeError:
        data = b"".join([_NULL if item is None else head + item for item in items])
    return _array(oid, len(items), data)


def _array(oid: int, number: int, data: bytes) -> bytes:
    """Return an array of so many elements, each of which stands behind its size."""
    return (_HEAD.pack(1, 1, oid, number, 1) + data) if number else struct.pack(">iiI", 0, 0, oid)
