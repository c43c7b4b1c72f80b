"""The contract of records that many write at once, and that are written in units; backends that keep records pass it.

The invariant: whoever is told that a write happened finds it, and a unit that failed leaves nothing behind.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import (
    AlreadyExists,
    AmbidexError,
    Conflict,
    UnsupportedValue,
    VersionConflict,
)
from ambidex.testing.contract import Contract, Subject
from ambidex.testing.record_models import model

__all__ = ["RecordsConcurrencyContract", "RecordsTransactionContract"]

_WRITERS = 32


class RecordsConcurrencyContract(Contract, needs=[Capability.RECORDS]):
    """Many writers at once."""

    async def test_concurrent_updates_of_one_record_lose_nothing(self, subject: Subject) -> None:
        """32 writers read, add one and update until the version lets them."""
        make = model("dataclass")
        things = subject.repository(make)
        await things.create(make(key="k", age=0))

        async def add() -> None:
            while True:
                thing = await things.get("k")
                thing.age += 1
                try:
                    await things.update(thing)
                except VersionConflict:
                    continue
                return

        await subject.together([add] * 32)
        thing = await things.get("k")
        assert (thing.age, thing.version) == (32, 33)

    async def test_concurrent_upserts_make_one_record(self, subject: Subject) -> None:
        """And count every write in its version, each of which one writer was told."""
        make = model("dataclass")
        things = subject.repository(make)
        calls = [partial(things.upsert, make(key="k", age=number)) for number in range(_WRITERS)]
        stored = await subject.together(calls)
        assert sorted(thing.version for thing in stored) == list(range(1, _WRITERS + 1))
        assert await things.count() == 1
        assert await things.get("k") == next(thing for thing in stored if thing.version == _WRITERS)

    async def test_concurrent_creates_with_one_unique_value_have_one_winner(self, subject: Subject) -> None:
        """The others are told; the same for one id."""
        make = model("dataclass")
        things = subject.repository(make)

        async def create(thing: Any) -> bool:
            try:
                await things.create(thing)
            except AlreadyExists:
                return False
            return True

        by_email = [partial(create, make(email="a@x")) for _ in range(_WRITERS)]
        by_id = [partial(create, make(key="k")) for _ in range(_WRITERS)]
        assert (await subject.together(by_email)).count(True) == 1
        assert (await subject.together(by_id)).count(True) == 1
        assert await things.count() == 2
        assert await things.count(email="a@x") == 1

    async def test_concurrent_patches_to_one_unique_value_have_one_winner(self, subject: Subject) -> None:
        """Of records that exist; the others keep what they had."""
        make = model("dataclass")
        things = subject.repository(make)
        await things.create_many([make(key=f"{number:02}") for number in range(_WRITERS)])

        async def patch(key: str) -> bool:
            try:
                await things.patch(key, email="a@x")
            except AlreadyExists:
                return False
            return True

        won = await subject.together([partial(patch, f"{number:02}") for number in range(_WRITERS)])
        assert won.count(True) == 1
        assert [thing.key for thing in await things.list(email="a@x")] == [f"{won.index(True):02}"]

    async def test_concurrent_inserts_hide_nothing_from_pages(self, subject: Subject) -> None:
        """Each record that was there before is seen exactly once, with ties everywhere, in both directions."""
        make = model("dataclass")
        things = subject.repository(make)
        before = [f"{number:03}" for number in range(0, 200, 2)]
        await things.create_many([make(key=key, age=int(key) % 3) for key in before])

        async def write(first: int) -> list[str]:
            for number in range(first, 200, 4):
                await things.create(make(key=f"{number:03}", age=number % 3))
            return []

        async def read(order: str, start: str | None = None) -> list[str]:
            keys: list[str] = []
            cursor = start
            while True:
                page = await things.page(size=7, cursor=cursor, order_by=order)
                keys += [thing.key for thing in page.items]
                cursor = page.next if start is None else page.previous
                if cursor is None:
                    return keys

        await things.create(make(key="last", age=9))
        most = await things.page(size=len(before), order_by="age")
        last = await things.page(size=1, cursor=most.next, order_by="age")
        readers = [partial(read, "age"), partial(read, "-age"), partial(read, "age", last.previous)]
        results = await subject.together([partial(write, 1), partial(write, 3), *readers])
        for keys in results[2:]:
            assert len(keys) == len(set(keys))
            assert set(before) <= set(keys)


async def _conflict() -> None:
    raise Conflict("always")


class RecordsTransactionContract(Contract, needs=[Capability.RECORDS, Capability.KV, Capability.TRANSACTIONS]):
    """Repositories and key-value in one unit."""

    async def test_transaction_of_records(self, subject: Subject) -> None:
        """Seen inside, by nobody outside, undone as a whole, also with a table that it made itself."""
        make = model("dataclass")
        things = subject.repository(make)
        with pytest.raises(KeyError):
            async with subject.face.transaction():
                await things.create(make(key="lost"))
                assert await things.get("lost") is not None
                raise KeyError
        assert await things.get("lost") is None
        async with subject.face.transaction():
            await things.create(make(key="k", age=1))
            await subject.kv.set("key", 1)
            assert (await things.patch("k", age=2)).age == 2
            assert [thing.age for thing in await things.list(age=2)] == [2]
            assert await subject.elsewhere(partial(things.get, "k")) is None
        assert (await things.get("k")).age == 2
        assert await subject.kv.get("key") == 1

    async def test_transaction_that_lost_a_race_is_run_again_as_a_whole(self, subject: Subject) -> None:
        """Read, wait, write by many at once: each counts, nobody but the storage repeats."""
        make = model("dataclass")
        things = subject.repository(make)
        await things.create(make(key="k", age=0))
        runs: list[int] = []

        async def unit() -> int:
            runs.append(1)
            thing = await things.get("k")
            await subject.sleep(0.002)
            return int((await things.patch("k", age=thing.age + 1)).age)

        async def work() -> int:
            return int(await subject.face.atomically(unit, attempts=50))

        assert sorted(await subject.together([work] * 6)) == [1, 2, 3, 4, 5, 6]
        assert len(runs) >= 6
        with pytest.raises(Conflict):
            await subject.face.atomically(_conflict, attempts=2)

    async def test_transaction_goes_on_behind_a_refused_record(self, subject: Subject) -> None:
        """Whoever catches the error loses that write alone, and the rest of the unit is stored."""
        make = model("dataclass")
        things = subject.repository(make)
        await things.create_many([make(key="old", email="old@x"), make(key="mine", email="mine@x")])
        async with subject.face.transaction():
            await things.create(make(key="before"))
            for key, email in (("old", None), ("new", "old@x")):
                with pytest.raises(AlreadyExists):
                    await things.create(make(key=key, email=email))
                with pytest.raises(AlreadyExists):
                    await things.create_many([make(key="half"), make(key=key, email=email)])
                with pytest.raises(AlreadyExists):
                    await things.create_many([*(make(key=f"half-{n}") for n in range(12)), make(key=key, email=email)])
            with pytest.raises(AlreadyExists):
                await things.patch("mine", email="old@x")
            with pytest.raises(AlreadyExists):
                await things.upsert(make(key="mine", email="old@x"))
            with pytest.raises(AlreadyExists):
                await things.upsert_many([make(key="half"), make(key="mine", email="old@x")])
            await subject.kv.set("text", "a")
            with pytest.raises(UnsupportedValue):
                await subject.kv.incr("text")
            assert await things.get("half") is None
            await things.create(make(key="behind"))
        assert [thing.key for thing in await things.list()] == ["before", "behind", "mine", "old"]
        assert (await things.get("mine")).email == "mine@x"
        assert await subject.kv.get("text") == "a"

    async def test_transaction_of_records_with_a_savepoint(self, subject: Subject) -> None:
        """A refused record inside an inner unit leaves the outer one standing."""
        make = model("dataclass")
        things = subject.repository(make)
        async with subject.face.transaction():
            await things.create(make(key="a", email="a@x"))
            with pytest.raises(AmbidexError):
                async with subject.face.transaction():
                    await things.create(make(key="b"))
                    await things.create(make(key="c", email="a@x"))
        assert [thing.key for thing in await things.list()] == ["a"]
