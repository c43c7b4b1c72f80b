"""Records on Redis; both leaves make one over their client.

A space's records are one hash, each of its indexes a sorted set (:mod:`ambidex.backends.redis.encoding` says of what),
all in one slot, so in a Cluster a tenant's records of one kind live on one node. A write reads what it replaces, and
one script then writes records and indexes, all or none, if nobody has changed these records meanwhile; else it begins
anew. The invariant: records and indexes change in one script, so whoever walks an index sees records that belong there.

A query that takes more than one walk (``_BATCH`` records) sees what is written between them, as any that reads in
pages; a record that is not written meanwhile is found exactly once. ``update_where`` and ``delete_where`` change in one
step what they found; records that begin to meet the conditions while it is found stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from ambidex.backends.redis.client import Client
from ambidex.backends.redis.encoding import Range, integer_in
from ambidex.backends.redis.layout import Known, Layout, merged
from ambidex.backends.redis.plans import Plan, describe, plans
from ambidex.backends.redis.record_scripts import (
    APPLIED,
    APPLY,
    APPLY_ONCE,
    CHANGED,
    COUNT,
    DEFINE,
    INSERT,
    NUMBERS,
    OTHER_LAYOUT,
    STATE,
    TAKEN,
    WALK,
)
from ambidex.backends.redis.wire import Word, pack
from ambidex.core.ports import Order, RecordQuery, Row, Space
from ambidex.core.query import Condition, matches, none_first
from ambidex.core.runtime import current_deadline, remaining
from ambidex.core.spec import RecordSpec
from ambidex.errors import AlreadyExists, ConfigurationError, Conflict, InvalidQuery, VersionConflict

__all__ = ["RedisRecords"]

_BATCH: Final = 500
_MOST: Final = 100_000
"""Records that one call sorts, or changes in one step: a script holds up everybody else."""
_PART: Final = 500
_SPACES: Final = 10_000


class _OtherLayout(Exception):  # never leaves this module
    """The stored layout is not the one that this call was made for."""


class RedisRecords:
    """Implements :class:`ambidex.core.ports.RecordsPort`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.target.prefix
        self._layouts: dict[tuple[int, str], Layout] = {}
        self._name: str | None = None

    def once(self, name: str) -> RedisRecords:
        """Return the same records, whose next write (no insertion) does nothing if one of this name was made."""
        other = copy.copy(self)
        other._name = name
        return other

    def mark_of(self, space: Space, name: str) -> str:
        """Return the key that says that the write of this name was made."""
        return f"{Layout.base_of(space, self._prefix)}op:{name}"

    # ------------------------------------------------------------ reading

    async def get(self, space: Space, ids: Sequence[Any]) -> list[Row | None]:
        layout = await self._layout(space)
        found = await self._known(layout, ids)
        return [None if known is None else known.row for known in found]

    async def find(self, space: Space, query: RecordQuery) -> list[Row]:
        return [known.row for known in await self._find(space, query)]

    async def count(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        query = RecordQuery(where, scan=scan)
        while True:
            layout = await self._layout(space)
            try:
                plan = await self._choose(layout, query)
                if plan.rest:
                    return sum([len(part) async for part in self._walk(layout, plan, query)])
                return (await self._counts(layout, [plan]))[0]
            except _OtherLayout:
                self._forget(space)

    async def explain(self, space: Space, query: RecordQuery) -> str:
        query = _normal(space.spec, query)
        while True:
            layout = await self._layout(space)
            try:
                return describe(layout, query, await self._choose(layout, query))
            except _OtherLayout:
                self._forget(space)

    # ------------------------------------------------------------ writing

    async def numbers(self, space: Space, count: int) -> Sequence[int]:
        layout, gap = await self._layout(space), 0
        while True:
            keys = [layout.keys[0], layout.key_of(layout.indexes[space.spec.id])]
            outcome, *reply = await self._client.script(NUMBERS, keys, (layout.digest, count + gap))
            if outcome == OTHER_LAYOUT:
                layout = await self._anew(space)
                continue
            end, greatest = int(reply[0]), integer_in(reply[1]) if reply[1] else 0
            space.spec.check_room(max(end - count, greatest), count)
            if end - count >= greatest:
                return range(end - count + 1, end + 1)
            gap = max(0, greatest - end)

    async def insert(self, space: Space, rows: Sequence[Row]) -> None:
        _bounded(space.spec, rows)
        layout = await self._layout(space)
        while rows:
            parts = [layout.adding(rows[start : start + _PART]) for start in range(0, len(rows), _PART)]
            outcome, *at = await self._client.script(INSERT, layout.keys, (layout.digest, layout.unique, *parts))
            if outcome == APPLIED:
                return
            if outcome != OTHER_LAYOUT:
                name = layout.spec.id if outcome == CHANGED else layout.named(at[1]).name
                raise _exists(layout.spec, name, rows[at[0]])
            layout = await self._anew(space)

    async def upsert(self, space: Space, rows: Sequence[Row]) -> list[Row]:
        spec, until = space.spec, current_deadline(self._client.timeout)
        _bounded(spec, rows)
        layout = await self._layout(space)
        while True:
            ids = [row[spec.id] for row in rows]
            current = dict(zip(ids, await self._known(layout, ids), strict=True))
            changes: list[tuple[Known | None, Known | None]] = []
            for row in rows:
                old, new = current[row[spec.id]], dict(row)
                if old is not None:
                    spec.carry_over(old.row, new)
                current[row[spec.id]] = made = layout.made(new, old)
                changes.append((old, made))
            outcome, _ = await self._apply(layout, changes)
            if outcome == APPLIED:
                return [made.row for _old, made in changes if made is not None]
            layout = await self._again(space, layout, outcome, until)

    async def update(
        self, space: Space, id_: Any, changes: Row, version: int | None, where: Sequence[Condition] = ()
    ) -> Row | None:
        spec, until = space.spec, current_deadline(self._client.timeout)
        layout = await self._layout(space)
        while True:
            (old,) = await self._known(layout, [id_])
            if old is None or not matches(where, old.row):
                outcome, _ = await self._apply(layout, [])
                if outcome == APPLIED:
                    return None
                layout = await self._again(space, layout, outcome, until)
                continue
            if spec.version is not None and version is not None and spec.version_of(old.row) != version:
                have = spec.version_of(old.row)
                raise VersionConflict(f"{spec.name} {id_!r} has version {have}, not {version}; read it again")
            new = layout.made(spec.changed(old.row, changes), old)
            outcome, _ = await self._apply(layout, [(old, new)])
            if outcome == APPLIED:
                return new.row
            layout = await self._again(space, layout, outcome, until)

    async def update_where(self, space: Space, where: Sequence[Condition], changes: Row, scan: bool) -> int:
        return await self._change_where(space, where, changes, scan)

    async def delete_where(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        return await self._change_where(space, where, None, scan)

    async def delete(self, space: Space, ids: Sequence[Any]) -> int:
        until = current_deadline(self._client.timeout)
        layout = await self._layout(space)
        while True:
            found = await self._known(layout, list(dict.fromkeys(ids)))
            outcome, _ = await self._apply(layout, [(known, None) for known in found if known is not None])
            if outcome == APPLIED:
                return sum(known is not None for known in found)
            layout = await self._again(space, layout, outcome, until)

    async def _change_where(self, space: Space, where: Sequence[Condition], changes: Row | None, scan: bool) -> int:
        spec, until = space.spec, current_deadline(self._client.timeout)
        while True:
            found = await self._find(space, RecordQuery(where, limit=_MOST + 1, scan=scan))
            if len(found) > _MOST:
                raise InvalidQuery(
                    f"more than {_MOST:,} records of {spec.name} meet the conditions, and Redis changes up to that "
                    "many in one step; narrow them and repeat"
                )
            layout = await self._layout(space)
            steps: list[tuple[Known | None, Known | None]] = [
                (old, None if changes is None else layout.made(spec.changed(old.row, changes), old)) for old in found
            ]
            outcome, _ = await self._apply(layout, steps, together=True)
            if outcome == APPLIED:
                return len(found)
            await self._again(space, layout, outcome, until)

    async def _apply(
        self, layout: Layout, changes: Sequence[tuple[Known | None, Known | None]], *, together: bool = False
    ) -> tuple[int, int]:
        """Replace records, all or none; return what the script answers and the place of the change that it refused.

        Raises:
            AlreadyExists: a unique value is taken.
        """
        if not changes and self._name is None:
            return APPLIED, 0
        steps = [layout.step(old, new) for old, new in changes]
        parts = [b"".join(steps[start : start + _PART]) for start in range(0, len(steps), _PART)]
        args: list[Word] = [layout.digest, layout.unique, int(together), *parts]
        if self._name is None:
            outcome, *details = await self._client.script(APPLY, layout.keys, args)
        else:
            keys = [*layout.keys, self.mark_of(layout.space, self._name)]
            outcome, *details = await self._client.script(APPLY_ONCE, keys, args)
        if outcome == TAKEN:
            known = changes[details[0]][1]
            assert known is not None  # noqa: S101  # a removed record takes no value
            raise _exists(layout.spec, layout.named(details[1]).name, known.plain)
        return outcome, details[0] if details else 0

    async def _again(self, space: Space, layout: Layout, outcome: int, until: float) -> Layout:
        """Return the layout for another attempt.

        Raises:
            Conflict: there is no time for one.
        """
        if remaining(until) <= 0:
            raise Conflict(f"records of {space.spec.name} were changed by others during every attempt; repeat later")
        return await self._anew(space) if outcome == OTHER_LAYOUT else layout

    # ------------------------------------------------------------ walking

    async def _known(self, layout: Layout, ids: Sequence[Any]) -> list[Known | None]:
        if not ids:
            return []
        names, rows = [layout.id(id_) for id_ in ids], layout.keys[1]
        if len(names) == 1:
            found = [await self._client.one(pack("HGET", rows, names[0]), rows)]
        else:
            found = []
            for start in range(0, len(names), _BATCH):
                found += await self._client.one(pack("HMGET", rows, *names[start : start + _BATCH]), rows)
        return [None if data is None else layout.read(data) for data in found]

    async def _find(self, space: Space, query: RecordQuery) -> list[Known]:
        query = _normal(space.spec, query)
        while True:
            layout = await self._layout(space)
            try:
                plan = await self._choose(layout, query)
                return await self._collect(layout, plan, query)
            except _OtherLayout:
                self._forget(space)

    async def _collect(self, layout: Layout, plan: Plan, query: RecordQuery) -> list[Known]:
        spec, limit = layout.spec, query.limit
        found: dict[Any, Known] = {}
        async with aclosing(self._walk(layout, plan, query)) as parts:
            async for part in parts:
                found.update((known.row[spec.id], known) for known in part)
                if plan.ordered:
                    if limit is not None and len(found) >= limit:
                        break
                elif limit is not None:
                    found = {known.row[spec.id]: known for known in _sorted(found.values(), query.order)[:limit]}
                elif len(found) > _MOST:
                    raise InvalidQuery(
                        f"more than {_MOST:,} records of {spec.name} would be sorted; give a limit, or order by an "
                        "indexed field alone"
                    )
        return (list(found.values()) if plan.ordered else _sorted(found.values(), query.order))[:limit]

    async def _walk(self, layout: Layout, plan: Plan, query: RecordQuery) -> AsyncGenerator[list[Known], None]:
        """Iterate the records that meet a query, a list a round trip, in its order where the plan has it."""
        ranges, descending, behind = plan.ranges, False, query.after
        if plan.ordered and query.order:
            descending = query.order[0].descending
            if query.after is not None:
                ranges = _behind(ranges, _edge(layout, plan, query.order, query.after), descending)
                behind = None
        wanted = _BATCH
        if plan.ordered and query.limit is not None:
            wanted = min(_BATCH, query.limit if not plan.rest else 2 * query.limit + 20)
        while ranges:
            flat = [bound for first_and_end in (ranges[::-1] if descending else ranges) for bound in first_and_end]
            args: list[Word] = [layout.digest, int(descending), wanted, *flat]
            keys = [*layout.keys[:2], layout.key_of(plan.on)]
            outcome, *reply = await self._client.script(WALK, keys, args, write=False)
            if outcome == OTHER_LAYOUT:
                raise _OtherLayout
            last, *records = reply
            yield [
                known
                for known in map(layout.read, records)
                if matches(plan.rest, known.row) and (behind is None or _is_behind(known.row, query.order, behind))
            ]
            if len(records) < wanted:
                return
            ranges, wanted = _behind(ranges, last, descending), min(_BATCH, 2 * wanted)

    async def _choose(self, layout: Layout, query: RecordQuery) -> Plan:
        """Return the plan that reads the fewest records, as far as the indexes' counts tell."""
        ways = plans(layout, query)
        if len(ways) == 1:
            return ways[0]
        counts = await self._counts(layout, ways)
        least = max(1, min(counts))

        def cost(plan: Plan, count: int) -> tuple[float, bool]:
            if plan.ordered and query.limit is not None:
                count = min(count, query.limit * max(1, count // least))
            return count, not plan.ordered

        return min(zip(ways, counts, strict=True), key=lambda pair: cost(*pair))[0]

    async def _counts(self, layout: Layout, ways: Sequence[Plan]) -> list[int]:
        keys, args = layout.keys[:2], list[Word]((layout.digest,))
        for plan in ways:
            keys.append(layout.key_of(plan.on))
            args += [len(plan.ranges), *(bound for first_and_end in plan.ranges for bound in first_and_end)]
        outcome, *counts = await self._client.script(COUNT, keys, args, write=False)
        if outcome == OTHER_LAYOUT:
            raise _OtherLayout
        return list(counts)

    # ------------------------------------------------------------ layouts

    async def _layout(self, space: Space) -> Layout:
        known = self._layouts.get((id(space.spec), space.tenant))
        return known if known is not None else await self._anew(space)

    def _forget(self, space: Space) -> None:
        self._layouts.pop((id(space.spec), space.tenant), None)

    async def _anew(self, space: Space) -> Layout:
        """Bring a space's stored layout up to the model, and return it; its indexes are complete."""
        until = current_deadline(self._client.timeout)
        bare = Layout(space, self._prefix, merged(space.spec, None, empty=True))
        while True:
            text, size = await self._client.script(STATE, bare.keys[:2], (), write=False)
            columns = merged(space.spec, text, empty=size == 0)
            layout = Layout(space, self._prefix, columns)
            if text != layout.text and not await self._define(layout, text, only_if_empty=size == 0):
                if remaining(until) <= 0:
                    raise Conflict(f"others change the layout of {space.spec.name} all the time; repeat later")
                continue
            if not layout.building:
                break
            await self._build(layout)
            await self._define(Layout(space, self._prefix, layout.complete()), layout.text, only_if_empty=False)
        if len(self._layouts) >= _SPACES:
            self._layouts.clear()
        self._layouts[id(space.spec), space.tenant] = layout  # the layout holds the spec, so its id stays taken
        return layout

    async def _define(self, layout: Layout, before: bytes | None, *, only_if_empty: bool) -> bool:
        old = b"" if before is None else Layout.digest_of(before)
        args = (old, layout.digest, layout.text, int(only_if_empty))
        return bool(await self._client.script(DEFINE, layout.keys[:2], args))

    async def _build(self, layout: Layout) -> None:
        """Enter older records into new indexes, some at a time; newer writes enter themselves.

        Raises:
            ConfigurationError: records have equal values in a field that is to be unique.
        """
        everything = Plan(layout.indexes[layout.spec.id], [(b"\x00", b"\x02")], [], ordered=True, points=False)
        keys: list[str] = [*layout.keys[:2], layout.key_of(everything.on)]
        ranges: list[Range] = everything.ranges
        while ranges:
            args: list[Word] = [layout.digest, 0, _BATCH, *(bound for pair in ranges for bound in pair)]
            outcome, *reply = await self._client.script(WALK, keys, args, write=False)
            if outcome == OTHER_LAYOUT:
                return
            last, *records = reply
            steps = [layout.entering(known) for known in map(layout.read, records)]
            while steps:
                outcome, *details = await self._client.script(
                    APPLY, layout.keys, (layout.digest, layout.unique, 0, b"".join(steps))
                )
                if outcome == TAKEN:
                    field = f"{layout.spec.name}.{layout.named(details[1]).name}"
                    raise ConfigurationError(
                        f"records hold equal values in {field}, which the model makes Unique(); remove them first, "
                        "through the model without it"
                    )
                if outcome == OTHER_LAYOUT:
                    return
                if outcome == APPLIED:
                    break
                del steps[details[0]]  # who has changed it meanwhile has entered it
            ranges = _behind(ranges, last, descending=False) if len(records) == _BATCH else []


def _bounded(spec: RecordSpec, rows: Sequence[Row]) -> None:
    """Refuse more records than one script may hold everybody else up for."""
    if len(rows) > _MOST:
        raise InvalidQuery(
            f"{len(rows):,} records of {spec.name} are to be stored, and Redis stores up to {_MOST:,} in one step; "
            "pass them in parts"
        )


def _normal(spec: RecordSpec, query: RecordQuery) -> RecordQuery:
    """Return a query whose order ends with the id, which decides."""
    order: list[Order] = []
    for step in query.order:
        order.append(step)
        if step.field == spec.id:
            break
    after = None if query.after is None else query.after[: len(order)]
    return query._replace(order=tuple(order), after=after)


def _edge(layout: Layout, plan: Plan, order: Sequence[Order], after: Sequence[Any]) -> bytes:
    """Return the member of the plan's index that stands for the values of ``after``."""
    if order[0].field == plan.on.name:
        return layout.member(plan.on, after[0], after[-1])
    (first, _), *_ = plan.ranges  # one value, ordered by id
    id_ = layout.id(after[0])
    return first + id_ + len(id_).to_bytes(4, "big")


def _behind(ranges: Sequence[Range], edge: bytes, descending: bool) -> list[Range]:
    """Return the parts of ranges that lie behind a member in the direction of a walk."""
    if descending:
        return [(first, min(end, edge)) for first, end in ranges if first < edge]
    start = edge + b"\x00"
    return [(max(first, start), end) for first, end in ranges if end > start]


def _exists(spec: RecordSpec, name: str, row: Row) -> AlreadyExists:
    return AlreadyExists(f"{spec.name} with {name} {row.get(name)!r} exists")


def _sorted(found: Any, order: Sequence[Order]) -> list[Known]:
    records = list(found)
    for field, descending in reversed(order):
        records.sort(key=lambda known, field=field: none_first(known.row[field]), reverse=descending)  # type: ignore[misc]
    return records


def _is_behind(row: Row, order: Sequence[Order], after: Sequence[Any]) -> bool:
    for (field, descending), edge in zip(order, after, strict=True):
        mine, other = none_first(row[field]), none_first(edge)
        if mine != other:
            return (mine < other) if descending else (mine > other)
    return False
