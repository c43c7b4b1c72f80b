"""Statements and values between Python and PostgreSQL's protocol; ``session.py`` and the ports call this.

The invariant: values are bound, never formatted into SQL, and each goes in the one form that PostgreSQL reads
unambiguously: bytes and arrays in binary, everything else as text whose type the statement decides.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ambidex.errors import UnsupportedValue

__all__ = ["array", "bigint_array", "bytea_array", "dump", "native", "sized_array", "text_array"]

_TEXT, _BYTEA, _BIGINT = 25, 17, 20  # pg_type.oid
_HEAD = struct.Struct(">iiIii")
_SIZE = struct.Struct(">i")
_SIZED_INT = struct.Struct(">iq")
_NULL = _SIZE.pack(-1)


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
    return array(_TEXT, _sized([None if item is None else item.encode() for item in items]))


def bytea_array(items: Sequence[bytes | None]) -> bytes:
    """Return the binary form of ``bytea[]``."""
    return array(_BYTEA, _sized(items))


def bigint_array(items: Sequence[int | None]) -> bytes:
    """Return the binary form of ``bigint[]``."""
    return array(_BIGINT, [_NULL if item is None else _SIZED_INT.pack(8, item) for item in items])


def sized_array(oid: int, items: Sequence[bytes | None]) -> bytes:
    """Return the binary form of an array of any type, of elements in their binary form.

    Args:
        oid: of the type of the elements.
        items: the elements.
    """
    return array(oid, _sized(items))


def _sized(items: Sequence[bytes | None]) -> list[bytes]:
    pack = _SIZE.pack
    return [_NULL if item is None else pack(len(item)) + item for item in items]


def array(oid: int, items: list[bytes]) -> bytes:
    """Return an array of a type's elements, each of which stands behind its size."""
    if not items:
        return struct.pack(">iiI", 0, 0, oid)
    return _HEAD.pack(1, 1, oid, len(items), 1) + b"".join(items)
