"""The contract of transactions: all or nothing, seen by nobody before the end; backends are tested with it.

The invariant: whatever ends a unit (an error, a base exception, an error of an inner unit that is let through), nothing
of it remains.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import RetryableError
from ambidex.testing.contract import Contract, Mode, Subject

__all__ = ["TransactionContract"]


class _Stop(Exception):
    pass


class _Interrupt(BaseException):
    pass


class TransactionContract(Contract, needs=[Capability.TRANSACTIONS, Capability.KV]):
    """``storage.transaction()``."""

    async def test_transaction_stores_everything(self, subject: Subject) -> None:
        """At its end, what was written inside is there."""
        async with subject.face.transaction():
            await subject.kv.set("a", 1)
            await subject.kv.set_many({"b": 2, "c": 3})
            await subject.kv.incr("n", 5)
        assert await subject.kv.get_many(["a", "b", "c", "n"]) == {"a": 1, "b": 2, "c": 3, "n": 5}

    async def test_transaction_that_fails_stores_nothing(self, subject: Subject) -> None:
        """Errors and base exceptions come out as they are, and every write is undone."""
        await subject.kv.set_many({"kept": 1, "deleted": 1, "counted": 1})
        for error in (_Stop("stop"), _Interrupt(), asyncio.CancelledError()):
            with pytest.raises(type(error)) as caught:
                async with subject.face.transaction():
                    await subject.kv.set("kept", 2)
                    await subject.kv.set("new", 2)
                    await subject.kv.delete("deleted")
                    await subject.kv.incr("counted")
                    raise error
            assert caught.value is error
            found = await subject.kv.get_many(["kept", "new", "deleted", "counted"])
            assert found == {"kept": 1, "deleted": 1, "counted": 1}
        await subject.kv.set("after", 1)
        assert await subject.kv.get("after") == 1

    async def test_transaction_sees_its_own_writes(self, subject: Subject) -> None:
        """By every way to read."""
        await subject.kv.set("old", 1)
        async with subject.face.transaction():
            await subject.kv.set("key", 1)
            await subject.kv.delete("old")
            assert await subject.kv.get("key") == 1
            assert await subject.kv.exists("key")
            assert await subject.kv.incr("key") == 2
            assert await subject.kv.get_many(["key", "old"]) == {"key": 2}
            assert [key async for key in subject.kv.scan()] == ["key"]
            assert not await subject.kv.add("key", 5)

    async def test_transaction_is_not_seen_before_its_end(self, subject: Subject) -> None:
        """By another task or thread."""
        await subject.kv.set("key", "before")
        async with subject.face.transaction():
            await subject.kv.set("key", "inside")
            await subject.kv.set("new", 1)
            assert await subject.elsewhere(partial(subject.kv.get, "key")) == "before"
            assert not await subject.elsewhere(partial(subject.kv.exists, "new"))
        assert await subject.elsewhere(partial(subject.kv.get, "key")) == "inside"

    async def test_transaction_inside_a_transaction(self, subject: Subject) -> None:
        """The inner one is undone alone if its error is caught, with all if it is not."""
        async with subject.face.transaction():
            await subject.kv.set("outer", 1)
            with pytest.raises(_Stop):
                async with subject.face.transaction():
                    await subject.kv.set("outer", 2)
                    await subject.kv.set("inner", 1)
                    raise _Stop
            assert await subject.kv.get_many(["outer", "inner"]) == {"outer": 1}
            async with subject.face.transaction():
                await subject.kv.set("second", 1)
                async with subject.face.transaction():
                    await subject.kv.set("third", 1)
        assert await subject.kv.get_many(["outer", "inner", "second", "third"]) == {"outer": 1, "second": 1, "third": 1}
        with pytest.raises(_Stop):
            async with subject.face.transaction():
                async with subject.face.transaction():
                    await subject.kv.set("lost", 1)
                raise _Stop
        assert not await subject.kv.exists("lost")

    async def test_transaction_of_reads_only(self, subject: Subject) -> None:
        """Works, also empty."""
        await subject.kv.set("key", 1)
        async with subject.face.transaction():
            assert await subject.kv.get("key") == 1
        async with subject.face.transaction():
            pass

    async def test_transaction_survives_a_refused_value(self, subject: Subject) -> None:
        """An error that is caught inside leaves the rest of the unit standing."""
        async with subject.face.transaction():
            await subject.kv.set("before", "text")
            with pytest.raises(ValueError, match="integer"):
                await subject.kv.incr("before")
            await subject.kv.set("after", 1)
        assert await subject.kv.get_many(["before", "after"]) == {"before": "text", "after": 1}

    async def test_transaction_loses_no_update(self, subject: Subject) -> None:
        """Read, add, write inside transactions at the same time: each counts, or says that it must be run again."""
        await subject.kv.set("n", 0)

        async def count() -> None:
            for _ in range(3):
                while True:
                    try:
                        async with subject.face.transaction():
                            number = await subject.kv.get("n")
                            await subject.sleep(0.001)
                            await subject.kv.set("n", number + 1)
                    except RetryableError:
                        await subject.sleep(0.002)
                        continue
                    break

        await subject.together([count] * 4)
        assert await subject.kv.get("n") == 12

    async def test_transaction_that_is_cancelled(self, subject: Subject) -> None:
        """A cancelled task leaves nothing, and the next unit is not held up."""
        if subject.mode is not Mode.ASYNC:
            pytest.skip("only tasks are cancelled")
        started = asyncio.Event()

        async def unit() -> None:
            async with subject.face.transaction():
                await subject.kv.set("key", "cancelled")
                started.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(unit())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await subject.kv.get("key") is None
        async with subject.face.transaction():
            await subject.kv.set("key", "next")
        assert await subject.kv.get("key") == "next"


class TransactionRoomsContract(
    Contract, needs=[Capability.TRANSACTIONS, Capability.KV, Capability.LOG, Capability.SEARCH]
):
    """Transactions over everything that one backend holds."""

    async def test_transaction_over_all_rooms(self, subject: Subject) -> None:
        """Values, streams and the index are stored or undone together."""

        async def write(name: str) -> None:
            await subject.kv.set(name, 1)
            await subject.log.append("s", name)
            await subject.index.add(name, f"word {name}")

        with pytest.raises(_Stop):
            async with subject.face.transaction():
                await write("lost")
                assert await subject.log.length("s") == 1
                assert await subject.index.count() == 1
                assert [hit.id for hit in await subject.index.search("word")] == ["lost"]
                raise _Stop
        assert not await subject.kv.exists("lost")
        assert await subject.log.length("s") == 0
        assert await subject.index.count() == 0
        async with subject.face.transaction():
            await write("kept")
        assert await subject.kv.exists("kept")
        assert [record.value for record in await subject.log.tail("s")] == ["kept"]
        assert [hit.id for hit in await subject.index.search("word")] == ["kept"]
