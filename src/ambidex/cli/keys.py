"""The commands of keys and values: get, set, delete and scan; ``app.py`` lists them.

Their docstrings are their --help. The invariant: a text or bytes come out as they went in, so that output can be piped.
"""

from __future__ import annotations

import json as jsonlib
import sys

from ambidex.cli.output import as_json, print_json, working
from ambidex.cli.places import Places, opened
from ambidex.errors import InvalidQuery

__all__ = ["delete", "get", "scan", "set_"]


def get(key: str, /, *, url: str | None = None, namespace: str = "", tenant: str = "", json: bool = False) -> int:
    """Print the value of a key: text as it is, bytes as they are, anything else as JSON.

    Args:
        key: the key; the exit code is 1 if it does not exist.
        url: the storage.
        namespace: the namespace of the key.
        tenant: the tenant whose data it is.
        json: print one JSON object with the value and the seconds that it has left.
    """
    with opened(Places(url), tenant) as storage:
        kv = storage.kv.namespace(namespace) if namespace else storage.kv
        found = kv.get_versioned(key)
        left = None if found is None else kv.ttl(key)
    if json:
        value = None if found is None else found.value
        print_json({"key": key, "exists": found is not None, "value": value, "ttl": left})
    elif found is None:
        print(f"error: there is no key {key!r}", file=sys.stderr)
    elif isinstance(found.value, bytes):
        sys.stdout.buffer.write(found.value)
    else:
        print(found.value if isinstance(found.value, str) else as_json(found.value))
    return 0 if found is not None else 1


def set_(
    key: str,
    value: str,
    /,
    *,
    url: str | None = None,
    namespace: str = "",
    tenant: str = "",
    ttl: float | None = None,
    parse: bool = False,
    json: bool = False,
) -> None:
    """Store a value.

    Args:
        key: the key.
        value: the text to store; "-" reads it from standard input.
        url: the storage.
        namespace: the namespace of the key.
        tenant: the tenant whose data it is.
        ttl: seconds until it is gone; without it, it stays.
        parse: read the value as JSON instead of text, so that 5 is a number.
        json: print one JSON object.
    """
    text = sys.stdin.read() if value == "-" else value
    try:
        stored = jsonlib.loads(text) if parse else text
    except ValueError as error:
        raise InvalidQuery(f"the value is not JSON ({error}); without --parse it is stored as text") from None
    with opened(Places(url), tenant) as storage:
        (storage.kv.namespace(namespace) if namespace else storage.kv).set(key, stored, ttl)
    if json:
        print_json({"key": key, "stored": True, "ttl": ttl})


def delete(key: str, /, *, url: str | None = None, namespace: str = "", tenant: str = "", json: bool = False) -> int:
    """Delete a key.

    Args:
        key: the key; the exit code is 1 if it did not exist.
        url: the storage.
        namespace: the namespace of the key.
        tenant: the tenant whose data it is.
        json: print one JSON object.
    """
    with opened(Places(url), tenant) as storage:
        existed = (storage.kv.namespace(namespace) if namespace else storage.kv).delete(key)
    if json:
        print_json({"key": key, "deleted": existed})
    elif not existed:
        print(f"error: there is no key {key!r}", file=sys.stderr)
    return 0 if existed else 1


def scan(
    prefix: str = "",
    /,
    *,
    url: str | None = None,
    namespace: str = "",
    tenant: str = "",
    glob: str | None = None,
    limit: int | None = None,
    json: bool = False,
) -> None:
    """Print the keys that start with a prefix or match a pattern, one a line, as they are found.

    Args:
        prefix: literal text with which the keys begin; without it, all keys.
        url: the storage.
        namespace: the namespace of the keys.
        tenant: the tenant whose data it is.
        glob: a pattern in which * is any text and ? any one character.
        limit: stop after this many keys.
        json: print one JSON list.
    """
    with opened(Places(url), tenant) as storage:
        kv = storage.kv.namespace(namespace) if namespace else storage.kv
        keys = kv.scan(prefix, glob=glob)
        found = (key for key, _ in zip(keys, iter(int, 1) if limit is None else range(limit), strict=False))
        if json:
            with working("scanning"):
                print_json(list(found))
        else:
            for key in found:
                print(key)
