"""Writes of records as data: what a unit of work leaves for another backend's repositories, and what will come of it.

``stores.deferred`` makes entries of the outbox from these, ``stores.outbox`` reads them again. The invariant: what is
kept here is what no state of the other backend can refuse. What depends on an id, a version or a unique value that
others may take until the commit is refused while the caller can still be told.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ambidex.core.ports import RecordQuery, RecordsPort, Row, Space
from ambidex.core.query import Condition, matches
from ambidex.core.spec import Field, Kind, RecordSpec
from ambidex.errors import InvalidQuery
from ambidex.stores.undecided import undecided

__all__ = ["RecordWrites", "port_arguments", "record_names"]

_MOST = 10_000
_specs: dict[RecordSpec, RecordSpec] = {}
"""One object for equal specs: backends know a kind by its spec's identity."""


class _Written(Protocol):
    """An entry of the outbox, as far as it is read here."""

    @property
    def method(self) -> str: ...
    @property
    def args(self) -> list[Any]: ...


class RecordWrites:
    """The writes that can wait. Each returns its entry's arguments (None: nothing to do), and the port's result.

    Args:
        inner: the port of the other backend, which is only read.
        so_far: what the unit has left for it already, of records.
    """

    def __init__(self, inner: RecordsPort, so_far: Sequence[_Written]) -> None:
        self._inner, self._so_far = inner, so_far

    async def insert(self, _space: Space, _rows: Sequence[Row]) -> tuple[None, None]:
        """See :meth:`ambidex.core.ports.RecordsPort.insert`."""
        raise undecided("records", "create", "Use upsert, or leave the id to the storage, which makes a new one.")

    async def upsert(self, space: Space, rows: Sequence[Row]) -> tuple[list[Any] | None, list[Row]]:
        """See :meth:`ambidex.core.ports.RecordsPort.upsert`."""
        spec = space.spec
        for row in rows:
            self._check_unique(spec, row, "upsert")
        rows = copy.deepcopy(list(rows))
        ids = [row[spec.id] for row in rows]
        known = await self._current(space, ids)
        args = [_packed(space), rows]
        _replay("upsert", args, spec, known)
        return args, [copy.deepcopy(row) for row in map(known.get, ids) if row is not None]

    async def update(
        self,
        space: Space,
        id_: Any,
        changes: Row,
        version: int | None,
        where: Sequence[Condition] = (),
    ) -> tuple[list[Any] | None, Row | None]:
        """See :meth:`ambidex.core.ports.RecordsPort.update`."""
        spec = space.spec
        if version is not None and spec.version is not None:
            raise undecided("records", "update from a version", "Use patch or upsert, which ask for no version.")
        self._check_unique(spec, changes, "update")
        known = await self._current(space, [id_])
        old = known[id_]
        if old is None or not matches(where, old):
            return None, None
        args = [_packed(space), id_, [list(one) for one in where], copy.deepcopy(changes)]
        _replay("update", args, spec, known)
        return args, copy.deepcopy(known[id_])

    async def update_where(
        self, space: Space, where: Sequence[Condition], changes: Row, scan: bool
    ) -> tuple[list[Any] | None, int]:
        """See :meth:`ambidex.core.ports.RecordsPort.update_where`."""
        self._check_unique(space.spec, changes, "update")
        ids = await self._matching(space, where, scan)
        args = [_packed(space), ids, [list(one) for one in where], copy.deepcopy(changes)]
        return args if ids else None, len(ids)

    async def delete(self, space: Space, ids: Sequence[Any]) -> tuple[list[Any] | None, int]:
        """See :meth:`ambidex.core.ports.RecordsPort.delete`."""
        known = await self._current(space, ids)
        return [_packed(space), list(ids)], sum(row is not None for row in known.values())

    async def delete_where(self, space: Space, where: Sequence[Condition], scan: bool) -> tuple[list[Any] | None, int]:
        """See :meth:`ambidex.core.ports.RecordsPort.delete_where`."""
        ids = await self._matching(space, where, scan)
        return [_packed(space), ids, [list(one) for one in where]] if ids else None, len(ids)

    def _check_unique(self, spec: RecordSpec, row: Row, what: str) -> None:
        for field in spec.fields:
            if field.unique and row.get(field.name) is not None:
                raise undecided("records", f"{what} of the unique field {field.name}")

    async def _current(self, space: Space, ids: Iterable[Any]) -> dict[Any, Row | None]:
        """Return what the other backend holds of these records, and what the unit has made of it so far.

        It is asked even where the answer is not needed: it refuses what does not fit its table, here and now.
        """
        _specs.setdefault(space.spec, space.spec)
        wanted = list(dict.fromkeys(ids))
        known = dict(zip(wanted, await self._inner.get(space, wanted), strict=True))
        for entry in self._entries(space):
            _replay(entry.method, entry.args, space.spec, known)
        return known

    async def _matching(self, space: Space, where: Sequence[Condition], scan: bool) -> list[Any]:
        """Return the ids of the records that meet the conditions after what the unit has done so far."""
        found = await self._inner.find(space, RecordQuery(where, (), _MOST + 1, None, scan))
        ids = [row[space.spec.id] for row in found]
        ids += [id_ for entry in self._entries(space) for id_ in _ids(entry.method, entry.args)]
        known = await self._current(space, ids)
        ids = [id_ for id_, row in known.items() if row is not None and matches(where, row)]
        if len(ids) > _MOST:
            raise InvalidQuery(
                f"more than {_MOST:,} records of {space.spec.name} meet the conditions, and a transaction of another "
                "backend keeps up to that many; narrow them and repeat"
            )
        return ids

    def _entries(self, space: Space) -> list[_Written]:
        packed = _packed(space)
        return [entry for entry in self._so_far if entry.args[0] == packed]


def record_names(method: str, args: Sequence[Any]) -> list[tuple[str, str, Any]]:
    """Return what names the records that an entry writes: table, tenant and id of each."""
    table, tenant = args[0][0], args[0][1]
    return [(table, tenant, id_) for id_ in _ids(method, args)]


def port_arguments(method: str, args: Sequence[Any]) -> list[Any]:
    """Return the arguments of the port's method for an entry."""
    space = _space(args[0])
    if method == "update":
        _, id_, where, changes = args
        return [space, id_, changes, None, _conditions(where)]
    if method in ("upsert", "delete"):
        return [space, args[1]]
    where = [Condition(space.spec.id, "in", args[1]), *_conditions(args[2])]
    return [space, where, args[3], False] if method == "update_where" else [space, where, False]


def _ids(method: str, args: Sequence[Any]) -> list[Any]:
    if method == "upsert":
        key = args[0][3]
        return [row[key] for row in args[1]]
    return [args[1]] if method == "update" else list(args[1])


def _replay(method: str, args: Sequence[Any], spec: RecordSpec, known: dict[Any, Row | None]) -> None:
    """Do to known records what an entry will do."""
    if method == "upsert":
        for row in args[1]:
            id_ = row[spec.id]
            if id_ in known:
                new, old = dict(row), known[id_]
                if old is not None:
                    spec.carry_over(old, new)
                known[id_] = new
        return
    where = _conditions(args[2]) if len(args) > 2 else []
    for id_ in _ids(method, args):
        old = known.get(id_)
        if old is None or not matches(where, old):
            continue
        known[id_] = spec.changed(old, args[3]) if len(args) > 3 else None


def _conditions(where: Iterable[Sequence[Any]]) -> list[Condition]:
    return [Condition(*one) for one in where]


def _packed(space: Space) -> list[Any]:
    spec = space.spec
    fields = [[field.name, str(field.kind), *field[2:]] for field in spec.fields]
    return [spec.name, space.tenant, fields, *spec[2:]]


def _space(packed: Sequence[Any]) -> Space:
    name, tenant, fields, *rest = packed
    spec = RecordSpec(name, tuple(Field(one[0], Kind(one[1]), *one[2:]) for one in fields), *rest)
    return Space(_specs.setdefault(spec, spec), tenant)
