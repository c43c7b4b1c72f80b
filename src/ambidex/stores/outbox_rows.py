"""What an outbox keeps, without I/O: a row for each unit, its entries, their stored form; ``stores.outbox`` uses it.

The invariant: an entry keeps the number that it had in its unit, also when others of the unit were applied and it was
not, because the mark that makes it once is named after it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ambidex.core.clock import millis
from ambidex.core.codec import Stored, decode, encode
from ambidex.core.ports import IndexItem, Put, When
from ambidex.errors import AmbidexError, Corrupted
from ambidex.stores.record_writes import port_arguments, record_names

__all__ = ["METHODS", "Entry", "Numbered", "Row", "parse"]

METHODS: Final = {
    "kv": frozenset({"put", "put_many", "delete_many"}),
    "log": frozenset({"append"}),
    "search": frozenset({"index", "remove", "annotate", "reset"}),
    "records": frozenset({"upsert", "update", "update_where", "delete", "delete_where"}),
}
"""What an entry may be."""


class Entry(NamedTuple):
    """One write to another backend, as data."""

    place: str
    """A capability that is placed on that backend; its leaf's ports may serve others, too."""
    port: str
    method: str
    args: list[Any]

    def touches(self) -> list[tuple[Any, ...]]:
        """Return what has an order: keys, streams, records and namespaces of an index."""
        if self.port == "records":
            return [(self.place, self.port, *name) for name in record_names(self.method, self.args)]
        names = [self.args[0]]
        if self.port == "kv" and self.method != "put":
            names = [key if self.method == "delete_many" else key[0] for key in self.args[0]]
        return [(self.place, self.port, name) for name in names]

    def port_args(self) -> list[Any]:
        """Return what the port's method takes."""
        args: list[Any] = list(self.args)
        if self.port == "records":
            return port_arguments(self.method, args)
        if self.method == "put":
            args.append(When.ALWAYS)
        elif self.method == "put_many":
            args[0] = [Put(*item) for item in args[0]]
        elif self.method == "index":
            args[1] = [IndexItem(*item) for item in args[1]]
        return args

    def once_call(self) -> tuple[str, str, list[Any]]:
        """Return what :class:`ambidex.core.ports.OncePort` takes beside the name."""
        return self.port, self.method, self.port_args() if self.port == "records" else self.args

    def aged(self, at: int) -> Entry:
        """Return it with a time to live that counts from the commit, not from now."""
        ttl = self.args[-1]
        if self.method not in ("put", "put_many", "append") or ttl is None:
            return self
        return self._replace(args=[*self.args[:-1], max(1, ttl - max(0, millis() - at))])


Numbered = tuple[int, Entry]
"""An entry with its place in the unit."""


class Row(NamedTuple):
    """What a unit has left for other backends, or what is left of that."""

    name: str
    at: int
    """When it was committed: milliseconds since 1970, by the clock of the process that did."""
    entries: Sequence[Numbered]
    read: float
    """When it was there for certain, on the monotonic clock."""
    error: str = ""
    failed_at: int = 0
    """For a row that was set aside: why, and when."""

    def touches(self) -> set[tuple[Any, ...]]:
        """See :meth:`Entry.touches`."""
        return {touched for _, entry in self.entries for touched in entry.touches()}

    def groups(self) -> list[tuple[str, list[Numbered]]]:
        """Return the entries in order, those for one place together, with the time that they still have."""
        aged = [(number, entry.aged(self.at)) for number, entry in self.entries]
        return [(place, list(group)) for place, group in itertools.groupby(aged, key=lambda one: one[1].place)]

    def mark(self, number: int) -> str:
        """Return what nothing but this entry of this unit is named."""
        return f"{self.name}:{number}"

    def stored(self) -> Stored:
        """Return the form in which it waits; :func:`parse` undoes it."""
        return encode({"at": self.at, "entries": [list(entry) for _, entry in self.entries]})

    def set_aside(self, rest: Sequence[Numbered], error: AmbidexError) -> Stored:
        """Return the form in which what was refused of it is kept: entries as they were, with their numbers."""
        refused = {number for number, _ in rest}
        left = [(number, entry) for number, entry in self.entries if number in refused]
        return encode(
            {
                "at": self.at,
                "entries": [list(entry) for _, entry in left],
                "numbers": [number for number, _ in left],
                "error": f"{type(error).__name__}: {error}",
                "failed_at": millis(),
            }
        )


def parse(name: str, stored: Stored) -> Row:
    """Return a row.

    Raises:
        Corrupted: it is none that this version could apply.
    """
    read = time.monotonic()
    try:
        body = decode(stored)
        entries = [Entry(*entry) for entry in body["entries"]]
        numbers = body.get("numbers", range(len(entries)))
        row = Row(name, body["at"], list(zip(numbers, entries, strict=True)), read, body.get("error", ""))
        row = row._replace(failed_at=body.get("failed_at", 0))
        for entry in entries:
            if entry.method not in METHODS[entry.port]:
                raise ValueError(f"{entry.port} has no {entry.method} that could wait")
            entry.port_args()
        row.touches()
    except (TypeError, ValueError, LookupError, AttributeError, Corrupted) as error:
        raise Corrupted(
            f"what the unit {name} left for other backends is damaged, or was written by another version of ambidex "
            f"({type(error).__name__}: {error})"
        ) from None
    return row
