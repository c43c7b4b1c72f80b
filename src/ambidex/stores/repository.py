"""Typed repositories: objects of a model class kept as records, with filters, pages and optimistic locking.

On every backend.

``storage.repository(User)`` gives one; applications subclass ``Repository[User]`` to add methods of their own. The
invariant: every field, operator and order in a query is checked against the model before any I/O, and what a method
returns is a validated object of the model.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, get_args

from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.filters import bind, conditions_of, order_of
from ambidex.core.models import Model, model_of
from ambidex.core.ports import Capability, Order, RecordQuery, Row, Space
from ambidex.core.query import Condition
from ambidex.core.rows import Rows
from ambidex.core.runtime import one_deadline
from ambidex.errors import ConfigurationError, InvalidQuery, NotFound, UnsupportedValue
from ambidex.stores.cursors import read_cursor, write_cursor
from ambidex.stores.scope import Scope
from ambidex.stores.secrets import signing_key

__all__ = [
    "BlockingRepository",
    "DetectingRepository",
    "Page",
    "Repository",
    "ScopeSource",
]

T = TypeVar("T")

_MOST = 10_000
_BATCH = 500


class ScopeSource(Protocol):
    """What a repository can be made from: any face of a storage."""

    def scope(self, capability: Capability, *, blocking: bool) -> Scope:
        """Return the ports of a mode."""
        ...


class Page(NamedTuple, Generic[T]):
    """A part of a longer list."""

    items: builtins.list[T]
    next: str | None
    """The cursor of the page behind this one, or None at the end."""
    previous: str | None
    """The cursor of the page before this one, or None at the start."""


class Repository(Store, Generic[T]):
    """Objects of a model class, asynchronous.

    Args:
        storage: any face of a storage, or a scope.
        model: the class; a subclass of ``Repository[User]`` knows it already.

    Raises:
        ConfigurationError: the class is no model, has a field that cannot be kept, or has the name of another one,
            of other fields, that this storage keeps already.
    """

    _declared: type[Any] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Note the model that stands in ``Repository[User]``."""
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            origin = getattr(base, "__origin__", None)
            if isinstance(origin, type) and issubclass(origin, Repository):
                (argument,) = get_args(base)
                if not isinstance(argument, TypeVar) and argument is not Any:
                    cls._declared = argument

    def __init__(self, storage: ScopeSource | Scope, model: type[T] | None = None) -> None:
        cls: Any = model or self._declared
        if cls is None:
            raise ConfigurationError(f"{type(self).__name__} needs a model: subclass Repository[YourModel] or pass it")
        blocking = isinstance(self, Blocking)
        self._scope = storage if isinstance(storage, Scope) else _scope_of(storage, blocking)
        self._model: Model[T] = model_of(cls)
        self._model.claim(self._scope.kinds)
        self._spec = self._model.spec
        self._space = Space(self._spec, self._scope.tenant)
        self._port = self._scope.leaf.records
        self._timeout = self._scope.timeout
        self._hidden = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model.name})"

    # One object.

    @operation
    async def get(self, id: Any) -> T | None:  # noqa: A002  # the field's own name
        """Return the object with an id, or None."""
        (row,) = await self._port.get(self._space, [self._id(id)])
        return None if row is None or self._is_deleted(row) else self._model.from_row(row)

    @operation
    async def create(self, model: T) -> T:
        """Store a new object and return it as stored (with its id, version and times).

        Raises:
            AlreadyExists: its id or a unique value is taken.
        """
        row = self._new(model)
        stored = self._model.checked(row)
        if row[self._spec.id] is None:
            (row[self._spec.id],) = await self._port.numbers(self._space, 1)
            stored = self._model.checked(row)
        await self._add([model], [row])
        return stored

    @operation
    async def update(self, model: T) -> T:
        """Store an object that exists, all fields of it, and return it as stored.

        Raises:
            NotFound: there is none with its id.
            VersionConflict: the model has a version field, and another writer was faster.
            AlreadyExists: a unique value is taken.
        """
        spec, row = self._spec, self._row(model)
        if row[spec.id] is None:
            raise UnsupportedValue(f"{self._model.name}.{spec.id} is None, so it is not known which record to update")
        self._model.checked(self._filled(dict(row)))
        version = None if spec.version is None else row[spec.version] or 0
        return await self._change(row.pop(spec.id), row, version)

    @operation
    async def patch(self, id: Any, /, **changes: Any) -> T:  # noqa: A002  # the field's own name
        """Change some fields of an object, whatever the others are by now, and return it as stored.

        Raises:
            NotFound: there is none with this id.
            InvalidQuery: a field is unknown, or is one that the storage keeps (the id, the version, the times).
            UnsupportedValue: a value does not fit its field.
        """
        spec, row = self._spec, self._model.changes(changes, self._scope.json_serializer)
        for name in (spec.id, spec.version, spec.created_at, spec.updated_at):
            if name in row:
                raise InvalidQuery(f"patch cannot change {name!r}, which the storage keeps")
        return await self._change(self._id(id), row, None)

    @operation
    async def upsert(self, model: T) -> T:
        """Store an object, new or not, and return it as stored."""
        new = self._new(model)
        self._model.checked(new)
        if new[self._spec.id] is None:
            (new[self._spec.id],) = await self._port.numbers(self._space, 1)
        (row,) = await self._port.upsert(self._space, [new])
        return self._model.from_row(row)

    @operation
    async def delete(self, id: Any) -> bool:  # noqa: A002  # the field's own name
        """Delete an object (or mark it deleted, where the model has a DeletedAt field); True if it existed."""
        return await self._delete([self._id(id)]) > 0

    # Several.

    @operation
    async def get_many(self, ids: Iterable[Any]) -> dict[Any, T]:
        """Return those of the objects that exist, by id, in one round trip."""
        wanted = list(dict.fromkeys(map(self._id, _several(ids, "ids"))))
        rows = await self._port.get(self._space, wanted) if wanted else []
        return {
            id_: self._model.from_row(row)
            for id_, row in zip(wanted, rows, strict=True)
            if row is not None and not self._is_deleted(row)
        }

    @operation
    async def create_many(self, models: Iterable[T]) -> builtins.list[T]:
        """Store new objects, all or none, and return them as stored, in order."""
        models = _several(models, "objects")
        rows = self._all_new(models)
        stored = self._model.all_checked(rows)
        if await self._number(rows):
            stored = self._model.all_checked(rows)
        if rows:
            await self._add(models, rows)
        return stored

    @operation
    async def upsert_many(self, models: Iterable[T]) -> builtins.list[T]:
        """Store objects, new or not, all or none, and return them as stored, in order."""
        rows = self._all_new(_several(models, "objects"))
        self._model.all_checked(rows)
        await self._number(rows)
        stored = await self._port.upsert(self._space, list(rows)) if rows else []
        return [self._model.from_row(row) for row in stored]

    @operation
    async def delete_many(self, ids: Iterable[Any]) -> int:
        """Delete objects by id; return how many existed."""
        wanted = list(dict.fromkeys(map(self._id, _several(ids, "ids"))))
        if len(wanted) > _MOST:
            raise InvalidQuery(f"delete_many takes up to {_MOST:,} ids in one step, not {len(wanted):,}")
        return await self._delete(wanted) if wanted else 0

    @operation
    async def delete_where(self, /, *, scan: bool = False, **filters: Any) -> int:
        """Delete the objects that meet all filters; return how many did. See :meth:`list`.

        Raises:
            InvalidQuery: no filter is given (to delete everything, filter by ``<id>__is_null=False``).
        """
        if not filters:
            raise InvalidQuery(f"delete_where needs a filter; to delete everything say {self._spec.id}__is_null=False")
        where = self._where(filters)
        if self._spec.deleted_at is None or not self._hidden:
            return await self._port.delete_where(self._space, where, scan)
        return await self._port.update_where(self._space, where, self._deleting(), scan)

    # Asking.

    @operation
    async def list(
        self,
        /,
        *,
        order_by: str | Sequence[str] | None = (),
        limit: int | None = None,
        scan: bool = False,
        **filters: Any,
    ) -> builtins.list[T]:
        """Return the objects that meet all filters.

        Args:
            order_by: field names, descending with a minus sign: ``"-age"``. The id decides between equals.
            limit: at most so many.
            scan: allow a backend that answers from indexes (Redis) to look through every record.
            **filters: ``field=value`` or ``field__operator=value`` with the operators
                eq ne gt ge lt le in not_in contains startswith is_null. A field that is called like an argument
                (``limit``) is meant by ``limit__eq``.

        Raises:
            InvalidQuery: an unknown field or operator, or a value of the wrong type.
        """
        query = RecordQuery(self._where(filters), self._order(order_by), _limit(limit), None, scan)
        return self._objects(await self._port.find(self._space, query))

    @operation
    async def first(
        self, /, *, order_by: str | Sequence[str] | None = (), scan: bool = False, **filters: Any
    ) -> T | None:
        """Return the first object that meets all filters, or None. See :meth:`list`."""
        query = RecordQuery(self._where(filters), self._order(order_by), 1, None, scan)
        return next(iter(self._objects(await self._port.find(self._space, query))), None)

    @operation
    async def count(self, /, *, scan: bool = False, **filters: Any) -> int:
        """Return how many objects meet all filters."""
        return await self._port.count(self._space, self._where(filters), scan)

    @operation
    async def exists(self, /, *, scan: bool = False, **filters: Any) -> bool:
        """Tell whether any object meets all filters."""
        return bool(await self._port.find(self._space, RecordQuery(self._where(filters), (), 1, None, scan)))

    @operation
    @one_deadline
    async def page(
        self,
        /,
        *,
        size: int = 50,
        cursor: str | None = None,
        order_by: str | Sequence[str] | None = (),
        scan: bool = False,
        **filters: Any,
    ) -> Page[T]:
        """Return one page; records that are written meanwhile neither repeat nor hide others.

        Args:
            size: objects a page, 1 to 10,000.
            cursor: ``next`` or ``previous`` of another page of the same query; None for the first.
            order_by: see :meth:`list`.
            scan: see :meth:`list`.
            **filters: see :meth:`list`.

        Raises:
            InvalidQuery: the cursor is forged or belongs to another query.
        """
        size = _size(size)
        where, order = self._where(filters), self._order(order_by)
        query = repr((self._spec.name, self._space.tenant, [tuple(c) for c in where], [tuple(o) for o in order]))
        secret = await signing_key(self._scope)
        back, after = (False, None) if cursor is None else read_cursor(secret, query, cursor)
        turned = tuple(Order(o.field, not o.descending) for o in order) if back else order
        rows = await self._port.find(self._space, RecordQuery(where, turned, size + 1, after, scan))
        more, rows = len(rows) > size, rows[:size]
        if back:
            rows.reverse()
        edges = [[row[o.field] for o in order] for row in (rows[:1] + rows[-1:])]
        has_next, has_previous = (bool(rows), more) if back else (more, cursor is not None and bool(rows))
        return Page(
            self._objects(rows),
            write_cursor(secret, query, backwards=False, key=edges[-1]) if has_next else None,
            write_cursor(secret, query, backwards=True, key=edges[0]) if has_previous else None,
        )

    @stream
    async def iterate(
        self, /, *, order_by: str | Sequence[str] | None = (), page: int = _BATCH, scan: bool = False, **filters: Any
    ) -> AsyncGenerator[builtins.list[T], None]:
        """Iterate the objects that meet all filters, a page a round trip. See :meth:`list`."""
        where, order, size = self._where(filters), self._order(order_by), _size(page)
        after: builtins.list[Any] | None = None
        while True:
            rows = await self._port.find(self._space, RecordQuery(where, order, size, after, scan))
            yield self._objects(rows)
            if len(rows) < size:
                return
            after = [rows[-1][o.field] for o in order]

    @operation
    async def explain(
        self, /, *, order_by: str | Sequence[str] | None = (), limit: int | None = None, **filters: Any
    ) -> str:
        """Say which index answers a query like :meth:`list`."""
        query = RecordQuery(self._where(filters), self._order(order_by), _limit(limit), None, scan=True)
        return await self._port.explain(self._space, query)

    def with_deleted(self) -> Self:
        """Return the same repository, seeing what was marked deleted; its ``delete`` removes for good."""
        other = self._derive(self._scope, self._model.cls)
        other._hidden = False
        return other

    # Inside.

    def _new(self, model: T) -> Row:
        row, spec = self._row(model), self._spec
        row[spec.id] = self._model.with_ids([row[spec.id]])[0]
        row.update(self._begun())
        return row

    def _all_new(self, models: Sequence[T]) -> Rows:
        rows, spec = self._model.to_rows(models, self._scope.json_serializer), self._spec
        rows.columns[spec.id] = self._model.with_ids(rows.columns[spec.id])
        for name, value in self._begun().items():
            rows.columns[name] = [value] * len(rows)
        return rows

    async def _number(self, rows: Rows) -> bool:
        """Give the next numbers to rows that still have no id; tell whether there were any."""
        if not self._spec.numbered:
            return False
        ids = list(rows.columns[self._spec.id])
        taken, missing = set(ids), [at for at, id_ in enumerate(ids) if id_ is None]
        if not missing:
            return False
        while missing:
            numbers = [one for one in await self._port.numbers(self._space, len(missing)) if one not in taken]
            for at, number in zip(missing, numbers, strict=False):
                ids[at] = number
            del missing[: len(numbers)]
        rows.columns[self._spec.id] = ids
        return True

    def _begun(self) -> Row:
        """Return what the storage gives to new records."""
        spec, now = self._spec, datetime.now(UTC)
        given: Row = {name: now for name in (spec.created_at, spec.updated_at) if name is not None}
        if spec.version is not None:
            given[spec.version] = 1
        return given

    async def _add(self, models: Iterable[T], rows: Sequence[Row]) -> None:
        """Insert rows; but where writes wait for a commit elsewhere, put those whose ids were made for them just now.

        Nobody else has such an id, so both come to the same, and only what cannot be refused later may wait.
        """
        if self._scope.defers() and all(getattr(model, self._spec.id) in (None, "") for model in models):
            await self._port.upsert(self._space, list(rows))
        else:
            await self._port.insert(self._space, rows)

    def _row(self, model: T) -> Row:
        return self._model.to_row(model, self._scope.json_serializer)

    def _filled(self, row: Row) -> Row:
        """Return a row with something in the fields that the storage fills in."""
        spec, now = self._spec, datetime.now(UTC)
        for name, value in ((spec.created_at, now), (spec.updated_at, now), (spec.version, 1)):
            if name is not None and row[name] is None:
                row[name] = value
        return row

    def _deleting(self) -> Row:
        now = datetime.now(UTC)
        return {name: now for name in (self._spec.deleted_at, self._spec.updated_at) if name is not None}

    async def _change(self, id_: Any, changes: Row, version: int | None) -> T:
        spec = self._spec
        for name in (spec.version, spec.created_at):
            changes.pop(name or "", None)
        if spec.updated_at is not None:
            changes[spec.updated_at] = datetime.now(UTC)
        row = await self._port.update(self._space, id_, changes, version, self._living())
        if row is None:
            raise NotFound(f"there is no {self._model.name} with {spec.id} {id_!r}")
        return self._model.from_row(row)

    async def _delete(self, ids: Sequence[Any]) -> int:
        if self._spec.deleted_at is None or not self._hidden:
            return await self._port.delete(self._space, ids)
        where = [Condition(self._spec.id, "in", list(ids)), *self._living()]
        return await self._port.update_where(self._space, where, self._deleting(), scan=False)

    def _living(self) -> builtins.list[Condition]:
        """Return the condition that hides what is marked deleted."""
        name = self._spec.deleted_at
        return [Condition(name, "is_null", True)] if self._hidden and name is not None else []

    def _is_deleted(self, row: Row) -> bool:
        return self._hidden and self._spec.deleted_at is not None and row[self._spec.deleted_at] is not None

    def _objects(self, rows: Iterable[Row]) -> builtins.list[T]:
        return [self._model.from_row(row) for row in rows]

    def _id(self, value: Any) -> Any:
        if value is None:
            raise InvalidQuery(f"None is no id of a {self._model.name}")
        return self._bound(Condition(self._spec.id, "eq", value)).value

    def _bound(self, condition: Condition) -> Condition:
        return bind(self._spec, condition)

    def _where(self, filters: Mapping[str, Any]) -> builtins.list[Condition]:
        return [*conditions_of(self._spec, filters), *self._living()]

    def _order(self, order_by: str | Sequence[str] | None) -> tuple[Order, ...]:
        return order_of(self._spec, order_by)


class BlockingRepository(Blocking, Repository[T]):
    """Objects of a model class, synchronous."""


class DetectingRepository(Detecting, Repository[T]):
    """A repository whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: Repository[T], sync: BlockingRepository[T]) -> None:
        super().__init__(aio._scope, aio._model.cls)
        self._aio, self._sync = aio, sync

    def with_deleted(self) -> Self:
        """See :meth:`Repository.with_deleted`."""
        return type(self)(self._aio.with_deleted(), self._sync.with_deleted())


def _scope_of(storage: ScopeSource, blocking: bool) -> Scope:
    source = getattr(storage, "scope", None)
    if source is None:
        raise ConfigurationError(
            f"a repository is made from a storage, e.g. UnifiedStorage(url), not from a {type(storage).__name__}"
        )
    return storage.scope(Capability.RECORDS, blocking=blocking)


def _limit(limit: int | None) -> int | None:
    if limit is not None and (type(limit) is not int or not 1 <= limit <= _MOST):
        raise InvalidQuery(f"a limit is 1 to {_MOST:,}, not {limit!r}; use page() or iterate() for more")
    return limit


def _size(size: int) -> int:
    checked = _limit(size)
    if checked is None:
        raise InvalidQuery(f"the size of a page is 1 to {_MOST:,}, not None")
    return checked


def _several(given: Iterable[Any], what: str) -> builtins.list[Any]:
    """Return what was given as a list; one text is not taken for its characters."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidQuery(f"a list of {what} is needed, not one {type(given).__name__}")
    return list(given)
