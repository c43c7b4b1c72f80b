"""Listing keys by prefix, each exactly once; the ports for key-value and logs use it.

SCAN repeats keys when the server's table is resized, and its cursor means nothing to another node. So a page does not
follow one cursor: a whole pass of SCAN collects the first ``WINDOW`` names behind the last one returned, in the order
of their text, and pages are cut from these. The invariant: a pass meets every key that exists during all of it, and
order decides which page a key belongs to, so a key that exists during the whole scan is returned exactly once.

A token's text is the last name returned, which is all that a later page needs. The token object also carries the
names that were collected and not yet returned, so that one pass serves ``WINDOW`` names; it goes with the scan, and
it is all the memory that a scan takes. A listing therefore costs one pass over the database, plus one for each
further ``WINDOW`` names.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final

from ambidex.backends.redis.client import Client
from ambidex.backends.redis.target import Address
from ambidex.backends.redis.wire import pack
from ambidex.errors import Conflict

__all__ = ["WINDOW", "scan"]

WINDOW: Final = 100_000
_COUNT = 2_000
"""Places of the server's table that one SCAN looks at: well below a millisecond of its time."""
_PASSES = 3
_GLOB = str.maketrans({char: "\\" + char for char in "*?[]^-\\"})


class _Token(str):
    """The last name returned, with the names that come next."""

    __slots__ = ("more", "rest")
    rest: list[str]
    more: bool


async def scan(client: Client, room: str, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
    """Return a page of names and the token of the next one. See ``KeyValuePort.scan``.

    Args:
        client: where.
        room: what the database's keys of this kind begin with; names come without it.
        prefix: what the names begin with.
        after: an earlier page's token, or only its text.
        limit: the size of a page.
    """
    if isinstance(after, _Token):
        names, more = after.rest, after.more
        present = await _still_there(client, room, names[:limit])
    else:
        names, more = await _pass(client, room, prefix, after or "", max(limit, WINDOW))
        present = names[:limit]
    if len(names) <= limit and not more:
        return present, None
    token = _Token(names[:limit][-1])
    token.rest, token.more = names[limit:], more
    if not token.rest:
        return present, str(token)
    return present, token


async def _still_there(client: Client, room: str, names: Sequence[str]) -> list[str]:
    """Leave out what has gone since it was collected."""
    if not names:
        return []
    found = await client.many([(pack("EXISTS", room + name), room + name) for name in names])
    return [name for name, there in zip(names, found, strict=True) if there]


async def _pass(client: Client, room: str, prefix: str, after: str, limit: int) -> tuple[list[str], bool]:
    """Return the first ``limit`` names behind ``after`` in the order of text, and whether there are more."""
    for _ in range(_PASSES):
        masters = await client.masters()
        names = set[str]()
        more = False
        for node in masters:
            more = await _node(client, node, room, prefix, after, limit, names) or more
        if set(await client.masters()) == set(masters):
            return sorted(names), more
    raise Conflict("the nodes of the Cluster changed during each of several scans; repeat it when they are at rest")


async def _node(client: Client, node: Address, room: str, prefix: str, after: str, limit: int, names: set[str]) -> bool:
    """Add one node's names, keeping the first ``limit`` of all; return whether some were left out."""
    pattern, skip = (room + prefix).translate(_GLOB) + "*", len(room)
    cursor: Any = b"0"
    more = False
    while True:
        cursor, found = await client.at(node, pack("SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT))
        names.update(name for key in found if (name := key.decode()[skip:]) > after)
        if len(names) > 2 * limit:
            first = heapq.nsmallest(limit, names)
            names.clear()
            names.update(first)
            more = True
        if cursor == b"0":
            break
    if len(names) > limit:
        first = heapq.nsmallest(limit, names)
        names.clear()
        names.update(first)
        more = True
    return more
