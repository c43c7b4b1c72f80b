"""Units of work that reach other backends: what they did there is kept as a row that commits with the transaction.

``storage.transaction()`` runs through an :class:`Outbox`; :mod:`ambidex.stores.deferred` puts entries into its unit,
and after the commit they are applied and the row is deleted. What a crash or a failing target leaves is applied later,
by the next unit that touches the same keys, at a later use of the other backend, or by ``storage.recover()``.

The invariant: an entry takes effect once, and entries that touch the same key take effect in the order of their units.
A mark that the target stores together with the effect makes it once, so it does no harm when two processes apply one
row at the same time; a lease merely keeps them from doing each other's work. An entry is never applied while an older
row that touches the same key still waits.
"""

from __future__ import annotations

import functools
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ambidex.core.codec import Stored, decode, encode
from ambidex.core.ids import uuid7
from ambidex.core.ports import Capability, IndexItem, Leaf, OncePort, Put, When
from ambidex.core.runtime import Runtime, deadline
from ambidex.errors import (
    AlreadyExists,
    AmbidexError,
    Busy,
    CapabilityMissing,
    ConfigurationError,
    Conflict,
    InvalidKey,
    InvalidQuery,
    OutcomeUnknown,
    UnsupportedValue,
)
from ambidex.stores.record_writes import port_arguments, record_names

__all__ = ["Entry", "Outbox", "Shared", "Target", "Unit"]

_log = logging.getLogger("ambidex")

_ROW, _LEASE, _ASIDE, _MARK, _REPLAY = "ob::r:", "ob::l:", "ob::x:", "ob::m:", "ob::replay"
_LEASE_MS = 10_000
_APPLY_SECONDS = 8.0  # within the lease
_RECOVER_SECONDS = 2.0  # somebody waits for something else meanwhile
_RECOVER_EVERY, _RECOVER_SOON = 30.0, 5.0
_MARK_MS = 30 * 86_400_000
_SETTLED_MS = 600_000
_PAGE = 100
_ATTEMPTS = 20
_HOPELESS = (UnsupportedValue, InvalidKey, InvalidQuery, AlreadyExists)


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


class Unit:
    """What one transaction has left to be done elsewhere."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.ended = False


class Target(NamedTuple):
    """Where entries go."""

    leaf: Leaf
    capabilities: frozenset[Capability]
    name: str

    def once(self, port: str) -> OncePort | None:
        """Return what applies single entries once, where the backend has it for this port."""
        once: OncePort | None = getattr(self.leaf, "once", None)
        return once if once is not None and port in once.ports else None

    def is_transactional(self) -> bool:
        """Tell whether a mark can be stored in one transaction with the effect."""
        return {Capability.TRANSACTIONS, Capability.KV} <= self.capabilities


@dataclass
class Shared:
    """What the outboxes of both modes of one storage object share."""

    unit: ContextVar[Unit | None] = field(default_factory=lambda: ContextVar("ambidex_unit", default=None))
    due: float = 0.0
    """When, on the monotonic clock, somebody should look for rows that were left."""


class _Waiting(NamedTuple):
    """A row that has not been applied, as it was read."""

    name: str
    at: int
    entries: list[Entry]

    def touches(self) -> set[tuple[Any, ...]]:
        return {touched for entry in self.entries for touched in entry.touches()}


class Outbox:
    """See the module; one for each mode.

    Args:
        home: the leaf whose transactions carry the rows.
        capabilities: what its backend can do.
        target: gives the backend of a place, as it is without an outbox.
        runtime: the services of the mode.
        shared: the same for both modes.
    """

    def __init__(
        self,
        home: Leaf,
        capabilities: frozenset[Capability],
        target: Callable[[str], Target],
        runtime: Runtime,
        shared: Shared,
    ) -> None:
        self._home, self._capabilities, self._target = home, capabilities, target
        self._runtime, self.shared = runtime, shared

    # ---------------------------------------------------------------- units

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Run a transaction of the home leaf, then what it left for other backends; inside another, a savepoint."""
        outer = self.shared.unit.get()
        if outer is not None and not outer.ended:
            before = len(outer.entries)
            try:
                async with self._home.transaction():
                    yield
            except BaseException:
                del outer.entries[before:]
                raise
            return
        unit, row = Unit(), None
        token = self.shared.unit.set(unit)
        try:
            async with self._home.transaction():
                yield
                unit.ended = True
                row = await self._write(unit) if unit.entries else None
        finally:
            unit.ended = True
            self.shared.unit.reset(token)
        if row is not None:
            await self._after(row)

    def check(self, place: str, port: str) -> None:
        """Refuse to defer what could not be kept here, or could not be applied exactly once there.

        Raises:
            CapabilityMissing: one of the backends cannot; the message names it and the remedy.
        """
        target = self._target(place)
        if Capability.KV not in self._capabilities:
            raise CapabilityMissing(
                f"the backend of transactions has no key-value to keep a write to {target.name!r} in until the commit; "
                "write there before or after the transaction"
            )
        if target.once(port) is None and not target.is_transactional():
            raise CapabilityMissing(
                f"the backend {target.name!r} cannot apply a write of {port} exactly once after a commit elsewhere; "
                "write there before or after the transaction"
            )

    async def _write(self, unit: Unit) -> _Waiting:
        """Put the row into the transaction, with a lease that says who is going to apply it."""
        row = _Waiting(uuid7().hex, time.time_ns() // 1_000_000, unit.entries)
        stored = encode({"at": row.at, "entries": [list(entry) for entry in row.entries]})
        await self._home.kv.put(_ROW + row.name, stored, None, When.ALWAYS)
        await self._home.kv.put(_LEASE + row.name, 1, _LEASE_MS, When.ALWAYS)
        return row

    async def _after(self, row: _Waiting) -> None:
        """Apply the row of a unit that was committed; it is committed whatever happens here."""
        try:
            with deadline(_APPLY_SECONDS):
                older, whole = await self._older(row)
                if not whole:  # many wait already: this one queues up
                    await self._home.kv.delete_many([_LEASE + row.name])
                    self._look_within(_RECOVER_SOON)
                    await self.recover(force=False)
                    return
                for waiting in (*older, row):
                    await self._apply(waiting)
        except AmbidexError as error:
            _log.warning("a unit was committed; what it left for other backends waits until they take it: %s", error)
            self._look_within(_RECOVER_SOON)
            await self._release(row.name)
        else:
            if self.is_due():
                await self.recover_if_due()

    async def _release(self, name: str) -> None:
        try:
            with deadline(_RECOVER_SECONDS):
                await self._home.kv.delete_many([_LEASE + name])
        except AmbidexError:
            pass  # it ends by itself

    async def _older(self, row: _Waiting) -> tuple[list[_Waiting], bool]:
        """Return the older rows that must be applied before this one, in order; false where that would be too many."""
        keys, after = await self._home.kv.scan(_ROW, None, _PAGE)
        names = [key for key in sorted(keys) if key < _ROW + row.name]
        if not names:
            return [], True
        if after is not None and len(names) == len(keys):
            return [], False
        touched, found = row.touches(), list[_Waiting]()
        for waiting in reversed(await self._read(names)):
            mine = waiting.touches()
            if mine & touched:
                touched |= mine
                found.append(waiting)
        return found[::-1], True

    async def _read(self, keys: Sequence[str]) -> list[_Waiting]:
        stored = await self._home.kv.get_many(keys) if keys else []
        return [_parse(key, body) for key, body in zip(keys, stored, strict=True) if body is not None]

    # ---------------------------------------------------------------- what was left

    def is_due(self) -> bool:
        """Tell whether it is time to look for rows that were left."""
        return time.monotonic() >= self.shared.due

    def _look_within(self, seconds: float) -> None:
        self.shared.due = min(self.shared.due, time.monotonic() + seconds)

    async def recover_if_due(self) -> None:
        """Apply what was left, unless somebody has looked lately; a failure is only logged."""
        if not self.is_due() or Capability.KV not in self._capabilities:
            return
        self.shared.due = time.monotonic() + _RECOVER_EVERY
        try:
            with deadline(_RECOVER_SECONDS):
                await self.recover(force=False)
        except AmbidexError as error:
            _log.warning("what units left for other backends could not be looked for: %s", error)
            self._look_within(_RECOVER_SOON)

    async def recover(self, force: bool) -> int:
        """Apply the rows that were left, in order; return how many were.

        Args:
            force: do not leave out those that another process is working on.
        """
        if not force and not await self._home.kv.put(_REPLAY, 1, _LEASE_MS, When.ABSENT):
            self._look_within(_RECOVER_SOON)
            return 0
        try:
            return await self._replay(force)
        finally:
            if not force:
                await self._home.kv.delete_many([_REPLAY])

    async def _replay(self, force: bool) -> int:
        done, after = 0, None
        failed, blocked = set[str](), set[tuple[Any, ...]]()
        while True:
            keys, after = await self._home.kv.scan(_ROW, after, _PAGE)
            rows = await self._read(sorted(keys))
            leases = await self._home.kv.get_many([_LEASE + row.name for row in rows]) if rows else []
            for row, lease in zip(rows, leases, strict=True):
                places, touched = {entry.place for entry in row.entries}, row.touches()
                if (lease is not None and not force) or places & failed or touched & blocked:
                    blocked |= touched
                    self._look_within(_RECOVER_SOON)
                    continue
                try:
                    done += int(await self._apply(row))
                except AmbidexError as error:
                    _log.warning("what a unit left for other backends waits on: %s", error)
                    if not isinstance(error, ConfigurationError):  # one table that does not fit, not the target
                        failed |= places
                    blocked |= touched
                    self._look_within(_RECOVER_SOON)
                if not force:
                    await self._home.kv.touch(_REPLAY, _LEASE_MS)
            if after is None:
                return done

    # ---------------------------------------------------------------- applying

    async def _apply(self, row: _Waiting) -> bool:
        """Apply what was not applied of a row and delete it; False where its entries can never be applied."""
        groups = [
            (place, [(f"{row.name}:{at}", _aged(entry, row.at)) for at, entry in group])
            for place, group in itertools.groupby(enumerate(row.entries), key=lambda one: one[1].place)
        ]
        hopeless = False
        for place, named in groups:
            target = self._target(place)
            try:
                await self._apply_group(target, named)
            except _HOPELESS as error:
                hopeless = True
                _log.error(
                    "%s refuses what the unit %s left for it; that was set aside: %s", target.name, row.name, error
                )
        kv = self._home.kv
        if hopeless:
            await kv.put(_ASIDE + row.name, _stored(row), None, When.ALWAYS)
        await kv.delete_many([_ROW + row.name, _LEASE + row.name])
        for place, named in groups:
            await self._settle(self._target(place), named)
        return not hopeless

    async def _apply_group(self, target: Target, named: list[tuple[str, Entry]]) -> None:
        once = target.once(named[0][1].port)
        if once is not None:
            for name, entry in named:
                await self._insist(functools.partial(once.apply, name, *_once_call(entry)))
            return
        mark = _MARK + named[0][0]

        async def together() -> None:
            async with target.leaf.transaction():
                if await target.leaf.kv.put(mark, 1, _MARK_MS, When.ABSENT):
                    for _, entry in named:
                        await _call(target.leaf, entry)

        await self._insist(together)

    async def _insist(self, call: Callable[[], Any]) -> None:
        """Call again while others win a race or the reply is lost: the mark makes that harmless."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await call()
            except (Conflict, Busy):
                if attempt == _ATTEMPTS:
                    raise
            except OutcomeUnknown:
                if attempt > 1:
                    raise
            else:
                return
            await self._runtime.sleep(random.uniform(0, min(0.1, 0.001 * 2**attempt)))  # noqa: S311  # jitter

    async def _settle(self, target: Target, named: list[tuple[str, Entry]]) -> None:
        """Let marks end soon that nobody will ask for, save one who began before and is late."""
        try:
            once = target.once(named[0][1].port)
            if once is None:
                await target.leaf.kv.touch(_MARK + named[0][0], _SETTLED_MS)
                return
            for name, entry in named:
                await once.settle(name, *_once_call(entry))
        except AmbidexError:
            pass  # they end by themselves after a month


def _parse(key: str, stored: Stored) -> _Waiting:
    body = decode(stored)
    return _Waiting(key[len(_ROW) :], body["at"], [Entry(*entry) for entry in body["entries"]])


def _stored(row: _Waiting) -> Stored:
    return encode({"at": row.at, "entries": [list(entry) for entry in row.entries]})


def _aged(entry: Entry, at: int) -> Entry:
    """Return an entry whose time to live counts from the commit, not from now."""
    ttl = entry.args[-1]
    if entry.method not in ("put", "put_many", "append") or ttl is None:
        return entry
    return entry._replace(args=[*entry.args[:-1], max(1, ttl - max(0, time.time_ns() // 1_000_000 - at))])


def _once_call(entry: Entry) -> tuple[str, str, list[Any]]:
    """Return what :class:`OncePort` takes beside the name."""
    return entry.port, entry.method, entry.port_args() if entry.port == "records" else entry.args


async def _call(leaf: Leaf, entry: Entry) -> None:
    """Run an entry on a leaf."""
    await getattr(getattr(leaf, entry.port), entry.method)(*entry.port_args())
