"""The contract of records whose id is a number that the storage gives; backends that keep records pass it.

The invariant: whoever creates a record without an id gets one that nobody had, in all five libraries, and however many
do so at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Optional

import msgspec
import pytest

from ambidex.core.ports import Capability
from ambidex.core.spec import Unique
from ambidex.errors import AlreadyExists, UnsupportedValue
from ambidex.testing.contract import Contract, Subject
from ambidex.testing.record_models import KINDS, model

__all__ = ["RecordNumbersContract", "RecordNumbersInTransactionsContract"]

Make = Callable[..., Any]
_TABLE = "contract_numbered"
_NAME = Annotated[str, Unique()]
_LAST = 2**53 - 1


@functools.cache
def numbered(kind: str) -> Any:
    """Return a model of a library whose id is an int that may be None."""
    made: Any
    space: dict[str, Any] = {"__tablename__": _TABLE, "__module__": __name__}
    if kind == "dataclass":
        fields: list[Any] = [("name", _NAME), ("id", int | None, dataclasses.field(default=None))]
        return dataclasses.make_dataclass("Numbered", fields, namespace=space)
    if kind == "msgspec":
        return msgspec.defstruct("Numbered", [("name", _NAME), ("id", int | None, None)], namespace=space)
    if kind == "attrs":
        import attrs

        kind_of_id: Any = int | None
        made = attrs.make_class(
            "Numbered", {"name": attrs.field(type=_NAME), "id": attrs.field(default=None, type=kind_of_id)}
        )
    elif kind == "pydantic":
        import pydantic

        made = pydantic.create_model("Numbered", name=(_NAME, ...), id=(int | None, None))
    else:
        import sqlmodel

        space |= {"id": sqlmodel.Field(default=None, primary_key=True)}
        space["__annotations__"] = {"name": _NAME, "id": Optional[int]}  # noqa: UP045  # as SQLModel's users write it
        metaclass: Any = type(sqlmodel.SQLModel)
        return metaclass("Numbered", (sqlmodel.SQLModel,), space)
    made.__tablename__ = _TABLE
    return made


class RecordNumbersContract(Contract, needs=[Capability.RECORDS]):
    """Outside of transactions."""

    @pytest.fixture(params=KINDS)
    def item(self, request: pytest.FixtureRequest) -> Make:
        """The model class of a library."""
        return numbered(request.param)  # type: ignore[no-any-return]

    async def test_numbers_are_given_in_order(self, subject: Subject, item: Make) -> None:
        """By every call that may store something new; the object that was passed stays without one."""
        things = subject.repository(item)
        given = item(name="a")
        first = await things.create(given)
        assert (given.id, type(first.id)) == (None, int)
        second = await things.upsert(item(name="b"))
        many = await things.create_many([item(name=name) for name in "cde"])
        more = await things.upsert_many([item(name=name) for name in "fg"])
        made = [first, second, *many, *more]
        assert [thing.id for thing in made] == list(range(first.id, first.id + 7))
        assert first.id >= 1
        assert await things.list() == made
        assert (await things.get(second.id)).name == "b"
        assert (await things.update(item(name="B", id=second.id))).id == second.id
        with pytest.raises(UnsupportedValue, match="id is None"):
            await things.update(item(name="x"))

    async def test_numbers_pass_over_ids_that_the_application_gives(self, subject: Subject, item: Make) -> None:
        """Before, between and after, also in one call, and also where these are below zero."""
        things = subject.repository(item)
        await things.create(item(name="below", id=-5))
        start = (await things.create(item(name="a"))).id
        assert start >= 1
        await things.create(item(name="high", id=start + 100))
        assert (await things.create(item(name="b"))).id == start + 101
        near = start + 103
        mixed = [item(name="c"), item(name="near", id=near), item(name="d"), item(name="e")]
        assert [thing.id for thing in await things.create_many(mixed)] == [start + 102, near, start + 104, start + 105]

    async def test_numbers_are_not_given_again(self, subject: Subject, item: Make) -> None:
        """Neither those of deleted records nor those of records that were refused."""
        things = subject.repository(item)
        first = await things.create(item(name="a"))
        await things.delete(first.id)
        second = await things.create(item(name="b"))
        assert second.id > first.id
        with pytest.raises(AlreadyExists, match="name 'b'"):
            await things.create(item(name="b"))
        assert (await things.create(item(name="c"))).id > second.id

    async def test_numbers_come_to_an_end(self, subject: Subject) -> None:
        """Refused with the remedy; what has an id is stored as ever."""
        fields: list[Any] = [("name", str), ("id", int | None, dataclasses.field(default=None))]
        table = {"__tablename__": f"contract_{subject.fresh_name()[2:]}", "__module__": __name__}
        item = dataclasses.make_dataclass("Last", fields, namespace=table)
        things = subject.repository(item)
        await things.create(item(name="last but one", id=_LAST - 1))
        with pytest.raises(UnsupportedValue, match=r"numbers left, not 2; give new records an id"):
            await things.create_many([item(name="a"), item(name="b")])
        assert (await things.create(item(name="last"))).id == _LAST
        with pytest.raises(UnsupportedValue, match=r"0 numbers left"):
            await things.create(item(name="c"))
        assert (await things.create(item(name="d", id=_LAST + 7))).id == _LAST + 7
        with pytest.raises(UnsupportedValue, match=r"0 numbers left"):
            await things.upsert(item(name="e"))
        assert await things.count() == 3

    async def test_numbers_of_records_that_are_created_at_once_differ(self, subject: Subject) -> None:
        """Also where some of them find ids in the way."""
        make = numbered("dataclass")
        things = subject.repository(make)

        async def create(name: str) -> list[int]:
            if name.endswith("0"):
                return [thing.id for thing in await things.create_many([make(f"{name}-{n}") for n in range(15)])]
            return [(await things.create(make(name))).id]

        await things.create(make("in the way", 10))
        made = await subject.together([partial(create, f"n{number:02}") for number in range(32)])
        ids = [id_ for part in made for id_ in part]
        assert len(set(ids)) == len(ids) == 28 + 4 * 15
        assert min(ids) > 10
        assert await things.count() == len(ids) + 1


class RecordNumbersInTransactionsContract(Contract, needs=[Capability.RECORDS, Capability.KV, Capability.TRANSACTIONS]):
    """In units of work."""

    async def test_numbers_in_a_transaction(self, subject: Subject) -> None:
        """One that is undone leaves no record, and what follows it gets numbers as before."""
        make = numbered("dataclass")
        things = subject.repository(make)
        with pytest.raises(KeyError):
            async with subject.face.transaction():
                await things.create(make("lost"))
                raise KeyError
        async with subject.face.transaction():
            first = await things.create(make("a"))
            await things.create(make("high", first.id + 50))
            both = await things.create_many([make("b"), make("c")])
            await subject.kv.set("first", first.id)
        assert [thing.id - first.id for thing in both] == [51, 52]
        assert [thing.name for thing in await things.list()] == ["a", "high", "b", "c"]

    async def test_numbers_in_a_transaction_beside_another_model(self, subject: Subject) -> None:
        """What is created belongs together, whichever way its id is made."""
        things, others = subject.repository(numbered("dataclass")), subject.repository(model("dataclass"))
        async with subject.face.transaction():
            thing = await things.create(numbered("dataclass")("a"))
            other = await others.create(model("dataclass")(name="a", age=thing.id))
        assert (await others.get(other.key)).age == thing.id
