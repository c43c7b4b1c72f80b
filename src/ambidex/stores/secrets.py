"""The key with which a storage signs cursors; repositories ask for it when they make or read one.

It is the one of the settings, or else a random one kept in the storage itself, so that every process on one database
accepts the others' cursors and no other database's. The invariant: it is made once, by an add-if-absent, and never
leaves the storage and the processes that use it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from weakref import WeakKeyDictionary

from ambidex.core.codec import decode, encode
from ambidex.core.keys import encode as key_of
from ambidex.core.ports import When
from ambidex.errors import Corrupted
from ambidex.stores.deferred import beneath
from ambidex.stores.scope import Scope

__all__ = ["signing_key"]

_KEY = key_of("system", "cursor-secret")
_known: WeakKeyDictionary[object, bytes] = WeakKeyDictionary()


async def signing_key(scope: Scope) -> bytes:
    """Return the key for cursors of a storage.

    Raises:
        Corrupted: what is stored in its place is no key.
    """
    if scope.secret is not None:
        return hmac.digest(scope.secret, b"ambidex cursor", hashlib.sha256)
    leaf = beneath(scope.leaf)  # no unit of another backend has a part in it, and it is needed at once
    known = _known.get(leaf)
    if known is not None:
        return known
    stored = await leaf.kv.get(_KEY)
    if stored is None:
        await leaf.kv.put(_KEY, encode(secrets.token_bytes(32)), None, When.ABSENT)
        stored = await leaf.kv.get(_KEY)
    else:
        # Remembered only when found, because the transaction in which it was made may yet be undone.
        _known[leaf] = _secret(stored)
    return _secret(stored)


def _secret(stored: bytes | int | None) -> bytes:
    value = None if stored is None else decode(stored)
    if not isinstance(value, bytes) or len(value) < 16:
        raise Corrupted("the storage's cursor secret is damaged; delete the key 'cursor-secret' of the room 'system'")
    return value
