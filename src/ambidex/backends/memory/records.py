"""Records on dictionaries; the reference for every other ``RecordsPort``.

The invariant: rows are copied on the way in and out, so no caller holds a piece of the table.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from ambidex.backends.memory.data import Data, Tables
from ambidex.core.ports import Order, RecordQuery, Row, Space
from ambidex.core.query import Condition, matches, none_first
from ambidex.core.spec import RecordSpec
from ambidex.errors import AlreadyExists, VersionConflict

__all__ = ["MemoryRecords"]

_Table = dict[Any, Row]


class MemoryRecords:
    """Implements :class:`ambidex.core.ports.RecordsPort`."""

    def __init__(self, data: Data) -> None:
        self._data = data

    async def get(self, space: Space, ids: Sequence[Any]) -> list[Row | None]:
        with self._data.tables() as tables:
            table = self._table(tables, space)
            return [None if (row := table.get(id_)) is None else copy.deepcopy(self._own(space, row)) for id_ in ids]

    async def numbers(self, space: Space, count: int) -> Sequence[int]:
        spec = space.spec
        with self._data.tables(write=True) as tables:
            kind = (space.tenant, spec.name)
            last = tables.numbers.get(kind)
            if last is None:
                last = max(0, max(self._table(tables, space), default=0))
            spec.check_room(last, count)
            tables.numbers[kind] = last + count
            return range(last + 1, last + count + 1)

    async def insert(self, space: Space, rows: Sequence[Row]) -> None:
        with self._data.tables(write=True) as tables:
            table = self._table(tables, space)
            added: _Table = {}
            for row in rows:
                id_ = row[space.spec.id]
                if id_ in table or id_ in added:
                    raise AlreadyExists(f"{space.spec.name} with {space.spec.id} {id_!r} exists")
                _check_unique(space.spec, row, [*table.values(), *added.values()])
                added[id_] = copy.deepcopy(row)
            table.update(added)
            _note(tables, space, added)

    async def upsert(self, space: Space, rows: Sequence[Row]) -> list[Row]:
        spec = space.spec
        with self._data.tables(write=True) as tables:
            changed = dict(self._table(tables, space))
            stored: list[Row] = []
            for row in rows:
                new, old = copy.deepcopy(row), changed.get(row[spec.id])
                if old is not None:
                    spec.carry_over(old, new)
                    new = {**old, **new}  # what a wider model has written stays
                _check_unique(spec, new, (other for id_, other in changed.items() if id_ != new[spec.id]))
                changed[new[spec.id]] = new
                stored.append(copy.deepcopy(self._own(space, new)))
            self._table(tables, space).update(changed)
            _note(tables, space, [row[spec.id] for row in rows])
            return stored

    async def update(
        self, space: Space, id_: Any, changes: Row, version: int | None, where: Sequence[Condition] = ()
    ) -> Row | None:
        spec = space.spec
        with self._data.tables(write=True) as tables:
            table = self._table(tables, space)
            old = table.get(id_)
            if old is None or not matches(where, old):
                return None
            if spec.version is not None and version is not None and spec.version_of(old) != version:
                raise VersionConflict(
                    f"{spec.name} {id_!r} has version {spec.version_of(old)}, not {version}; read it again"
                )
            new = spec.changed(old, copy.deepcopy(changes))
            _check_unique(spec, new, (other for other_id, other in table.items() if other_id != id_))
            table[id_] = new
            return copy.deepcopy(self._own(space, new))

    async def update_where(self, space: Space, where: Sequence[Condition], changes: Row, scan: bool) -> int:
        spec = space.spec
        with self._data.tables(write=True) as tables:
            table = self._table(tables, space)
            changed = {
                id_: spec.changed(old, copy.deepcopy(changes)) for id_, old in table.items() if matches(where, old)
            }
            after = {**table, **changed}
            for id_, new in changed.items():
                _check_unique(spec, new, (other for other_id, other in after.items() if other_id != id_))
            table.update(changed)
            return len(changed)

    async def delete(self, space: Space, ids: Sequence[Any]) -> int:
        with self._data.tables(write=True) as tables:
            table = self._table(tables, space)
            return sum(table.pop(id_, None) is not None for id_ in ids)

    async def delete_where(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        with self._data.tables(write=True) as tables:
            table = self._table(tables, space)
            gone = [id_ for id_, row in table.items() if matches(where, row)]
            for id_ in gone:
                del table[id_]
            return len(gone)

    async def find(self, space: Space, query: RecordQuery) -> list[Row]:
        with self._data.tables() as tables:
            rows = [row for row in self._table(tables, space).values() if matches(query.where, row)]
            for field, descending in reversed(query.order):
                rows.sort(key=lambda row, field=field: none_first(row[field]), reverse=descending)  # type: ignore[misc]
            if query.after is not None:
                rows = [row for row in rows if _is_behind(row, query.order, query.after)]
            return copy.deepcopy([self._own(space, row) for row in rows[: query.limit]])

    async def count(self, space: Space, where: Sequence[Condition], scan: bool) -> int:
        with self._data.tables() as tables:
            return sum(matches(where, row) for row in self._table(tables, space).values())

    async def explain(self, space: Space, query: RecordQuery) -> str:
        return f"a look at every record of {space.spec.name} in memory"

    def _own(self, space: Space, row: Row) -> Row:
        """Return a row without what a wider model has written."""
        if not self._data.mixed or (space.tenant, space.spec.name) not in self._data.mixed:
            return row
        return {field.name: row[field.name] for field in space.spec.fields}

    def _table(self, tables: Tables, space: Space) -> _Table:
        """Return a kind's records, with None in the fields that some lack because an older model wrote them."""
        spec, kind = space.spec, (space.tenant, space.spec.name)
        table = tables.records.setdefault(kind, {})
        known = self._data.specs.setdefault(kind, {})
        if id(spec) not in known:
            known[id(spec)] = spec  # held here, so that its id stays taken
            if len({frozenset(field.name for field in one.fields) for one in known.values()}) > 1:
                self._data.mixed.add(kind)
        if kind in self._data.mixed:
            blank = dict.fromkeys(field.name for field in spec.fields)
            for row in table.values():
                if not row.keys() >= blank.keys():
                    row.update({**blank, **row})
        return table


def _note(tables: Tables, space: Space, ids: Iterable[Any]) -> None:
    """Keep the last number, where a kind has one, above the ids that are given to records."""
    kind = (space.tenant, space.spec.name)
    if kind in tables.numbers:
        tables.numbers[kind] = max([tables.numbers[kind], *ids])


def _check_unique(spec: RecordSpec, row: Row, others: Iterable[Row]) -> None:
    names = [field.name for field in spec.fields if field.unique and row[field.name] is not None]
    if not names:
        return
    for other in others:
        for name in names:
            if other[name] == row[name]:
                raise AlreadyExists(f"{spec.name} with {name} {row[name]!r} exists")


def _is_behind(row: Row, order: Sequence[Order], after: Sequence[Any]) -> bool:
    for (field, descending), edge in zip(order, after, strict=True):
        mine, other = none_first(row[field]), none_first(edge)
        if mine != other:
            return (mine < other) if descending else (mine > other)
    return False
