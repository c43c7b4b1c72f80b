"""Cursors of keyset pages: signed text that says where a page ended; repositories make and read them.

The invariant: a cursor is accepted only as it was made, for the same kind of record, tenant, filters and order;
anything else is refused before any I/O, so a cursor can never reach what its query could not.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from ambidex.core.codec import decode, encode
from ambidex.errors import AmbidexError, InvalidQuery

__all__ = ["read_cursor", "write_cursor"]

_SIGNATURE = 16
_REFUSED = "this cursor was not made by this query; start again without a cursor"


def write_cursor(secret: bytes, query: str, backwards: bool, key: Sequence[Any]) -> str:
    """Return a cursor.

    Args:
        secret: the signing key.
        query: a text that is equal exactly for equal queries.
        backwards: whether the page before the key is meant, rather than the one after it.
        key: the values of the ordered fields where the page ended.
    """
    body = encode([backwards, list(key)])
    assert isinstance(body, bytes)  # noqa: S101  # a list is never stored as an integer
    return base64.urlsafe_b64encode(_sign(secret, query, body) + body).decode().rstrip("=")


def read_cursor(secret: bytes, query: str, cursor: str) -> tuple[bool, list[Any]]:
    """Return what :func:`write_cursor` was given.

    Raises:
        InvalidQuery: the cursor is forged, damaged, or belongs to another query.
    """
    try:
        data = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (ValueError, binascii.Error, AttributeError, UnicodeEncodeError):
        raise InvalidQuery(_REFUSED) from None
    signature, body = data[:_SIGNATURE], data[_SIGNATURE:]
    if not hmac.compare_digest(signature, _sign(secret, query, body)):
        raise InvalidQuery(_REFUSED)
    try:
        backwards, key = decode(body)
    except (AmbidexError, ValueError, TypeError):
        raise InvalidQuery(_REFUSED) from None
    return bool(backwards), list(key)


def _sign(secret: bytes, query: str, body: bytes) -> bytes:
    return hmac.new(secret, query.encode() + b"\x00" + body, hashlib.sha256).digest()[:_SIGNATURE]
