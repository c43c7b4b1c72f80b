"""Random calls of a repository on a backend and on the memory backend, compared step by step.

``BackendContract`` runs it. The invariant: after any sequence of calls both give the same objects, orders, pages and
errors. Ids are given by the machine; times are each backend's own and are left out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ambidex.core.dual import drive
from ambidex.core.spec import CreatedAt, DeletedAt, Indexed, Unique, Version
from ambidex.errors import AmbidexError
from ambidex.storage import UnifiedStorage
from ambidex.stores.repository import Page, Repository
from ambidex.testing.contract import Mode, Subject

__all__ = ["RecordMachine", "compare"]


@dataclasses.dataclass
class Row:
    """What the machine stores."""

    id: str = ""
    name: Annotated[str, Indexed()] = ""
    nick: Annotated[str | None, Indexed()] = None
    code: Annotated[int | None, Unique()] = None
    score: Annotated[float, Indexed()] = 0.0
    price: Annotated[Decimal | None, Indexed()] = None
    at: Annotated[datetime | None, Indexed()] = None
    day: Annotated[date | None, Indexed()] = None
    on: Annotated[bool, Indexed()] = True
    data: Any = None
    version: Annotated[int, Version()] = 0
    created: Annotated[datetime | None, CreatedAt()] = None
    deleted: Annotated[datetime | None, DeletedAt()] = None

    __tablename__ = "machine_rows"


_IDS = st.sampled_from(("a", "ab", "b", "B", "é", "%", "a'b", "\U0001f600"))
_CHARACTERS: st.SearchStrategy[str] = st.characters(codec="utf-8", exclude_characters="\x00")
_TEXT = st.sampled_from(("", "a", "A", "ab", "b", "é", "%", "_", "\U0001f600", "￿")) | st.text(_CHARACTERS, max_size=4)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: str(number) != "-0.0")
_BASE = datetime(2024, 1, 1, tzinfo=UTC)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": _TEXT,
    "nick": st.none() | _TEXT,
    "code": st.none() | st.integers(0, 3) | st.integers(-(2**63), 2**63 - 1),
    "score": st.sampled_from((0.0, 1.0, -1.5)) | _FLOATS,
    "price": st.none() | st.sampled_from((Decimal(1), Decimal("1.0"), Decimal(10), Decimal("-2.50"))),
    "at": st.none() | st.integers(-5, 5).map(lambda number: _BASE + timedelta(microseconds=number, days=number)),
    "day": st.none() | st.dates(),
    "on": st.booleans(),
    "data": st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _FLOATS | _TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=2),
        max_leaves=5,
    ),
}
_FIELDS = st.fixed_dictionaries({}, optional=_VALUES)
_SCALARS = [name for name in _VALUES if name != "data"]
_ORDERED = ("gt", "ge", "lt", "le")


@st.composite
def _filter(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(_SCALARS))
    value = _VALUES[name]
    op = draw(st.sampled_from(("eq", "ne", "in", "not_in", "is_null", *_ORDERED, "contains", "startswith")))
    if op in ("in", "not_in"):
        return {f"{name}__{op}": draw(st.lists(value, max_size=4))}
    if op == "is_null":
        return {f"{name}__{op}": draw(st.booleans())}
    return {f"{name}__{op}": draw(value)}


_FILTERS = st.one_of(
    st.just({}),
    _filter(),
    st.tuples(_filter(), _filter()).map(lambda pair: pair[0] | pair[1]),
    st.builds(lambda value: {"data__contains": value}, st.integers(0, 5) | _TEXT),
    st.builds(lambda ids: {"id__in": ids}, st.lists(_IDS, max_size=3)),
)
_ORDERS = st.lists(
    st.tuples(st.sampled_from([*_SCALARS, "id"]), st.sampled_from(("", "-"))),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: tuple(sign + name for name, sign in pairs))


def _seen(value: Any) -> Any:
    """Return a result without what each backend has of its own."""
    if isinstance(value, Row):
        plain = dataclasses.asdict(value)
        del plain["created"]
        plain["deleted"] = plain["deleted"] is not None
        plain["price"] = str(plain["price"])
        plain["data"] = _sorted(plain["data"])
        return plain
    if isinstance(value, list):
        return [_seen(item) for item in value]
    if isinstance(value, dict):
        return {key: _seen(item) for key, item in value.items()}
    return value


def _sorted(value: Any) -> Any:
    """Return nested data with its types shown and its keys in order."""
    if isinstance(value, dict):
        return [(key, _sorted(item)) for key, item in sorted(value.items())]
    return [_sorted(item) for item in value] if isinstance(value, list) else repr(value)


class RecordMachine(RuleBasedStateMachine):
    """Runs each call on both and compares.

    Args:
        subject: the backend under test.
        run: runs a coroutine in the subject's mode, on the same loop every time.
        counted: told of each step.
    """

    def __init__(
        self, subject: Subject, run: Callable[[Coroutine[Any, Any, Any]], Any], counted: Callable[[], object]
    ) -> None:
        super().__init__()
        self._run, self._counted, self._started = run, counted, False
        self._subjects = [
            subject.of_tenant(Subject.fresh_name()),
            Subject(UnifiedStorage("memory://"), subject.mode),
        ]
        self._objects: dict[str, list[Row]] = {}

    @initialize()
    def start(self) -> None:
        self._both = [subject.repository(Row) for subject in self._subjects]

    def _agree(self, call: Callable[[Repository[Row]], Coroutine[Any, Any, Any]]) -> list[Any]:
        outcomes = [self._outcome(call, repository) for repository in self._both]
        tested, expected = map(_seen, outcomes)
        assert tested == expected
        assert type(tested) is type(expected)
        return outcomes

    def _outcome(self, call: Callable[[Repository[Row]], Coroutine[Any, Any, Any]], on: Repository[Row]) -> Any:
        try:
            return self._run(call(on))
        except AmbidexError as error:
            return type(error)

    def _keep(self, outcomes: list[Any]) -> None:
        if all(isinstance(outcome, Row) for outcome in outcomes):
            self._objects[outcomes[0].id] = outcomes

    @rule(id_=_IDS, fields=_FIELDS)
    def create(self, id_: str, fields: dict[str, Any]) -> None:
        self._keep(self._agree(lambda r: r.create(Row(id=id_, **fields))))

    @rule(rows=st.lists(st.tuples(_IDS, _FIELDS), max_size=4))
    def create_many(self, rows: list[tuple[str, dict[str, Any]]]) -> None:
        self._agree(lambda r: r.create_many([Row(id=id_, **fields) for id_, fields in rows]))

    @rule(rows=st.lists(st.tuples(_IDS, _FIELDS), min_size=1, max_size=3, unique_by=lambda row: row[0]))
    def upsert(self, rows: list[tuple[str, dict[str, Any]]]) -> None:
        first, fields = rows[0]
        self._keep(self._agree(lambda r: r.upsert(Row(id=first, **fields))))
        self._agree(lambda r: r.upsert_many([Row(id=id_, **given) for id_, given in rows]))

    @rule(id_=_IDS, fields=_FIELDS)
    def patch(self, id_: str, fields: dict[str, Any]) -> None:
        self._keep(self._agree(lambda r: r.patch(id_, **fields)))

    @rule(id_=_IDS, fields=_FIELDS)
    def update(self, id_: str, fields: dict[str, Any]) -> None:
        """With what was read last, which may be stale or gone."""
        objects = self._objects.get(id_) or [Row(id=id_), Row(id=id_)]
        changed = [dataclasses.replace(one, **fields) for one in objects]
        outcomes = [
            self._outcome(lambda r, one=one: r.update(one), repository)  # type: ignore[misc]
            for one, repository in zip(changed, self._both, strict=True)
        ]
        assert _seen(outcomes[0]) == _seen(outcomes[1])
        self._keep(outcomes)

    @rule(ids=st.lists(_IDS, min_size=1, max_size=3), hidden=st.booleans())
    def delete(self, ids: list[str], hidden: bool) -> None:
        self._agree(lambda r: (r if hidden else r.with_deleted()).delete_many(ids))

    @rule(filters=_FILTERS, hidden=st.booleans())
    def delete_where(self, filters: dict[str, Any], hidden: bool) -> None:
        self._agree(lambda r: (r if hidden else r.with_deleted()).delete_where(scan=True, **filters))

    @rule(ids=st.lists(_IDS, max_size=4))
    def get(self, ids: list[str]) -> None:
        self._agree(lambda r: r.get_many(ids))
        if ids:
            self._keep(self._agree(lambda r: r.get(ids[0])))

    @rule(filters=_FILTERS, order=_ORDERS, limit=st.none() | st.integers(1, 5))
    def ask(self, filters: dict[str, Any], order: tuple[str, ...], limit: int | None) -> None:
        self._agree(lambda r: r.list(order_by=order, limit=limit, scan=True, **filters))
        self._agree(lambda r: r.count(scan=True, **filters))
        self._agree(lambda r: r.exists(scan=True, **filters))

    @rule(filters=_FILTERS, order=_ORDERS, size=st.integers(1, 4))
    def pages(self, filters: dict[str, Any], order: tuple[str, ...], size: int) -> None:
        async def walk(repository: Repository[Row]) -> list[Any]:
            seen: list[Any] = []
            cursor: str | None = None
            while True:
                page: Page[Row] = await repository.page(size=size, cursor=cursor, order_by=order, scan=True, **filters)
                seen.append((_seen(page.items), page.next is None, page.previous is None))
                if page.next is None:
                    return seen
                cursor = page.next

        self._agree(walk)

    @invariant()
    def everything_agrees(self) -> None:
        if self._started:
            self._counted()
        self._started = True
        self._agree(lambda r: r.with_deleted().list())


def compare(subject: Subject, examples: int, steps: int) -> int:
    """Run the machine in the subject's mode; the first difference fails, with the shortest way to it.

    Args:
        subject: the backend under test; it is closed at the end.
        examples: how many runs.
        steps: how many calls a run, at most.

    Returns:
        How many calls were made and compared.
    """
    made = itertools.count()
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )

    def machine(run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        factory = partial(RecordMachine, subject, run, partial(next, made))
        run_state_machine_as_test(cast("type[RecordMachine]", factory), settings=chosen)

    if subject.mode is Mode.BLOCKING:
        try:
            machine(drive)
        finally:
            subject.root.sync.close()
        return next(made)
    with asyncio.Runner() as runner:
        try:
            machine(runner.run)
        finally:
            runner.run(subject.root.aio.close())
    return next(made)
