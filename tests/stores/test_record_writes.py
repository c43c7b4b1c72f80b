"""Records on another backend than the unit of work: what may wait for the commit does, once; the rest is refused."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest

from ambidex import UnifiedStorage, errors
from ambidex.core.spec import CreatedAt, DeletedAt, Id, Indexed, Unique, UpdatedAt, Version
from ambidex.stores.outbox import Outbox
from tests.stores.conftest import Face, Run, in_units, stop_applying


@dataclasses.dataclass
class Thing:
    key: Annotated[str, Id()] = ""
    name: Annotated[str, Indexed()] = ""
    size: Annotated[int | None, Indexed()] = None
    code: Annotated[int | None, Unique()] = None
    price: Decimal | None = None
    ref: UUID | None = None
    born: date | None = None
    blob: bytes = b""
    data: Any = None
    version: Annotated[int, Version()] = 0
    created: Annotated[datetime | None, CreatedAt()] = None
    updated: Annotated[datetime | None, UpdatedAt()] = None
    deleted: Annotated[datetime | None, DeletedAt()] = None


@dataclasses.dataclass
class Plain:
    key: Annotated[int, Id()]
    name: str = ""


@dataclasses.dataclass
class Counted:
    name: str
    id: int | None = None


@pytest.fixture(params=["sqlite+sqlite", "sqlite+redis", "sqlite+memory", "postgres+redis", "sqlite+postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UnifiedStorage]:
    """One with records on another backend."""
    main, records = (_url(request, kind, place, tmp_path) for kind, place in _kinds(request.param))
    made = UnifiedStorage(main, records=records)
    yield made
    made.close()


def _kinds(param: str) -> list[tuple[str, str]]:
    return list(zip(param.split("+"), ("main", "records"), strict=True))


def _url(request: pytest.FixtureRequest, kind: str, place: str, folder: Path) -> str:
    if kind == "postgres":
        return f"{request.getfixturevalue('postgres_url').partition('?')[0]}?schema=s{uuid4().hex}"
    if kind == "redis":
        return f"{request.getfixturevalue('redis_url')}&prefix={uuid4().hex}:"
    return f"sqlite:///{folder}/{place}.db" if kind == "sqlite" else "memory://"


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, storage: UnifiedStorage) -> Run:
    return in_units(request.param, storage)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        stop_applying(patch)
        yield patch


def outbox(storage: UnifiedStorage, face: Any) -> Outbox:
    return storage._core.outbox(isinstance(face, Face))


async def _everything(repository: Any) -> dict[str, Thing]:
    """Return what is stored by id, without the times."""
    found = await repository.with_deleted().list(order_by="key")
    return {
        one.key: dataclasses.replace(one, created=None, updated=None, deleted=None if one.deleted is None else _NOW)
        for one in found
    }


_NOW = datetime(2024, 1, 1, tzinfo=UTC)
_FULL: dict[str, Any] = {
    "price": Decimal("1.50"),
    "ref": UUID(int=7),
    "born": date(2020, 2, 29),
    "blob": b"\x00\xff",
    "data": {"a": [1, 1.5, None, {"b": "5"}]},
}


async def _begin(things: Any) -> None:
    await things.create_many([Thing(key, size=size) for size, key in enumerate("abcdef")])


async def _changes(things: Any) -> list[Any]:
    """Make every write that may wait; return what the calls returned, without times."""
    results = [
        await things.upsert(Thing("a", "again", **_FULL)),
        await things.upsert(Thing("new", "first")),
        *await things.upsert_many([Thing("new", "second"), Thing("b", "other")]),
        await things.patch("new", name="third", size=9),
        await things.patch("c", data=[1], price=Decimal(3)),
        await things.delete("d"),
        await things.delete("d"),
        await things.delete("never"),
        await things.delete_many(["d", "e", "never"]),
        await things.delete_where(size=9),
        await things.delete_where(size__ge=3),
        await things.with_deleted().delete("e"),
        await things.with_deleted().delete_where(name="other"),
        await things.with_deleted().delete_many(["b", "d"]),
    ]
    return [dataclasses.replace(r, created=None, updated=None) if isinstance(r, Thing) else r for r in results]


def test_a_unit_does_there_what_the_same_calls_do_without_one(run: Run) -> None:
    expected = UnifiedStorage("memory://").sync

    async def plainly(things: Any) -> tuple[list[Any], dict[str, Thing]]:
        await _begin(things)
        return await _changes(things), await _everything(things)

    results, after = in_units("sync", UnifiedStorage("memory://"))(lambda face: plainly(face.repository(Thing)))
    expected.close()

    async def body(storage: Any) -> None:
        things = storage.repository(Thing)
        await _begin(things)
        before = await _everything(things)
        async with storage.transaction():
            assert await _changes(things) == results
            await storage.kv.set("done", 1)
            assert await _everything(things) == before  # what is committed there
        assert await _everything(things) == after
        assert await storage.kv.get("done") == 1
        assert await storage.recover() == 0

    run(body)


def test_ids_that_the_storage_makes_may_wait(run: Run) -> None:
    async def body(storage: Any) -> None:
        things = storage.repository(Thing)
        async with storage.transaction():
            one = await things.create(Thing(name="one", **_FULL))
            two, three = await things.create_many([Thing(name="two"), Thing(name="three")])
            assert (await things.patch(one.key, size=1)).version == 2
        found = await things.list(order_by="size")
        assert {thing.key for thing in found} == {one.key, two.key, three.key}
        assert found[-1] == dataclasses.replace(one, size=1, version=2, updated=found[-1].updated)
        assert await things.get(two.key) == two

    run(body)


def test_numbers_that_the_storage_gives_may_wait(run: Run) -> None:
    """Nobody else gets them meanwhile, and what is there already keeps its own."""

    async def body(storage: Any) -> None:
        things = storage.repository(Counted)
        await things.create_many([Counted(f"old {number}", number) for number in range(1, 6)])
        async with storage.transaction():
            one = await things.create(Counted("one"))
            two, three = await things.create_many([Counted("two"), Counted("three")])
            assert await things.count() == 5
        assert await things.list() == [*(Counted(f"old {number}", number) for number in range(1, 6)), one, two, three]
        assert (await things.create(Counted("four"))).id > three.id

    run(body)


def test_an_error_or_a_savepoint_that_is_undone_leaves_nothing(run: Run) -> None:
    async def body(storage: Any) -> None:
        things = storage.repository(Thing)
        with pytest.raises(ZeroDivisionError):
            async with storage.transaction():
                await things.upsert(Thing("a"))
                raise ZeroDivisionError
        assert await things.count() == 0
        async with storage.transaction():
            await things.upsert(Thing("outer"))
            with pytest.raises(ZeroDivisionError):
                async with storage.transaction():
                    await things.patch("outer", name="inner")
                    await things.upsert(Thing("inner"))
                    raise ZeroDivisionError
            assert (await things.patch("outer", size=1)).name == ""
        assert [(t.key, t.name, t.size) for t in await things.list()] == [("outer", "", 1)]

    run(body)


def test_a_record_that_is_not_there_is_told_at_once(run: Run) -> None:
    async def body(storage: Any) -> None:
        things, plains = storage.repository(Thing), storage.repository(Plain)
        async with storage.transaction():
            with pytest.raises(errors.NotFound, match="never"):
                await things.patch("never", name="x")
            with pytest.raises(errors.NotFound, match="5"):
                await plains.update(Plain(5))
            await plains.upsert(Plain(5, "five"))
            assert await plains.update(Plain(5, "V")) == Plain(5, "V")
            assert await plains.delete(5) is True
            with pytest.raises(errors.NotFound):
                await plains.update(Plain(5))
            await plains.upsert(Plain(6))
        assert await plains.list() == [Plain(6)]

    run(body)


_REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda t: t.create(Thing("mine")), "create.*Use upsert, or leave the id"),
    (lambda t: t.create_many([Thing(), Thing("other")]), "create.*Use upsert, or leave the id"),
    (lambda t: t.create(Thing(code=1)), "unique field code"),
    (lambda t: t.upsert(Thing("mine", code=1)), "unique field code"),
    (lambda t: t.upsert_many([Thing("mine"), Thing("other", code=1)]), "unique field code"),
    (lambda t: t.patch("there", code=1), "unique field code"),
    (lambda t: t.update(Thing("there", version=1)), "version.*Use patch or upsert"),
]


def test_what_the_target_could_refuse_later_is_refused_with_the_remedy(run: Run) -> None:
    async def body(storage: Any) -> None:
        things = storage.repository(Thing)
        await things.create(Thing("there"))
        async with storage.transaction():
            await storage.kv.set("done", 1)
            for call, what in _REFUSED:
                with pytest.raises(errors.CapabilityMissing, match=f"{what}.*place records on the backend of transac"):
                    await call(things)
        assert [(thing.key, thing.version) for thing in await things.list()] == [("there", 1)]
        assert await storage.kv.get("done") == 1
        for call, _ in _REFUSED[:3]:
            await call(things)  # outside it works

    run(body)


def test_a_crash_after_the_commit_is_made_good_by_who_knows_no_model(
    run: Run, stopped: pytest.MonkeyPatch, storage: UnifiedStorage
) -> None:
    async def body(face: Any) -> None:
        things = face.repository(Thing)
        await _begin(things)
        async with face.transaction():
            await _changes(things)
        assert len(await _everything(things)) == 6
        stopped.undo()
        assert await face.recover() == 1
        assert sorted(await _everything(things)) == ["a", "c", "f", "new"]
        assert await face.recover() == 0

    run(body)


def test_a_row_that_is_applied_again_changes_nothing(
    run: Run, stopped: pytest.MonkeyPatch, storage: UnifiedStorage
) -> None:
    async def body(face: Any) -> None:
        things = face.repository(Thing)
        await things.create_many([Thing("patched"), Thing("deleted"), Thing("gone")])
        async with face.transaction():
            await things.upsert(Thing("put", "unit"))
            await things.patch("patched", name="unit")
            await things.patch("gone", name="unit")
            await things.delete("deleted")
            await things.with_deleted().delete_where(name="never")
        keys, _ = await outbox(storage, face)._home.kv.scan("ob::r:", None, 10)
        (row,) = await outbox(storage, face)._read(keys)
        await things.with_deleted().delete("gone")  # so the patch finds nothing to do
        assert await face.recover() == 1
        for key in ("put", "patched", "deleted", "gone"):
            await things.with_deleted().delete(key)
            await things.create(Thing(key, "newer"))
        assert await outbox(storage, face)._apply(row) is True  # as one who was slow
        assert {(t.key, t.name, t.version) for t in await things.list()} == {
            (key, "newer", 1) for key in ("put", "patched", "deleted", "gone")
        }

    run(body)


def test_units_that_touch_the_same_record_keep_their_order(
    run: Run, stopped: pytest.MonkeyPatch, storage: UnifiedStorage
) -> None:
    async def body(face: Any) -> None:
        things = face.repository(Thing)
        await things.create_many([Thing("a"), Thing("b")])
        async with face.transaction():
            await things.upsert(Thing("a", "first"))
        async with face.transaction():
            await things.patch("b", name="unrelated")
        keys, _ = await outbox(storage, face)._home.kv.scan("ob::r:", None, 10)
        assert len(keys) == 2
        stopped.undo()
        outbox(storage, face).shared.due = time.monotonic() + 1_000  # nobody looks for the others
        async with face.transaction():
            await things.patch("a", size=2)
        found = {thing.key: (thing.name, thing.size) for thing in await things.list()}
        assert found == {"a": ("first", 2), "b": ("", None)}
        await face.recover()
        assert (await things.get("b")).name == "unrelated"

    run(body)


def test_what_others_did_meanwhile_decides_what_a_filter_means(run: Run, stopped: pytest.MonkeyPatch) -> None:
    """What met it when it was asked, and still does."""

    async def body(storage: Any) -> None:
        plains = storage.repository(Plain)
        await plains.create_many([Plain(1, "old"), Plain(2, "old")])
        async with storage.transaction():
            assert await plains.delete_where(name="old", scan=True) == 2
        await plains.update(Plain(2, "rescued"))
        await plains.create(Plain(3, "old"))
        await storage.recover()
        assert await plains.list() == [Plain(2, "rescued"), Plain(3, "old")]

    run(body)


def test_a_table_that_does_not_fit_is_told_at_once(run: Run, storage: UnifiedStorage) -> None:
    @dataclasses.dataclass
    class Other:
        __tablename__ = "plain"
        key: Annotated[str, Id()]

    if storage._core.backend("records").name == "memory":  # type: ignore[arg-type]  # has no tables
        pytest.skip("memory keeps no tables")

    async def body(face: Any) -> None:
        await face.repository(Plain).create(Plain(1))
        with pytest.raises(errors.ConfigurationError):
            async with face.transaction():
                await face.repository(Other).upsert(Other("x"))
        assert await face.recover() == 0

    run(body)


def test_objects_are_copies(run: Run) -> None:
    async def body(storage: Any) -> None:
        things = storage.repository(Thing)
        async with storage.transaction():
            given = Thing("a", data=[1])
            stored = await things.upsert(given)
            given.data.append(2)
            stored.data.append(3)
        assert (await things.get("a")).data == [1]

    run(body)
