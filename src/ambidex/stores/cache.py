"""Answers of searches kept for a while; ``stores.search`` looks here first, ``invalidate_cache`` empties it.

Every write to a namespace gives it a new stamp, in the same atomic step (see ``SearchPort.state``). An answer is kept
under the stamp that was read before the search. The invariant: an answer is only given again while its namespace has
the stamp it was found under; so a write by any process ends it, and nothing else does but time, room and
``invalidate``.
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from ambidex.core.ports import Hit
from ambidex.errors import InvalidQuery

__all__ = ["QueryCache", "copies"]

_SECONDS = 300.0
_ENTRIES = 1_024
_LONGEST_KEY = 4_096


class _Entry(NamedTuple):
    stamp: int
    expires: float
    hits: list[Hit]
    tenant: str
    name: str


class QueryCache:
    """The answers of one storage object, of all its tenants and both modes.

    Args:
        seconds: how long an answer may be given again.
        entries: how many are kept; the least recently used go first.
    """

    def __init__(self, seconds: float = _SECONDS, entries: int = _ENTRIES) -> None:
        self._seconds, self._most = seconds, entries
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.hits = self.misses = 0

    def get(self, key: bytes, stamp: int) -> list[Hit] | None:
        """Return what was found, or None."""
        entry = self._entries.get(key)
        if entry is None or entry.stamp != stamp or entry.expires <= time.monotonic():
            self._entries.pop(key, None)
            self.misses += 1
            return None
        try:
            self._entries.move_to_end(key)
        except KeyError:  # another thread has just dropped it; the answer is still right
            pass
        self.hits += 1
        return copies(entry.hits)

    def put(self, key: bytes, stamp: int, hits: Sequence[Hit], tenant: str, name: str) -> None:
        """Keep what was found.

        Args:
            key: stands for tenant, namespace and the whole query.
            stamp: read before the search.
            hits: the answer.
            tenant: whose it is.
            name: its logical key, ``search:<namespace>:<query>``.
        """
        if len(key) > _LONGEST_KEY:
            return
        self._entries[key] = _Entry(stamp, time.monotonic() + self._seconds, copies(hits), tenant, name)
        while len(self._entries) > self._most:
            try:
                self._entries.popitem(last=False)
            except KeyError:  # other threads have emptied it
                return

    def invalidate(self, pattern: str | None = None, tenant: str = "") -> int:
        """Drop the answers whose logical key matches a glob, or all; return how many.

        Args:
            pattern: ``*`` is any text, ``?`` any one character.
            tenant: only those of this tenant; "": of all.

        Raises:
            InvalidQuery: the pattern is no text.
        """
        if pattern is not None and not isinstance(pattern, str):
            raise InvalidQuery(f"a pattern is text such as 'search:default:*', not {type(pattern).__name__}")
        # fnmatch's brackets are no part of the pattern language here
        glob = None if pattern is None else re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
        doomed = [
            key
            for key, entry in list(self._entries.items())
            if (not tenant or entry.tenant == tenant) and (glob is None or glob.match(entry.name))
        ]
        return sum(self._entries.pop(key, None) is not None for key in doomed)


def copies(hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits with metadata of their own, for callers may change what they are given."""
    return [Hit(id_, score, title, text, dict(metadata)) for id_, score, title, text, metadata in hits]
