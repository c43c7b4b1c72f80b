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
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ambidex.core.clock import millis
from ambidex.core.ids import uuid7
from ambidex.core.ports import Capability, Leaf, OncePort, When
from ambidex.core.runtime import Runtime, deadline
from ambidex.errors import (
    AlreadyExists,
    AmbidexError,
    Busy,
    CapabilityMissing,
    ConfigurationError,
    Conflict,
    Corrupted,
    InvalidKey,
    InvalidQuery,
    NotFound,
    OutcomeUnknown,
    UnsupportedValue,
)
from ambidex.stores.outbox_rows import Entry, Numbered, Row, parse

__all__ = ["Outbox", "Shared", "Target", "Unit"]

_log = logging.getLogger("ambidex")

_ROW, _LEASE, _ASIDE, _MARK, _REPLAY = "ob::r:", "ob::l:", "ob::x:", "ob::m:", "ob::replay"
_LEASE_MS = 10_000
_APPLY_SECONDS = 8.0  # within the lease
_RECOVER_SECONDS = 2.0  # somebody waits for something else meanwhile
_RECOVER_EVERY, _RECOVER_SOON = 30.0, 5.0
_MARK_MS = 30 * 86_400_000
_SETTLED_MS = 600_000
_FRESH_SECONDS, _READ_AGAIN_SECONDS = 300.0, 60.0  # well before marks of a row that somebody else has applied are gone
_PAGE = 100
_ATTEMPTS = 20
_HOPELESS = (UnsupportedValue, InvalidKey, InvalidQuery, AlreadyExists, Corrupted)


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
    paused: float = 0.0
    """Until when, after a target has failed, units do not work off a long queue."""


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
        except BaseException:
            if row is not None:  # it may have been committed all the same
                self._look_within(_RECOVER_SOON)
            raise
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

    async def _write(self, unit: Unit) -> Row:
        """Put the row into the transaction, with a lease that says who is going to apply it."""
        row = Row(uuid7().hex, millis(), list(enumerate(unit.entries)), time.monotonic())
        await self._home.kv.put(_ROW + row.name, row.stored(), None, When.ALWAYS)
        await self._home.kv.put(_LEASE + row.name, 1, _LEASE_MS, When.ALWAYS)
        return row

    async def _after(self, row: Row) -> None:
        """Apply the row of a unit that was committed; it is committed whatever happens here."""
        try:
            with deadline(_APPLY_SECONDS):
                older, whole = await self._older(row)
                if not whole:  # many wait already: this one queues up
                    await self._home.kv.delete_many([_LEASE + row.name])
                    self._look_within(_RECOVER_SOON)
                    if time.monotonic() >= self.shared.paused:
                        await self.recover(force=False)
                    return
                for waiting in (*older, row):
                    await self._apply(waiting)
        except Exception as error:  # also what a backend of somebody else's lets escape
            _log.warning("a unit was committed; what it left for other backends waits until they take it: %s", error)
            self._look_within(_RECOVER_SOON)
            await self._release(row.name)
        except BaseException:  # nobody waits for it any more
            self._look_within(_RECOVER_SOON)
            raise
        else:
            if self.is_due():
                await self.recover_if_due()

    async def _release(self, name: str) -> None:
        try:
            with deadline(_RECOVER_SECONDS):
                await self._home.kv.delete_many([_LEASE + name])
        except AmbidexError:
            pass  # it ends by itself

    async def _older(self, row: Row) -> tuple[list[Row], bool]:
        """Return the older rows that must be applied before this one, in order; false where that would be too many."""
        keys, after = await self._home.kv.scan(_ROW, None, _PAGE)
        names = [key for key in sorted(keys) if key < _ROW + row.name]
        if not names:
            return [], True
        if after is not None and len(names) == len(keys):
            return [], False
        touched, found = row.touches(), list[Row]()
        for waiting in reversed(await self._read(names)):
            mine = waiting.touches()
            if mine & touched:
                touched |= mine
                found.append(waiting)
        return found[::-1], True

    async def _read(self, keys: Sequence[str]) -> list[Row]:
        """Return the rows that exist; one that nobody here can read is set aside, or it would hold up all others."""
        stored = await self._home.kv.get_many(keys) if keys else []
        rows: list[Row] = []
        for key, body in zip(keys, stored, strict=True):
            if body is None:
                continue
            name = key[len(_ROW) :]
            try:
                rows.append(parse(name, body))
            except Corrupted as error:
                _log.error("%s; it was set aside", error)
                await self._home.kv.put(_ASIDE + name, body, None, When.ALWAYS)
                await self._home.kv.delete_many([key, _LEASE + name])
        return rows

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
        except Exception as error:  # the caller wants something else
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
                places, touched = {entry.place for _, entry in row.entries}, row.touches()
                if (lease is not None and not force) or places & failed or touched & blocked:
                    blocked |= touched
                    self._look_within(_RECOVER_SOON)
                    continue
                try:
                    done += int(await self._apply_if_there(row))
                except AmbidexError as error:
                    _log.warning("what a unit left for other backends waits on: %s", error)
                    if not isinstance(error, ConfigurationError | CapabilityMissing):  # the target, not one table
                        failed |= places
                        self.shared.paused = time.monotonic() + _RECOVER_SOON
                    blocked |= touched
                    self._look_within(_RECOVER_SOON)
                if not force:
                    await self._home.kv.touch(_REPLAY, _LEASE_MS)
            if after is None:
                return done

    async def _apply_if_there(self, row: Row) -> bool:
        """Apply a row of a page that may have been read long ago: somebody else may have done it meanwhile."""
        if time.monotonic() - row.read < _READ_AGAIN_SECONDS:
            return await self._apply(row)
        again = await self._read([_ROW + row.name])
        return bool(again) and await self._apply(again[0])

    # ---------------------------------------------------------------- applying

    async def _apply(self, row: Row) -> bool:
        """Apply what was not applied of a row and delete it; False where its entries can never be applied."""
        rest, error = await self._deliver(row)
        kv = self._home.kv
        if error is not None:
            await kv.put(_ASIDE + row.name, row.set_aside(rest, error), None, When.ALWAYS)
        await kv.delete_many([_ROW + row.name, _LEASE + row.name])
        await self._settle(row, rest)
        return error is None

    async def _deliver(self, row: Row) -> tuple[list[Numbered], AmbidexError | None]:
        """Make a row's entries; return those that were refused for good, with those behind them, and why."""
        refused: list[Numbered] = []
        why: AmbidexError | None = None
        with deadline(row.read + _FRESH_SECONDS - time.monotonic()):
            for place, group in row.groups():
                target = self._target(place)
                rest, error = await self._apply_group(target, row, group)
                if error is not None:
                    refused += rest
                    why = why or error
                    _log.error(
                        "%s refuses what the unit %s left for it; that was set aside: %s", target.name, row.name, error
                    )
        return refused, why

    async def _apply_group(
        self, target: Target, row: Row, group: list[Numbered]
    ) -> tuple[list[Numbered], AmbidexError | None]:
        """Make consecutive entries; return what is left from the first one that is refused for good, and why."""
        once = target.once(group[0][1].port)
        if once is None:
            steps = [functools.partial(self._together, target.leaf, row.mark(group[0][0]), group)]
        else:
            steps = [functools.partial(once.apply, row.mark(number), *one.once_call()) for number, one in group]
        for at, step in enumerate(steps):
            try:
                await self._insist(step)
            except _HOPELESS as error:
                return group[at:], error
        return [], None

    async def _together(self, leaf: Leaf, mark: str, group: list[Numbered]) -> None:
        """Make entries in one transaction with a mark, unless it is there."""
        async with leaf.transaction():
            if await leaf.kv.put(_MARK + mark, 1, _MARK_MS, When.ABSENT):
                for _, entry in group:
                    await _call(leaf, entry)

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

    async def _settle(self, row: Row, rest: Sequence[Numbered]) -> None:
        """Let marks end soon that nobody will ask for, save one who began before and is late."""
        refused = {number for number, _ in rest}
        try:
            for place, group in row.groups():
                target, applied = self._target(place), [one for one in group if one[0] not in refused]
                once = target.once(group[0][1].port)
                if once is None and applied:
                    await target.leaf.kv.touch(_MARK + row.mark(group[0][0]), _SETTLED_MS)
                elif once is not None:
                    for number, entry in applied:
                        await once.settle(row.mark(number), *entry.once_call())
        except AmbidexError:
            pass  # they end by themselves after a month

    # ---------------------------------------------------------------- what cannot be applied

    async def left(self, aside: bool, limit: int) -> list[tuple[str, Row | Corrupted]]:
        """Return up to ``limit`` rows that wait, or that were set aside, by name; for one that is unreadable, why.

        Args:
            aside: which of the two.
            limit: how many.
        """
        prefix, keys, after = _ASIDE if aside else _ROW, list[str](), None
        while len(keys) < limit:
            page, after = await self._home.kv.scan(prefix, after, min(_PAGE, limit - len(keys)))
            keys += page
            if after is None:
                break
        stored = await self._home.kv.get_many(keys) if keys else []
        found: list[tuple[str, Row | Corrupted]] = []
        for key, body in zip(keys, stored, strict=True):
            if body is not None:
                name = key[len(prefix) :]
                try:
                    found.append((name, parse(name, body)))
                except Corrupted as error:
                    found.append((name, error))
        return sorted(found, key=lambda one: one[0])

    async def retry(self, name: str) -> None:
        """Make what was set aside of a unit, behind older units that touch the same.

        Raises:
            NotFound: nothing of this name was set aside.
            Busy: too many wait before it.
        """
        kv = self._home.kv
        stored = await kv.get(_ASIDE + name)
        if stored is None:
            raise NotFound(f"nothing of a unit {name!r:.60} was set aside; outbox.failed() lists what was")
        row = parse(name, stored)
        older, whole = await self._older(row)
        if not whole:
            raise Busy(f"more than {_PAGE} units wait before {name}; call recover() first", retry_after=_RECOVER_SOON)
        for waiting in older:
            await self._apply(waiting)
        rest, error = await self._deliver(row)
        if error is not None:
            await kv.put(_ASIDE + name, row.set_aside(rest, error), None, When.ALWAYS)
        else:
            await kv.delete_many([_ASIDE + name])
        await self._settle(row, rest)
        if error is not None:
            raise error

    async def discard(self, name: str) -> bool:
        """Forget a row, whether it was set aside or waits; False where there is none."""
        if not await self._home.kv.delete_many([_ASIDE + name, _ROW + name]):
            return False
        await self._home.kv.delete_many([_LEASE + name])
        return True


async def _call(leaf: Leaf, entry: Entry) -> None:
    """Run an entry on a leaf."""
    await getattr(getattr(leaf, entry.port), entry.method)(*entry.port_args())
