"""Which node of a Cluster holds a key, as data; :mod:`ambidex.backends.redis.client` keeps one for each backend.

The invariant: a topology is replaced whole, never changed while it is read, except that one slot's owner may be
corrected by a redirection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ambidex.backends.redis.target import Address
from ambidex.errors import Unavailable

__all__ = ["Topology", "redirection", "slot_of"]


def slot_of(key: str) -> int:
    """Return the slot of a key."""
    return int(key_slot(key.encode()))


class Topology:
    """The owners of all slots.

    Args:
        reply: the answer to CLUSTER SLOTS.
        asked: who answered; a node that does not know its own name is there.
    """

    def __init__(self, reply: Iterable[Any], asked: Address) -> None:
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        known: dict[Address, None] = {}
        masters: dict[Address, None] = {}
        for first, last, *nodes in reply:
            places = [_address(node, asked) for node in nodes]
            known.update(dict.fromkeys(places))
            masters[places[0]] = None
            self._owners[first : last + 1] = [places[0]] * (last + 1 - first)
        self.masters = tuple(masters)
        """The nodes that own slots."""
        self.known = tuple(known)
        """All nodes, replicas included: any of them can be asked for a newer topology."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self._owners == other._owners

    __hash__ = None  # type: ignore[assignment]  # it changes

    def owner(self, slot: int) -> Address:
        """Return the node of a slot.

        Raises:
            Unavailable: nobody serves it.
        """
        owner = self._owners[slot]
        if owner is None:
            raise Unavailable(f"no node of the Cluster serves slot {slot}", retry_after=0.05)
        return owner

    def correct(self, slot: int, owner: Address) -> None:
        """Note what a redirection said."""
        self._owners[slot] = owner


def _address(node: Any, asked: Address) -> Address:
    host = node[0]
    name = host.decode() if isinstance(host, bytes) else ""
    return Address(name if name not in ("", "?") else asked.host, node[1])


def redirection(text: str, asked: Address) -> Address:
    """Return where a MOVED or ASK reply points to."""
    host, _, port = text.split()[2].rpartition(":")
    return Address(host or asked.host, int(port))
