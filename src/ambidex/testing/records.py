"""The contract of typed repositories: five kinds of models in both modes; backends that keep records pass it.

The invariant: whatever the library a model is written in, and whatever the backend, the same calls give the same
objects and the same errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import pytest

from ambidex.core.ports import Capability
from ambidex.core.spec import CreatedAt, DeletedAt, Indexed, Unique, Version
from ambidex.errors import (
    AlreadyExists,
    InvalidQuery,
    NotFound,
    UnsupportedValue,
    VersionConflict,
)
from ambidex.testing.contract import Contract, Subject
from ambidex.testing.record_models import KINDS, Colour, Nested, model

__all__ = ["RecordsContract"]

Make = Callable[..., Any]
_FULL: dict[str, Any] = {
    "key": "full",
    "name": "Zoë \U0001f600 'quoted' %_\\",
    "email": "a@example.org",
    "age": -(2**63),
    "score": 1.5e-300,
    "active": False,
    "price": Decimal("123456789012345678901234567890.12345678900"),
    "ref": UUID(int=2**128 - 1),
    "seen": datetime(2024, 2, 29, 23, 59, 59, 999999, timezone(timedelta(hours=-7))),
    "born": date(1, 1, 1),
    "alarm": time(23, 59, 59, 999999),
    "blob": bytes(range(256)),
    "colour": Colour.BLUE,
    "size": "l",
    "tags": ["", "é", "5"],
    "counts": {"": 0, "é": 2**63 - 1},
    "nested": Nested(1, ["x"], datetime(2024, 1, 1, tzinfo=UTC), [Nested(2)]),
    "anything": {"a": [1, 1.5, None, True, {"b": "5"}], "": "x"},
}
_FILTERED: dict[str, dict[str, Any]] = {
    "a": {
        "name": "Anna",
        "age": 1,
        "score": 1.5,
        "price": Decimal("1.0"),
        "born": date(2020, 1, 1),
        "anything": "5",
    },
    "b": {"name": "anna%", "age": 2, "score": -2.0, "price": Decimal(10), "tags": ["x", "5"]},
    "c": {"name": "Ännä", "age": None, "active": False, "colour": Colour.BLUE, "anything": [5, True]},
    "d": {
        "name": "",
        "age": 3,
        "ref": UUID(int=5),
        "blob": b"\x00\xff",
        "seen": datetime(2024, 1, 1, tzinfo=UTC),
    },
}

_FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "abcd"),
    ({"name": "Anna"}, "a"),
    ({"name__ne": "Anna"}, "bcd"),
    ({"name__contains": "nn"}, "abc"),
    ({"name__contains": "%"}, "b"),
    ({"name__startswith": "Ä"}, "c"),
    ({"name__startswith": "anna%"}, "b"),
    ({"name__startswith": ""}, "abcd"),
    ({"name__gt": "Anna"}, "bc"),
    ({"age__ge": 2}, "bd"),
    ({"age__lt": 3}, "ab"),
    ({"age": None}, "c"),
    ({"age__ne": None}, "abd"),
    ({"age__ne": 1}, "bcd"),
    ({"age__in": [1, None]}, "ac"),
    ({"age__in": []}, ""),
    ({"age__not_in": [1, 2]}, "cd"),
    ({"age__not_in": [1, None]}, "bd"),
    ({"age__not_in": []}, "abcd"),
    ({"age__is_null": True}, "c"),
    ({"age__is_null": False}, "abd"),
    ({"score__gt": 0}, "a"),
    ({"score": -0.0}, "cd"),
    ({"active": False}, "c"),
    ({"price": Decimal("1.00")}, "a"),
    ({"price__gt": Decimal("9.5")}, "b"),
    ({"price__le": 10}, "ab"),
    ({"ref": UUID(int=5)}, "d"),
    ({"ref": str(UUID(int=5))}, "d"),
    ({"seen__ge": datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, "d"),
    ({"born__lt": date(2020, 1, 2)}, "a"),
    ({"colour": Colour.BLUE}, "c"),
    ({"colour": "blue"}, "c"),
    ({"blob": b"\x00\xff"}, "d"),
    ({"size__in": ["s", "m"]}, "abcd"),
    ({"tags__contains": "5"}, "b"),
    ({"tags__contains": 5}, ""),
    ({"anything__contains": 5}, "c"),
    ({"anything__contains": 1}, ""),
    ({"anything__contains": "5"}, ""),
    ({"anything__contains": ""}, ""),
    ({"anything__is_null": True}, "bd"),
    ({"key__in": ["a", "d", "zz"], "age__gt": 1}, "d"),
]
_REFUSED: list[tuple[str, Any]] = [
    ("name", "a\x00b"),
    ("name", "\ud800"),
    ("name", None),
    ("age", 2**63),
    ("age", True),
    ("score", float("nan")),
    ("score", float("-inf")),
    ("score", -0.0),
    ("score", 2**60),
    ("price", Decimal("NaN")),
    ("price", Decimal("Infinity")),
    ("price", Decimal("1E+5000")),
    ("seen", datetime(2024, 1, 1)),  # noqa: DTZ001  # what is to be refused
    ("alarm", time(1, 2, tzinfo=UTC)),
    ("blob", "text"),
    ("anything", {"a": [float("nan")]}),
    ("anything", {"a": -0.0}),
    ("anything", [2**64]),
    ("anything", {"a\x00": 1}),
    ("anything", ["\ud800"]),
    ("anything", {"a": b"bytes"}),
    ("tags", [1]),
    ("counts", {"a": "b"}),
]
_NO_FILTERS: list[dict[str, Any]] = [
    {"nothing": 1},
    {"age__like": 1},
    {"age": "1"},
    {"age": True},
    {"age": 2**63},
    {"age__gt": None},
    {"name": 5},
    {"name__startswith": None},
    {"age__startswith": "1"},
    {"age__in": 5},
    {"name__in": "text"},
    {"age__is_null": 1},
    {"score": float("nan")},
    {"seen": datetime(2024, 1, 1)},  # noqa: DTZ001  # what is to be refused
    {"born": datetime(2024, 1, 1, tzinfo=UTC)},
    {"ref": "no uuid"},
    {"nested": {"x": 1}},
    {"anything__contains": 1.0},
    {"anything__contains": None},
    {"name": "a\x00"},
    {"name; DROP TABLE x": 1},
    {'name" OR 1=1 --': 1},
]


class _Things(Contract):
    @pytest.fixture(params=KINDS)
    def make(self, request: pytest.FixtureRequest) -> Make:
        """The model class of a library."""
        return model(request.param)  # type: ignore[no-any-return]


class RecordsContract(_Things, needs=[Capability.RECORDS]):
    """One caller at a time."""

    async def test_record_comes_back_as_it_was(self, subject: Subject, make: Make) -> None:
        """Every kind of field, at its limits, from create, get, list and page alike."""
        things = subject.repository(make)
        given = make(**_FULL)
        created = await things.create(given)
        for name, value in _FULL.items():
            assert getattr(created, name) == value, name
            assert type(getattr(created, name)) is type(getattr(given, name)), name
        assert created.price.as_tuple() == given.price.as_tuple()
        assert created.seen.utcoffset() == timedelta(0)
        assert await things.get("full") == created
        assert await things.list() == [created]
        assert (await things.page()).items == [created]
        assert await things.get_many(["full", "other", "full"]) == {"full": created}
        empty = await things.create(make())
        assert await things.get(empty.key) == empty
        assert empty.key != ""
        assert empty.tags == []

    async def test_record_values_are_normalised(self, subject: Subject, make: Make) -> None:
        """An int for a float, another zone, a Decimal with an exponent, tuples: all backends keep the same."""
        things = subject.repository(make)
        created = await things.create(make(key="k", score=3, price=Decimal("1E+3"), anything=(1, 2)))
        assert (created.score, type(created.score)) == (3.0, float)
        assert str(created.price) == "1000"
        assert created.anything == [1, 2]
        assert await things.get("k") == created

    async def test_record_with_a_value_that_cannot_be_kept(self, subject: Subject, make: Make) -> None:
        """Refused before anything is stored, with the field's name."""
        things = subject.repository(make)
        await things.create(make(key="k", name="kept"))
        for field, value in _REFUSED:
            thing = await things.get("k")
            with pytest.raises(UnsupportedValue, match=field):
                await things.patch("k", **{field: value})
            try:
                setattr(thing, field, value)
            except ValueError as error:  # the library itself refuses it
                assert field in str(error)  # noqa: PT017  # it need not raise
                continue
            for write in (things.update, things.upsert, things.create):
                with pytest.raises(UnsupportedValue, match=field):
                    await write(thing)
        stored = await things.get("k")
        assert (stored.name, stored.version) == ("kept", 1)

    async def test_record_create_refuses_what_exists(self, subject: Subject, make: Make) -> None:
        """By id and by unique value, all or none; None is not equal to None."""
        things = subject.repository(make)
        await things.create_many([make(key="a", email="a@x"), make(key="b"), make(key="c")])
        with pytest.raises(AlreadyExists, match=r"^contract_things with key 'a' exists$"):
            await things.create(make(key="a"))
        with pytest.raises(AlreadyExists, match=r"^contract_things with email 'a@x' exists$"):
            await things.create(make(key="d", email="a@x"))
        with pytest.raises(AlreadyExists):
            await things.create_many([make(key="e"), make(key="f", email="a@x")])
        with pytest.raises(AlreadyExists):
            await things.create_many([make(key="g"), make(key="g")])
        with pytest.raises(AlreadyExists, match=r"^contract_things with email 'a@x' exists$"):
            await things.patch("b", email="a@x")
        with pytest.raises(AlreadyExists):
            await things.upsert_many([make(key="h"), make(key="b", email="a@x")])
        assert [thing.key for thing in await things.list()] == ["a", "b", "c"]
        await things.patch("a", email="other@x")
        assert (await things.patch("b", email="a@x")).email == "a@x"
        assert await things.create_many([]) == []

    async def test_record_update_and_patch(self, subject: Subject, make: Make) -> None:
        """Update writes all of it if nobody else has meanwhile; patch writes some, whatever the rest."""
        things = subject.repository(make)
        first = await things.create(make(key="k", name="first"))
        assert (first.version, first.created) == (1, first.updated)
        patched = await things.patch("k", age=5, nested=Nested(1))
        assert (patched.name, patched.age, patched.nested, patched.version) == ("first", 5, Nested(1), 2)
        assert patched.created == first.created
        assert patched.updated >= first.updated
        with pytest.raises(VersionConflict, match="version 2"):
            await things.update(first)
        patched.name = "second"
        updated = await things.update(patched)
        assert (updated.name, updated.version, updated.created) == ("second", 3, first.created)
        assert await things.get("k") == updated
        for missing in (things.update(make(key="none")), things.patch("none", name="x")):
            with pytest.raises(NotFound, match="none"):
                await missing
        for name in ("key", "version", "created", "updated"):
            with pytest.raises(InvalidQuery, match=name):
                await things.patch("k", **{name: getattr(updated, name)})
        with pytest.raises(InvalidQuery, match="nothing_such"):
            await things.patch("k", nothing_such=1)
        with pytest.raises(UnsupportedValue, match="size"):
            await things.patch("k", size="xxl")

    async def test_record_upsert(self, subject: Subject, make: Make) -> None:
        """Adds or replaces; the time of creation and the version's growth stay."""
        things = subject.repository(make)
        first = await things.upsert(make(key="k", name="first"))
        second = await things.upsert(make(key="k", name="second"))
        assert (second.name, second.version, second.created) == ("second", 2, first.created)
        both = await things.upsert_many([make(key="k", name="third"), make(key="new")])
        assert [(thing.key, thing.version) for thing in both] == [("k", 3), ("new", 1)]
        assert await things.get("k") == both[0]
        one_after_the_other = await things.upsert_many([make(key="k", name="fourth"), make(key="k", name="fifth")])
        assert [(thing.name, thing.version) for thing in one_after_the_other] == [("fourth", 4), ("fifth", 5)]
        assert await things.get("k") == one_after_the_other[1]

    async def test_record_that_is_older_than_its_model(self, subject: Subject) -> None:
        """Fields that were added later read as None or their default, are written, and count versions from 0."""
        fields: list[Any] = [("id", str), ("name", str)]
        table: dict[str, Any] = {"__tablename__": "contract_grown", "__module__": __name__}
        narrow = dataclasses.make_dataclass("Grown", fields, namespace=table)
        added = {
            "version": (Annotated[int, Version()], 5),
            "created": (Annotated[datetime | None, CreatedAt()], None),
            "deleted": (Annotated[datetime | None, DeletedAt()], None),
            "rank": (Annotated[int | None, Indexed()], None),
            "email": (Annotated[str | None, Unique()], None),
        }
        grown = [*fields, *((name, kind, dataclasses.field(default=value)) for name, (kind, value) in added.items())]
        wide = dataclasses.make_dataclass("Grown", grown, namespace=table)
        old, new = subject.repository(narrow), subject.repository(wide)
        await old.create_many([narrow(key, "old") for key in "abcde"])
        assert [(it.id, it.version, it.rank) for it in await new.list(order_by="rank")] == [
            (i, 0, None) for i in "abcde"
        ]
        assert [it.id for it in (await new.page(size=2, order_by="-rank")).items] == ["e", "d"]
        assert (await new.patch("a", rank=1)).version == 1
        first, second = await new.get("b"), await new.get("b")
        assert (await new.update(dataclasses.replace(first, email="b@x"))).version == 1
        with pytest.raises(VersionConflict, match="has version 1, not 0"):
            await new.update(second)
        with pytest.raises(AlreadyExists):
            await new.create(wide("f", "new", email="b@x"))
        assert (await new.upsert(wide("c", "new"))).version == 1
        assert await new.delete("d")
        assert [it.id for it in await new.list(order_by="id")] == ["a", "b", "c", "e"]
        await old.create(narrow("g", "by an older process"))
        assert (await old.patch("b", name="renamed")) == narrow("b", "renamed")
        assert (await old.upsert(narrow("a", "again"))) == narrow("a", "again")
        assert [(it.name, it.version) for it in (await new.get_many(["a", "b", "g"])).values()] == [
            ("again", 1),
            ("renamed", 1),
            ("by an older process", 0),
        ]
        assert (await new.get("b")).email == "b@x"

    async def test_record_deletion(self, subject: Subject, make: Make) -> None:
        """Marks the record; nothing but ``with_deleted`` sees it again, and only that removes it."""
        things = subject.repository(make)
        everything = things.with_deleted()
        await things.create_many([make(key=key, age=number) for number, key in enumerate("abcde")])
        assert await things.delete("a")
        assert not await things.delete("a")
        assert not await things.delete("none")
        assert await things.delete_many(["b", "a", "b", "none"]) == 1
        assert await things.delete_where(age=2) == 1
        assert await things.get("a") is None
        assert [thing.key for thing in await things.list()] == ["d", "e"]
        assert await things.count() == 2
        assert not await things.exists(age=0)
        with pytest.raises(NotFound):
            await things.patch("a", name="x")
        dead = await everything.get("a")
        assert (dead.deleted is not None, dead.name) == (True, "")
        with pytest.raises(NotFound):
            await things.update(dead)
        assert await everything.count() == 5
        assert await everything.delete("a")
        assert await everything.get("a") is None
        with pytest.raises(InvalidQuery, match="filter"):
            await things.delete_where()
        assert await everything.delete_where(key__is_null=False) == 4

    async def test_record_filters(self, subject: Subject, make: Make) -> None:
        """Each operator on each kind of field, alone and together."""
        things = subject.repository(make)
        await things.create_many([make(key=key, **row) for key, row in _FILTERED.items()])
        for filters, expected in _FILTERS:
            found = await things.list(order_by="key", scan=True, **filters)
            assert "".join(thing.key for thing in found) == expected, filters
            assert await things.count(scan=True, **filters) == len(expected), filters
            assert await things.exists(scan=True, **filters) is bool(expected), filters

    async def test_record_query_that_is_refused(self, subject: Subject, make: Make) -> None:
        """By every method that takes filters, before any I/O."""
        things = subject.repository(make)
        for filters in _NO_FILTERS:
            for ask in (things.list, things.first, things.count, things.exists, things.page, things.delete_where):
                with pytest.raises(InvalidQuery):
                    await ask(**filters)
            with pytest.raises(InvalidQuery):
                await things.explain(**filters)
        for order in ("nothing", "", "tags", ["age", "-age"], 5, {"age": 1}):
            with pytest.raises(InvalidQuery, match=r"order"):
                await things.list(order_by=order)
        for size in (0, -1, None, "5", 10_001, True):
            with pytest.raises(InvalidQuery):
                await things.page(size=size)
            if size is not None:
                with pytest.raises(InvalidQuery):
                    await things.list(limit=size)
        assert await things.list(order_by=None, limit=None) == []

    async def test_record_ids_that_are_refused(self, subject: Subject, make: Make) -> None:
        """None, another type, and one text where several ids are wanted, which is not its characters."""
        things = subject.repository(make)
        await things.create_many([make(key="a"), make(key="b")])
        for id_ in (None, 5, ["a"], b"a", "\x00"):
            for ask in (things.get, things.delete, things.patch):
                with pytest.raises(InvalidQuery):
                    await ask(id_)
            for several in (things.get_many, things.delete_many):
                with pytest.raises(InvalidQuery):
                    await several(["a", id_])
        for given in ("ab", b"ab", None, 5):
            for several in (things.get_many, things.delete_many, things.create_many, things.upsert_many):
                with pytest.raises(InvalidQuery, match="list"):
                    await several(given)
        assert await things.count() == 2

    async def test_record_order(self, subject: Subject, make: Make) -> None:
        """By several fields in both directions; None comes first, and last when descending."""
        things = subject.repository(make)
        await things.create_many(
            [make(key=key, age=age, name=name) for key, age, name in (("a", 2, "x"), ("b", None, "y"), ("c", 1, "x"))]
        )

        async def order(*fields: str) -> str:
            return "".join(thing.key for thing in await things.list(order_by=fields, scan=True))

        assert await order() == "abc"
        assert await order("age") == "bca"
        assert await order("-age") == "acb"
        assert await order("name", "-age") == "acb"
        assert await order("-name", "age") == "bca"
        assert await order("-key") == "cba"
        first = await things.first(order_by="-age")
        assert first is not None
        assert first.key == "a"
        assert [thing.key for thing in await things.list(order_by="age", limit=2)] == ["b", "c"]
        for wrong in ("nothing", "--age", "tags", ("age", "-age"), "age; DROP", ""):
            with pytest.raises(InvalidQuery):
                await things.list(order_by=wrong)
        for limit in (0, -1, 10_001, 1.5, True, "5"):
            with pytest.raises(InvalidQuery):
                await things.list(limit=limit)

    @pytest.mark.parametrize("order", [(), ("age",), ("-age",), ("name", "-age"), ("-score", "key")], ids=str)
    async def test_record_pages(self, subject: Subject, make: Make, order: tuple[str, ...]) -> None:
        """There and back, with ties and None at every edge: each record once, in the order of the list."""
        things = subject.repository(make)
        await things.create_many(
            [
                make(key=f"{number:02}", age=(None, 1, 2)[number % 3], name="ab"[number % 2], score=float(number // 4))
                for number in range(13)
            ]
        )
        expected = [thing.key for thing in await things.list(order_by=order, scan=True)]
        for size in (1, 3, 13, 20):
            pages, cursor = [], None
            while True:
                page = await things.page(size=size, cursor=cursor, order_by=order, scan=True)
                pages.append([thing.key for thing in page.items])
                if page.next is None:
                    break
                cursor = page.next
            assert [key for keys in pages for key in keys] == expected
            back = [pages[-1]]
            while page.previous is not None:
                page = await things.page(size=size, cursor=page.previous, order_by=order, scan=True)
                back.insert(0, [thing.key for thing in page.items])
            assert [key for keys in back for key in keys] == expected
        assert [thing.key async for thing in things.iterate(order_by=order, page=4, scan=True)] == expected

    async def test_record_cursor_belongs_to_its_query(self, subject: Subject, make: Make) -> None:
        """Another query's, another tenant's, a forged and a damaged one are refused."""
        things = subject.repository(make)
        await things.create_many([make(key=str(number), age=number) for number in range(3)])
        cursor = (await things.page(size=1, age__ge=0)).next
        assert cursor is not None
        assert [thing.key for thing in (await things.page(size=1, age__ge=0, cursor=cursor)).items] == ["1"]
        other = subject.of_tenant(Subject.fresh_name()).repository(make)
        asks = [
            partial(things.page, age__ge=1),
            partial(things.page),
            partial(things.page, age__ge=0, order_by="age"),
            partial(things.with_deleted().page, age__ge=0),
            partial(other.page, age__ge=0),
        ]
        for ask in asks:
            with pytest.raises(InvalidQuery, match="cursor"):
                await ask(cursor=cursor)
        flipped = ("A" if cursor[0] != "A" else "B") + cursor[1:]
        for forged in ("", "x", cursor[:-2], flipped, cursor + "AAAA", "é", "\x00"):
            with pytest.raises(InvalidQuery, match="cursor"):
                await things.page(age__ge=0, cursor=forged)

    async def test_record_tenants_are_apart(self, subject: Subject, make: Make) -> None:
        """One id and one unique value in two tenants are two records."""
        things, others = subject.repository(make), subject.of_tenant(Subject.fresh_name()).repository(make)
        await things.create(make(key="k", name="mine", email="a@x"))
        await others.create(make(key="k", name="theirs", email="a@x"))
        assert [thing.name for thing in await things.list()] == ["mine"]
        assert await others.delete_where(key="k") == 1
        assert (await things.get("k")).name == "mine"
        assert await others.get("k") is None

    async def test_record_objects_are_copies(self, subject: Subject, make: Make) -> None:
        """What the caller does to an object afterwards stays with the caller."""
        things = subject.repository(make)
        given = make(key="k", tags=["a"])
        created = await things.create(given)
        given.tags.append("b")
        created.tags.append("c")
        assert (await things.get("k")).tags == ["a"]

    async def test_record_explain_names_the_field(self, subject: Subject, make: Make) -> None:
        """It is one line of text."""
        things = subject.repository(make)
        plan = await things.explain(price__gt=Decimal(1), order_by="price", limit=5)
        assert plan
        assert "\n" not in plan
