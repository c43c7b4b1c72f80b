"""The contract of times to live on keys; backends are tested with it.

The invariant: by the server's clock, a key whose time has passed is absent for every method, whether or not the
backend has removed it yet. The tests poll with much patience and never assert how long something took.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import InvalidQuery
from ambidex.testing.contract import Contract, Subject

__all__ = ["ExpiryContract"]

_SHORT, _LONG = 0.04, 3600.0


class ExpiryContract(Contract, needs=[Capability.KV]):
    """Times to live."""

    async def test_expiry_of_each_way_to_write(self, subject: Subject) -> None:
        """Every method that takes a ttl gives it, and the key goes by itself."""
        kv = subject.kv
        await kv.set_many({"many": 1, "replaced": 1, "touched": 1})
        await kv.set("set", 1, _SHORT)
        await kv.set("delta", 1, timedelta(milliseconds=40))
        await kv.set_many({"many": 1}, _SHORT)
        assert await kv.add("added", 1, _SHORT)
        assert await kv.replace("replaced", 1, _SHORT)
        assert await kv.compare_and_set("swapped", 1, 0, _SHORT)
        assert await kv.touch("touched", _SHORT)
        assert await kv.incr("counted", 1, _SHORT) == 1
        assert await kv.get_or_set("made", 1, _SHORT) == 1

        async def gone() -> bool:
            return [key async for key in kv.scan()] == []

        await subject.until(gone, "the expiry of every key")

    async def test_expiry_is_seen_by_every_method(self, subject: Subject) -> None:
        """Each method meets a key that has expired and that nobody has read since."""
        kv = subject.kv
        names: tuple[str, ...] = (
            "get",
            "many",
            "versioned",
            "exists",
            "ttl",
            "touch",
            "replace",
            "delete",
            "delete-many",
            "incr",
        )
        names += ("add", "swap", "swap-old", "made", "scan")
        await kv.set("swap-old", 1)
        await kv.set_many(dict.fromkeys(names, 41), _SHORT)
        await kv.set("probe", 41, _SHORT)  # after the others, which may be written by several servers: it goes last
        old = await kv.get_versioned("swap-old")
        version = 1 if old is None else old.version

        async def gone() -> bool:
            return await kv.get("probe") is None

        await subject.until(gone, "the expiry of the probe")
        assert await kv.get("get", "default") == "default"
        assert await kv.get_many(["many"]) == {}
        assert await kv.get_versioned("versioned") is None
        assert not await kv.exists("exists")
        assert await kv.ttl("ttl") is None
        assert not await kv.touch("touch", _LONG)
        assert not await kv.exists("touch"), "a touch must not bring it back"
        assert not await kv.replace("replace", 1)
        assert not await kv.delete("delete")
        assert await kv.delete_many(["delete-many"]) == 0
        assert [key async for key in kv.scan("scan")] == []
        assert await kv.incr("incr", 1) == 1
        assert await kv.ttl("incr") is None, "a new counter does not inherit the old time to live"
        assert await kv.add("add", 2)
        assert await kv.compare_and_set("swap-old", 2, version) is None
        assert await kv.compare_and_set("swap", 2, 0)
        assert await kv.get_or_set("made", 2) == 2
        assert await kv.get_many(["add", "swap", "made"]) == {"add": 2, "swap": 2, "made": 2}

    async def test_expiry_changes_the_version(self, subject: Subject) -> None:
        """A key that expired and was written again shows no earlier version."""
        first = await subject.kv.compare_and_set("key", 1, 0, _SHORT)

        async def gone() -> bool:
            return not await subject.kv.exists("key")

        await subject.until(gone, "the expiry of the key")
        await subject.kv.set("key", 1)
        entry = await subject.kv.get_versioned("key")
        assert entry is not None
        assert entry.version != first

    async def test_expiry_that_is_far_away(self, subject: Subject) -> None:
        """``ttl`` tells what is left; None for keys that stay and for keys that are not there."""
        kv = subject.kv
        await kv.set("long", 1, _LONG)
        await kv.set("delta", 1, timedelta(days=365 * 99))
        await kv.set("ever", 1)
        left, far = await kv.ttl("long"), await kv.ttl("delta")
        assert left is not None
        assert _LONG - 60 < left <= _LONG
        assert far is not None
        assert far > 98 * 365 * 24 * 3600
        assert await kv.ttl("ever") is None
        assert await kv.ttl("absent") is None

    async def test_expiry_that_is_taken_away_or_kept(self, subject: Subject) -> None:
        """A plain write ends a time to live, ``touch`` changes it, ``incr`` and a refused write keep it."""
        kv = subject.kv
        await kv.set("set", 1, _LONG)
        await kv.set("set", 2)
        assert await kv.ttl("set") is None
        await kv.set("key", 1, _LONG)
        assert not await kv.add("key", 5)
        assert await kv.incr("key", 1, 5.0) == 2
        left = await kv.ttl("key")
        assert left is not None
        assert left > 60
        assert await kv.touch("key", 2 * _LONG)
        longer = await kv.ttl("key")
        assert longer is not None
        assert longer > _LONG
        assert await kv.get("key") == 2, "touch keeps the value"
        assert await kv.touch("key")
        assert await kv.ttl("key") is None
        assert not await kv.touch("absent", _LONG)
        for method in (kv.replace, kv.set):
            await kv.touch("key", _LONG)
            await method("key", 3)
            assert await kv.ttl("key") is None

    async def test_expiry_that_cannot_be(self, subject: Subject) -> None:
        """Zero, negative, endless and non-numeric times to live are refused before any I/O."""
        await subject.kv.set("key", 1)
        bad = (
            0,
            0.0,
            -1,
            float("nan"),
            float("inf"),
            1e12,
            timedelta(0),
            timedelta(-1),
            timedelta.max,
            True,
            "soon",
            "5",
        )
        for ttl in bad:
            with pytest.raises(InvalidQuery):
                await subject.kv.set("key", 2, ttl)  # type: ignore[arg-type]
            with pytest.raises(InvalidQuery):
                await subject.kv.touch("key", ttl)  # type: ignore[arg-type]
            with pytest.raises(InvalidQuery):
                await subject.kv.incr("key", 1, ttl)  # type: ignore[arg-type]
            with pytest.raises(InvalidQuery):
                await subject.kv.add("new", 1, ttl)  # type: ignore[arg-type]
        assert await subject.kv.get("key") == 1
        assert not await subject.kv.exists("new")
