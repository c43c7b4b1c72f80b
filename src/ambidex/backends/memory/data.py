"""What the memory backend's ports share: the tables, their lock, the clock and transactions.

The invariant: tables are only touched inside :meth:`Data.tables`. A transaction works on its own copy, which replaces
the tables at its end if nobody else has written meanwhile; otherwise it fails with Conflict and leaves no trace.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ambidex.core.codec import Stored
from ambidex.core.ports import BlobInfo, Event, IndexItem, Row, SpaceState
from ambidex.core.spec import RecordSpec
from ambidex.errors import Conflict
from ambidex.runtime.process import ForkLock

__all__ = ["Data", "Stream", "Tables", "Value"]


class Value(NamedTuple):
    """A stored value, never changed but replaced; ``expires`` is a moment of the monotonic clock."""

    stored: Stored
    version: int
    expires: float | None


@dataclass(slots=True)
class Stream:
    """A log: its entries, the last place given out, and when it expires."""

    events: list[Event] = field(default_factory=list)
    seq: int = 0
    expires: float | None = None


@dataclass(slots=True)
class Tables:
    """Everything that is stored."""

    values: dict[str, Value] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    indexes: dict[str, dict[str, IndexItem]] = field(default_factory=dict)
    records: dict[tuple[str, str], dict[Any, Row]] = field(default_factory=dict)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    spaces: dict[str, SpaceState] = field(default_factory=dict)

    def copy(self) -> Tables:
        """Return tables that can be changed without changing these."""
        return Tables(
            self.values.copy(),
            {name: Stream(list(s.events), s.seq, s.expires) for name, s in self.streams.items()},
            {name: dict(items) for name, items in self.indexes.items()},
            {name: dict(rows) for name, rows in self.records.items()},
            self.numbers.copy(),
            self.spaces.copy(),
        )


class _Transaction:
    def __init__(self, data: Data, tables: Tables, base: int) -> None:
        self.data, self.tables, self.base = data, tables, base
        self.wrote = False


_current: ContextVar[_Transaction | None] = ContextVar("ambidex_memory_transaction", default=None)


class Data:
    """The tables of one memory backend."""

    def __init__(self) -> None:
        self._tables = Tables()
        self.specs: dict[tuple[str, str], dict[int, RecordSpec]] = {}
        self.mixed: set[tuple[str, str]] = set()  # kinds that models of different fields have been used for
        self.blobs: dict[str, tuple[BlobInfo, bytes]] = {}  # beside the tables: they take no part in transactions
        self._lock = ForkLock()
        self._writes = 0

    @contextmanager
    def tables(self, write: bool = False) -> Iterator[Tables]:
        """Give exclusive access to the tables, or to the running transaction's copy of them."""
        with self._lock:
            unit = _current.get()
            if unit is not None and unit.data is self:
                unit.wrote |= write
                yield unit.tables
            else:
                self._writes += write
                yield self._tables

    @property
    def in_transaction(self) -> bool:
        """Whether this task or thread is inside a transaction of these tables."""
        unit = _current.get()
        return unit is not None and unit.data is self

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Make what happens inside all or nothing; inside another transaction, a savepoint of it."""
        outer = _current.get()
        if outer is not None and outer.data is self:
            saved = outer.tables.copy()
            try:
                yield
            except BaseException:
                outer.tables = saved
                raise
            return
        with self._lock:
            unit = _Transaction(self, self._tables.copy(), self._writes)
        token = _current.set(unit)
        try:
            yield
        finally:
            _current.reset(token)
        self._commit(unit)

    def _commit(self, unit: _Transaction) -> None:
        with self._lock:
            if not unit.wrote:
                return
            if self._writes != unit.base:
                raise Conflict("another writer changed the memory backend during this transaction; run it again")
            self._writes += 1
            self._tables = unit.tables


def expiry(ttl_ms: int | None) -> float | None:
    """Return the moment at which something with this time to live ends."""
    return None if ttl_ms is None else time.monotonic() + ttl_ms / 1000


def expired(moment: float | None) -> bool:
    """Tell whether a moment has passed."""
    return moment is not None and moment <= time.monotonic()


def first_version() -> int:
    """Return a version for a new key: random, so that a key deleted and made again never repeats one."""
    return random.getrandbits(52) + 1  # not a secret
