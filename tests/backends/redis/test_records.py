"""What is particular to records on Redis: which index answers, how layouts change, that indexes agree with records."""

import asyncio
import dataclasses
import random
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Annotated, Any

import pytest
import redis

from ambidex import UnifiedStorage
from ambidex.backends.redis import records as port
from ambidex.backends.redis.layout import BUILDING, Layout, merged
from ambidex.core.dual import drive
from ambidex.core.models import model_of
from ambidex.core.ports import Space
from ambidex.core.spec import DeletedAt, Id, Indexed, Unique, Version
from ambidex.errors import AlreadyExists, AmbidexError, ConfigurationError, Corrupted, InvalidQuery, VersionConflict
from tests.services.handle import Service

Open = Callable[..., UnifiedStorage]
_numbers = iter(range(10**6))


def kind(table: str, *, id_: str = "id", **fields: Any) -> Any:
    """Return a model of a table: ``name=(annotation, default)``, or an annotation alone."""
    made = [(id_, Annotated[str, Id()], dataclasses.field())]
    for name, given in fields.items():
        if isinstance(given, tuple):
            made.append((name, given[0], dataclasses.field(default=given[1])))
        else:
            made.append((name, given, dataclasses.field()))
    return dataclasses.make_dataclass("Made", made, kw_only=True, namespace={"__tablename__": table})


class Place:
    """A prefix of its own on a server."""

    def __init__(self, server: Service) -> None:
        self.prefix = f"records-{next(_numbers)}:"
        self.url = f"{server.url}?prefix={self.prefix}"
        self.raw: Any = redis.Redis.from_url(server.url)
        self._opened: list[UnifiedStorage] = []

    def open(self) -> UnifiedStorage:
        self._opened.append(UnifiedStorage(self.url))
        return self._opened[-1]

    def close(self) -> None:
        for storage in self._opened:
            storage.close()
        self.raw.close()

    def agrees(self, model: Any) -> int:
        """Check that each index holds exactly what the records say; return how many records there are."""
        scope = self._opened[-1].sync.repository(model)._space
        space = Space(model_of(model).spec, scope.tenant)
        bare = Layout(space, self.prefix, merged(space.spec, None, empty=True))
        text = self.raw.hget(bare.keys[0], "d")
        assert text is not None
        layout = Layout(space, self.prefix, merged(space.spec, text, empty=False))
        assert layout.text == text
        assert not layout.building
        expected: dict[int, set[bytes]] = {index.at: set() for index in layout.indexes.values()}
        rows = self.raw.hgetall(layout.keys[1])
        for name, data in rows.items():
            known = layout.read(data)
            assert layout.id(known.row[space.spec.id]) == name
            for at, member in layout.members(known):
                expected[at].add(member)
        for at, members in expected.items():
            assert set(self.raw.zrange(layout.keys[at - 1], 0, -1)) == members
        assert {key.decode() for key in self.raw.keys(f"{self.prefix}r:*")} <= set(layout.keys)
        return len(rows)


@pytest.fixture
def place(redis_server: Service) -> Iterator[Place]:
    made = Place(redis_server)
    yield made
    made.close()


Thing = kind(
    "things",
    name=(Annotated[str, Indexed()], ""),
    age=(Annotated[int | None, Indexed()], None),
    email=(Annotated[str | None, Unique()], None),
    note=(str, ""),
    version=(Annotated[int, Version()], 0),
)


# ---------------------------------------------------------------- which index


def test_an_unindexed_filter_is_refused_with_the_annotation_to_add(place: Place) -> None:
    things = place.open().sync.repository(Thing)
    things.create_many([Thing(id=str(number), age=number % 3, note="even" * (number % 2 == 0)) for number in range(9)])
    annotation = r"note: Annotated\[\.\.\., Indexed\(\)\]"
    for ask in (things.list, things.count, things.exists, things.page, things.first, things.delete_where):
        with pytest.raises(InvalidQuery, match=annotation):
            ask(note="even")
    with pytest.raises(InvalidQuery, match=annotation):
        things.list(order_by="note")
    with pytest.raises(InvalidQuery, match="startswith"):
        things.list(name__contains="x")
    with pytest.raises(InvalidQuery, match="order by 'age' alone"):
        things.list(order_by=("age", "-id"))
    assert things.count(note="even", scan=True) == 5
    assert [thing.id for thing in things.list(note="even", age=0)] == ["0", "6"]  # another field narrows it
    assert [thing.id for thing in things.list(order_by=("-age", "id"), limit=4, scan=True)] == ["2", "5", "8", "1"]


def test_nested_data_is_not_advised_to_be_indexed(place: Place) -> None:
    tagged = kind("tagged", tags=(list[str], dataclasses.field(default_factory=list)))
    things = place.open().sync.repository(tagged)
    things.create(tagged(id="1", tags=["a"]))
    with pytest.raises(InvalidQuery, match=r"tags is nested data; .* scan=True") as refused:
        things.list(tags__contains="a")
    assert "Indexed" not in str(refused.value)  # which a nested field cannot be
    assert things.count(tags__contains="a", scan=True) == 1


def test_explain_says_which_index_answers(place: Place) -> None:
    things = place.open().sync.repository(Thing)
    things.create_many([Thing(id=str(number), name=f"n{number % 50}", age=number % 2) for number in range(200)])
    assert things.explain(age=1) == "the index on things.age, 1 range(s)"
    assert "walk over every record" in things.explain(note="x")
    assert things.explain(age__in=[0, 1], name="n7").startswith("the index on things.name")  # the more selective one
    assert "compared with age__gt" in things.explain(name="n7", age__gt=0)
    assert "sorted by note" in things.explain(name="n7", order_by="note")
    assert things.explain(order_by="-age", limit=3) == "a walk over every record of things by the index on age"


def test_a_page_reads_little_more_than_itself(place: Place) -> None:
    things = place.open().sync.repository(Thing)
    things.create_many([Thing(id=f"{number:05}", age=number % 7) for number in range(3000)])

    def commands(ask: Callable[[], Any]) -> int:
        before = place.raw.info("commandstats")["cmdstat_hget"]["calls"]
        ask()
        return int(place.raw.info("commandstats")["cmdstat_hget"]["calls"]) - int(before)

    things.page(size=5)  # the secret of the cursors
    assert commands(lambda: things.list(age=3, limit=10)) < 20
    assert commands(lambda: things.list(order_by="-age", limit=10)) < 20
    assert commands(lambda: things.list(age__ge=1, order_by="age", limit=10)) < 20
    assert commands(lambda: things.count(age__gt=2)) < 5
    page = things.page(size=10, order_by="age")
    assert commands(lambda: things.page(size=10, order_by="age", cursor=page.next)) < 25


def test_sorting_has_a_bound(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "_MOST", 50)
    monkeypatch.setattr(port, "_BATCH", 20)
    things = place.open().sync.repository(Thing)
    many = [Thing(id=f"{number:03}", note=str(-number)) for number in range(100)]
    things.create_many(many[:50])
    things.create_many(many[50:])
    with pytest.raises(InvalidQuery, match="give a limit"):
        things.list(order_by="note", scan=True)
    assert [thing.id for thing in things.list(order_by="note", limit=2, scan=True)] == ["001", "010"]
    with pytest.raises(InvalidQuery, match="more than 50"):
        things.delete_where(id__is_null=False)
    assert things.count() == 100


# ---------------------------------------------------------------- records and indexes


def test_what_is_refused_leaves_no_trace(place: Place) -> None:
    things = place.open().sync.repository(Thing)
    things.create_many([Thing(id="a", email="a@x", age=1), Thing(id="b", email="b@x", age=2)])
    before = {key: place.raw.dump(key) for key in place.raw.keys(f"{place.prefix}r:*")}
    refusals: list[Callable[[], Any]] = [
        lambda: things.create_many([Thing(id="c", email="c@x"), Thing(id="a")]),
        lambda: things.create_many([Thing(id="c", email="c@x"), Thing(id="d", email="c@x")]),
        lambda: things.upsert_many([Thing(id="a", email="z@x", age=5), Thing(id="c", email="b@x")]),
        lambda: things.patch("a", email="b@x", age=7),
    ]
    for refused in refusals:
        with pytest.raises(AlreadyExists):
            refused()
        assert place.agrees(Thing) == 2
    after = {key: place.raw.dump(key) for key in place.raw.keys(f"{place.prefix}r:*")}
    assert after == before


def test_what_is_refused_late_in_many_leaves_no_trace(place: Place) -> None:
    things = place.open().sync.repository(Thing)
    many = [Thing(id=f"{number:04}", email=f"{number}@x", age=number % 5) for number in range(1_300)]
    things.create_many(many[:200])
    for last in (Thing(id="0000"), Thing(id="new", email="7@x"), Thing(id="0900", email="new@x")):
        with pytest.raises(AlreadyExists):
            things.create_many([*many[200:], last])
        assert place.agrees(Thing) == 200
    things.create_many(many[200:])
    assert place.agrees(Thing) == 1_300


def test_what_one_call_stores_has_a_bound(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "_MOST", 50)
    things = place.open().sync.repository(Thing)
    many = [Thing(id=str(number)) for number in range(51)]
    for store in (things.create_many, things.upsert_many):
        with pytest.raises(InvalidQuery, match=r"51 records of things.* 50 in one step; pass them in parts"):
            store(many)
    assert things.count() == 0
    assert len(things.upsert_many(many[:50])) == 50


def test_indexes_agree_with_records_after_many_writers(place: Place) -> None:
    storage = place.open()
    failures: list[BaseException] = []

    async def work(seed: int, things: Any) -> None:
        """One coroutine for both modes: calls of the blocking face are values."""
        rand = random.Random(seed)
        for _ in range(60):
            id_, age, email = (str(rand.randrange(6)), rand.randrange(3), rand.choice([None, "a@x", "b@x", "c@x"]))
            call: Callable[[], Any] = rand.choice(
                (
                    lambda: things.create(Thing(id=id_, age=age, email=email)),  # noqa: B023  # called at once
                    lambda: things.upsert(Thing(id=id_, age=age, email=email)),  # noqa: B023
                    lambda: things.patch(id_, age=age, email=email),  # noqa: B023
                    lambda: things.delete(id_),  # noqa: B023
                    lambda: things.delete_where(age=age),  # noqa: B023
                )
            )
            try:
                result = call()
                if asyncio.iscoroutine(result):
                    await result
            except AmbidexError as error:
                if not isinstance(error, AlreadyExists) and type(error).__name__ != "NotFound":
                    raise

    def blocking(seed: int) -> None:
        try:
            drive(work(seed, storage.sync.repository(Thing)))
        except BaseException as error:
            failures.append(error)

    async def main() -> None:
        await asyncio.gather(*(work(seed, storage.aio.repository(Thing)) for seed in range(4)))

    threads = [threading.Thread(target=blocking, args=(seed,)) for seed in range(4, 7)]
    for thread in threads:
        thread.start()
    asyncio.run(main())
    for thread in threads:
        thread.join()
    assert not failures
    assert place.agrees(Thing) == storage.sync.repository(Thing).count()
    emails = [thing.email for thing in storage.sync.repository(Thing).list(email__is_null=False)]
    assert len(emails) == len(set(emails))


@pytest.mark.torture
def test_32_writers_of_one_record_lose_nothing(place: Place) -> None:
    storage = place.open()
    things = storage.aio.repository(Thing)

    async def add() -> None:
        while True:
            thing = await things.get("k")
            assert thing is not None
            thing.age += 1
            try:
                await things.update(thing)
            except VersionConflict:
                continue
            return

    async def take(number: int) -> bool:
        try:
            await things.create(Thing(id=f"t{number}", email="one@x"))
        except AlreadyExists:
            return False
        return True

    async def main() -> None:
        await things.create(Thing(id="k", age=0))
        await asyncio.gather(*(add() for _ in range(32)))
        await asyncio.gather(*(things.patch("k", name=str(number)) for number in range(32)))
        assert (await asyncio.gather(*(take(number) for number in range(32)))).count(True) == 1

    asyncio.run(main())
    stored = storage.sync.repository(Thing).get("k")
    assert stored is not None
    assert (stored.age, stored.version) == (32, 65)
    assert place.agrees(Thing) == 2


def test_a_walk_in_batches_finds_everything_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "_BATCH", 7)
    things = place.open().sync.repository(Thing)
    things.create_many([Thing(id=f"{n:03}", age=(None, 1, 2)[n % 3], name="ab"[n % 2]) for n in range(100)])
    everything = {f"{number:03}" for number in range(100)}
    for order in ((), ("-id",), ("age",), ("-age",), ("name", "-age")):
        ids = [thing.id for thing in things.list(order_by=order, scan=True)]
        assert len(ids) == 100
        assert set(ids) == everything
    ages = things.list(age__in=[1, None], order_by="-age")
    assert [thing.id for thing in ages] == sorted(
        (f"{n:03}" for n in range(100) if n % 3 < 2), key=lambda id_: (int(id_) % 3 == 1, id_), reverse=True
    )


def test_a_damaged_record_is_called_corrupted(place: Place) -> None:
    things = place.open().sync.repository(Thing)
    things.create(Thing(id="a"))
    (rows,) = place.raw.keys(f"{place.prefix}r:*rows")
    place.raw.hset(rows, b"a\x00", b"revision{}")
    with pytest.raises(Corrupted, match="things"):
        things.get("a")


def test_marked_as_deleted_is_left_out_by_an_index(place: Place) -> None:
    from datetime import datetime

    soft = kind("soft", deleted=(Annotated[datetime | None, DeletedAt()], None))
    things = place.open().sync.repository(soft)
    things.create_many([soft(id=str(number)) for number in range(5)])
    assert things.delete("3")
    assert things.explain() == "the index on soft.deleted, 1 range(s)"
    assert [thing.id for thing in things.list(order_by="-id")] == ["4", "2", "1", "0"]
    assert (things.count(), things.with_deleted().count()) == (4, 5)


# ---------------------------------------------------------------- models that change


def test_a_new_index_is_filled_from_the_records(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "_BATCH", 10)
    old = kind("grows", rank=(int, 0), price=(Decimal, Decimal(0)))
    new = kind("grows", rank=(Annotated[int, Indexed()], 0), price=(Decimal, Decimal(0)), more=(str | None, None))
    before = place.open().sync.repository(old)
    before.create_many([old(id=f"{number:02}", rank=number) for number in range(35)])
    after = place.open().sync.repository(new)
    assert [thing.id for thing in after.list(rank__ge=32)] == ["32", "33", "34"]
    assert place.agrees(new) == 35
    after.create(new(id="new", rank=100, more="kept"))
    before.create(old(id="old", rank=101))  # a process with the older model keeps the index, too
    assert before.patch("new", price=Decimal(5)).price == 5
    assert [(thing.id, thing.more) for thing in after.list(rank__gt=50)] == [("new", "kept"), ("old", None)]
    with pytest.raises(InvalidQuery):
        before.list(price=1)
    assert place.agrees(new) == 37


def test_a_build_that_was_cut_short_is_completed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = kind("cut", rank=(int, 0)), kind("cut", rank=(Annotated[int, Indexed()], 0))
    before = place.open().sync.repository(old)
    before.create_many([old(id=str(number), rank=number) for number in range(9)])

    class Crash(Exception):
        pass

    async def crash(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(port.RedisRecords, "_build", crash)
        with pytest.raises(Crash):
            place.open().sync.repository(new).count()
    layout = place.raw.hget(place.raw.keys(f"{place.prefix}r:*layout")[0], "d")
    assert layout is not None
    assert f'["integer",{BUILDING + 1}]'.encode() in layout
    after = place.open().sync.repository(new)
    assert after.count(rank__lt=5) == 5
    assert place.agrees(new) == 9


def test_a_field_becomes_unique_only_if_it_is(place: Place) -> None:
    old = kind("once", code=(int | None, None))
    new = kind("once", code=(Annotated[int | None, Unique()], None))
    before = place.open().sync.repository(old)
    before.create_many([old(id="a", code=1), old(id="b", code=1), old(id="c")])
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"once\.code.*remove them first"):
            place.open().sync.repository(new).list()
    remedy = place.open().sync.repository(old)
    remedy.patch("b", code=2)
    after = place.open().sync.repository(new)
    assert after.count(code=2) == 1
    with pytest.raises(AlreadyExists, match="code 1"):
        after.create(new(id="d", code=1))
    assert place.agrees(new) == 3
    with pytest.raises(ConfigurationError, match=r"Unique\(\)"):
        place.open().sync.repository(old).list()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (kind("odd", rank=(str, "")), r"odd\.rank is integer in Redis, and the model wants text"),
        (kind("odd", rank=(int, 0), more=int), r"odd\.more is new and has no default"),
        (kind("odd", id_="key", rank=(int, 0), id=(str, "")), "have the id 'id', the model has 'key'"),
    ],
    ids=["kind", "required", "id"],
)
def test_a_model_that_the_records_cannot_be_is_refused(place: Place, changed: Any, message: str) -> None:
    first = kind("odd", rank=(int, 0))
    place.open().sync.repository(first).create(first(id="a"))
    other = place.open()
    with pytest.raises(ConfigurationError, match=message):
        other.sync.repository(changed).list()
    with pytest.raises(ConfigurationError, match=message):
        asyncio.run(other.aio.repository(changed).get("a"))


def test_a_database_that_was_emptied_is_used_anew(place: Place) -> None:
    things = place.open().sync.repository(Thing)
    things.create(Thing(id="a", age=1))
    place.raw.delete(*place.raw.keys(f"{place.prefix}r:*"))
    assert things.list(age=1) == []
    things.create(Thing(id="b", age=1))
    place.raw.delete(*place.raw.keys(f"{place.prefix}r:*"))
    things.create(Thing(id="c", age=1))
    assert [thing.id for thing in things.list(age=1)] == ["c"]
    assert place.agrees(Thing) == 1


# ---------------------------------------------------------------- Cluster


def test_a_space_lies_in_one_slot(redis_cluster: Service) -> None:
    with UnifiedStorage(f"{redis_cluster.url}?prefix=slot{next(_numbers)}:") as storage:
        for number in range(6):  # several nodes are met
            things = storage.tenant(f"t{number}").repository(Thing)
            things.create_many([Thing(id=str(n), email=f"{n}@x") for n in range(20)])
            with pytest.raises(AlreadyExists):
                things.create(Thing(id="x", email="3@x"))
            assert things.count(email__startswith="1") == 11
