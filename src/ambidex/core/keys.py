"""Key text: how tenant, namespace and key become one string that every backend can hold; stores call this.

The invariant: :func:`encode` is injective. Each part is escaped so that only ``A-Z a-z 0-9 _ -`` and ``%XX`` remain,
and parts are joined by ``:``, which no part can contain; so no key, namespace or tenant can be written that reads as
another. A prefix of a part's text is a prefix of its escaped text, which makes prefix scans possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ambidex.errors import InvalidKey

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_PREFIX_BYTES",
    "blob_segments",
    "decode",
    "encode",
    "escape",
    "escape_all",
    "prefix_of",
    "unescape",
]

MAX_KEY_BYTES = 2_000
"""The longest escaped key part in bytes."""
MAX_PREFIX_BYTES = 600
"""The longest tenant and namespace before a key, together and escaped: PostgreSQL's index rows end at about 2,700."""

_ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2})*\Z")


_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_FORMS = [chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in range(256)]
_form = _FORMS.__getitem__


def escape(part: str) -> str:
    """Return one key part with everything outside ``[A-Za-z0-9_-]`` written as ``%XX`` of its UTF-8 bytes.

    Raises:
        InvalidKey: the part is no text, holds NUL or a lone surrogate, or is too long.
    """
    try:
        return _escape(part)
    except TypeError:  # unhashable, so it never reached the check below
        raise InvalidKey(
            f"a key must be text, not {type(part).__name__}; convert it with str() or an explicit format"
        ) from None


def escape_all(parts: Iterable[str]) -> list[str]:
    """Return each part as :func:`escape` does, without replacing what that one remembers of the keys in daily use.

    Parts in which at most one character needs to be written otherwise, the same in all, are written in one pass.
    """
    parts = list(parts)
    try:
        text = "\x00".join(parts)
        unsafe = text.encode().translate(None, _SAFE + b"\x00")
    except (TypeError, UnicodeEncodeError):
        return list(map(_written, parts))
    # NUL is in no key, so that it can stand between them; what is in one makes one more of them.
    if text.count("\x00") != len(parts) - 1 or len(set(unsafe)) > 1 or not text.isascii():
        return list(map(_written, parts))
    if unsafe:
        text = text.replace(chr(unsafe[0]), _FORMS[unsafe[0]])
    escaped = text.split("\x00")
    return escaped if len(max(escaped, key=len)) <= MAX_KEY_BYTES else list(map(_written, parts))


def _written(part: str) -> str:
    if not isinstance(part, str):
        raise InvalidKey(f"a key must be text, not {type(part).__name__}; convert it with str() or an explicit format")
    try:
        text = part.encode()
    except UnicodeEncodeError:
        raise InvalidKey(
            f"the key {part[:40]!r} contains a lone surrogate, which is not text; decode it properly first"
        ) from None
    unsafe = text.translate(None, _SAFE)
    if not unsafe:
        escaped = text.decode()  # a plain str, whatever subclass the part is of
    elif unsafe == unsafe[:1] * len(unsafe) and unsafe[0] < 0x80:  # nearly always one separator: a slash, a colon
        escaped = part.replace(chr(unsafe[0]), _FORMS[unsafe[0]])
    else:
        escaped = "".join(map(_form, text))
    if 0 in unsafe:
        raise InvalidKey(f"the key {part[:40]!r} contains a NUL character, which PostgreSQL cannot hold; remove it")
    if len(escaped) > MAX_KEY_BYTES:
        raise InvalidKey(
            f"the key {part[:40]!r}… takes {len(escaped)} bytes when escaped, "
            f"the limit is {MAX_KEY_BYTES}; use a hash of it as the key"
        )
    return escaped


_escape = lru_cache(maxsize=8192)(_written)


def unescape(text: str) -> str:
    """Undo :func:`escape`.

    Raises:
        InvalidKey: the text was not written by :func:`escape`.
    """
    if not _TOKEN.match(text):
        raise InvalidKey(f"{text[:60]!r} is not an escaped key part")
    try:
        return _ESCAPED.sub(lambda match: bytes.fromhex(match.group().replace("%", "")).decode("utf-8"), text)
    except UnicodeDecodeError:
        raise InvalidKey(f"{text[:60]!r} is not an escaped key part") from None


def encode(*parts: str) -> str:
    """Join parts into one key; the number of parts is recoverable, so keys of different depth never collide."""
    return ":".join(map(escape, parts))


def decode(key: str) -> tuple[str, ...]:
    """Undo :func:`encode`."""
    return tuple(map(unescape, key.split(":")))


def prefix_of(*parts: str) -> str:
    """Return the text with which every key starts that has these parts first and more after them."""
    return encode(*parts) + ":"


def blob_segments(key: str) -> list[str]:
    """Return the parts of a blob's key, which become folders and a file where files are kept.

    Raises:
        InvalidKey: a part is empty, begins with a dot or holds anything but ``A-Z a-z 0-9 _ - .``.
    """
    segments = key.split("/")
    for segment in segments:
        if not _SEGMENT.match(segment):
            raise InvalidKey(f"the blob key {key[:80]!r} has a part {segment[:40]!r} that could not be kept safely")
    return segments
