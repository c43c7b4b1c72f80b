"""The contract of key-value storage: what each method returns and changes; backends are tested with it.

The invariant: every rule holds through the public store, so a backend is judged by what its users see.
"""

from __future__ import annotations

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import InvalidKey, InvalidQuery, UnsupportedValue
from ambidex.testing.contract import Contract, Subject

__all__ = ["KeyValueContract"]

_TOP, _BOTTOM = 2**63 - 1, -(2**63)


class KeyValueContract(Contract, needs=[Capability.KV]):
    """Methods of ``storage.kv`` on live keys."""

    async def test_kv_get_of_an_absent_key(self, subject: Subject) -> None:
        """None, or the given default."""
        assert await subject.kv.get("absent") is None
        assert await subject.kv.get("absent", "default") == "default"
        await subject.kv.set("none", None)
        assert await subject.kv.get("none", "default") is None, "a stored None is a value"

    async def test_kv_set_replaces(self, subject: Subject) -> None:
        """The last value counts, whatever type the earlier one had."""
        for value in ("text", 7, b"bytes", {"a": [1]}, 8, None):
            await subject.kv.set("key", value)
            assert await subject.kv.get("key") == value

    async def test_kv_get_many(self, subject: Subject) -> None:
        """Those that exist, in the order asked, each once."""
        await subject.kv.set_many({"a": 1, "b": [2], "c": None})
        found = await subject.kv.get_many(["c", "absent", "a", "c"])
        assert found == {"c": None, "a": 1}
        assert list(found) == ["c", "a"]
        assert await subject.kv.get_many([]) == {}
        assert await subject.kv.get_many(iter(["b"])) == {"b": [2]}

    async def test_kv_set_many(self, subject: Subject) -> None:
        """Hundreds in one call; an empty call does nothing; a bad value in the middle refuses all."""
        items = {f"key-{number}": {"n": number} for number in range(500)}
        await subject.kv.set_many(items)
        assert await subject.kv.get_many(items) == items
        await subject.kv.set_many({})
        with pytest.raises(UnsupportedValue):
            await subject.kv.set_many({"new-1": 1, "new-2": float("nan"), "new-3": 3})
        assert await subject.kv.get_many(["new-1", "new-2", "new-3"]) == {}

    async def test_kv_add_and_replace(self, subject: Subject) -> None:
        """Each writes on one state of the key only."""
        assert not await subject.kv.replace("key", "early")
        assert await subject.kv.add("key", "first")
        assert not await subject.kv.add("key", "second")
        assert await subject.kv.get("key") == "first"
        assert await subject.kv.replace("key", "third")
        assert await subject.kv.get("key") == "third"

    async def test_kv_delete(self, subject: Subject) -> None:
        """True only for what existed; equal keys count once."""
        await subject.kv.set_many({"a": 1, "b": 2, "c": 3})
        assert await subject.kv.delete("a")
        assert not await subject.kv.delete("a")
        assert await subject.kv.delete_many(["a", "b", "b", "c"]) == 2
        assert await subject.kv.delete_many([]) == 0
        assert not await subject.kv.exists("b")

    async def test_kv_one_text_is_no_list_of_keys(self, subject: Subject) -> None:
        """It is refused, where its characters might be keys."""
        await subject.kv.set("a", 1)
        for several in (subject.kv.get_many, subject.kv.delete_many):
            with pytest.raises(InvalidKey, match="list"):
                await several("a")
        assert await subject.kv.exists("a")

    async def test_kv_exists(self, subject: Subject) -> None:
        """Also for values that are false."""
        assert not await subject.kv.exists("key")
        falsy: tuple[object, ...] = (None, 0, "", [], b"")
        for value in falsy:
            await subject.kv.set("key", value)
            assert await subject.kv.exists("key")

    async def test_kv_versions(self, subject: Subject) -> None:
        """A version changes with every write and does not come back after a delete."""
        assert await subject.kv.get_versioned("key") is None
        seen: set[int] = set()
        for number in range(5):
            await subject.kv.set("key", "same")
            entry = await subject.kv.get_versioned("key")
            assert entry is not None
            assert entry.value == "same"
            assert entry.version > 0
            seen.add(entry.version)
            if number % 2:
                await subject.kv.delete("key")
        assert len(seen) == 5
        await subject.kv.set("counter", 1)
        before = await subject.kv.get_versioned("counter")
        await subject.kv.incr("counter")
        after = await subject.kv.get_versioned("counter")
        assert before is not None
        assert after is not None
        assert before.version != after.version

    async def test_kv_compare_and_set(self, subject: Subject) -> None:
        """Writes only against the version in place; 0 means absent; the result is the next version."""
        assert await subject.kv.compare_and_set("key", "x", 12345) is None
        first = await subject.kv.compare_and_set("key", "one", 0)
        assert first
        assert await subject.kv.compare_and_set("key", "two", 0) is None
        second = await subject.kv.compare_and_set("key", "two", first)
        assert second
        assert second != first
        assert await subject.kv.compare_and_set("key", "three", first) is None
        entry = await subject.kv.get_versioned("key")
        assert entry == ("two", second)
        await subject.kv.delete("key")
        assert await subject.kv.compare_and_set("key", "four", second) is None, "it was deleted meanwhile"
        for bad in (-1, True, "1", 1.0, None):
            with pytest.raises(InvalidQuery):
                await subject.kv.compare_and_set("key", "x", bad)  # type: ignore[arg-type]

    async def test_kv_incr(self, subject: Subject) -> None:
        """Counts from 0, up and down, also on a value that ``set`` stored."""
        assert await subject.kv.incr("n") == 1
        assert await subject.kv.incr("n", 41) == 42
        assert await subject.kv.incr("n", -50) == -8
        assert await subject.kv.get("n") == -8
        await subject.kv.set("n", 100)
        assert await subject.kv.incr("n", 0) == 100

    async def test_kv_incr_at_the_limits(self, subject: Subject) -> None:
        """A sum outside 64 bits is refused and changes nothing; the limits themselves are exact."""
        assert await subject.kv.incr("top", _TOP) == _TOP
        assert await subject.kv.incr("bottom", _BOTTOM) == _BOTTOM
        with pytest.raises(UnsupportedValue):
            await subject.kv.incr("top")
        with pytest.raises(UnsupportedValue):
            await subject.kv.incr("bottom", -1)
        assert await subject.kv.get_many(["top", "bottom"]) == {"top": _TOP, "bottom": _BOTTOM}
        assert await subject.kv.incr("top", _BOTTOM) == -1
        for bad in (2**63, -(2**63) - 1, 1.5, "1", True, None):
            with pytest.raises(UnsupportedValue):
                await subject.kv.incr("new", bad)  # type: ignore[arg-type]
        assert not await subject.kv.exists("new")

    async def test_kv_incr_of_something_else(self, subject: Subject) -> None:
        """Only integers count; text that looks like one does not."""
        for value in ("5", 5.0, True, None, b"5", [5]):
            await subject.kv.set("key", value)
            with pytest.raises(UnsupportedValue):
                await subject.kv.incr("key")
            stored = await subject.kv.get("key")
            assert stored == value
            assert type(stored) is type(value)

    async def test_kv_get_or_set(self, subject: Subject) -> None:
        """Makes the value once, from a function or as given; what is there stays; a failing factory stores nothing."""
        calls: list[int] = []

        def factory() -> dict[str, int]:
            calls.append(1)
            return {"made": len(calls)}

        assert await subject.kv.get_or_set("key", factory) == {"made": 1}
        assert await subject.kv.get_or_set("key", factory) == {"made": 1}
        assert calls == [1]
        assert await subject.kv.get_or_set("plain", [1, 2]) == [1, 2]
        await subject.kv.set("none", None)
        assert await subject.kv.get_or_set("none", "made") is None

        def failing() -> None:
            raise LookupError("no such source")

        with pytest.raises(LookupError, match="no such source"):
            await subject.kv.get_or_set("bad", failing)
        with pytest.raises(UnsupportedValue):
            await subject.kv.get_or_set("bad", lambda: float("inf"))
        assert not await subject.kv.exists("bad")
        assert await subject.kv.get_or_set("bad", lambda: "good") == "good", "a failure does not block the key"

    async def test_kv_scan_by_prefix(self, subject: Subject) -> None:
        """Every character of a prefix is literal."""
        keys = {"a", "a:1", "a:2", "a%1", "a*", "a?b", "ab", "b", "A", "é1", "é2", ""}
        await subject.kv.set_many(dict.fromkeys(keys, 1))
        for prefix in ("", "a", "a:", "a%", "a*", "a?", "é", "zz"):
            found = [key async for key in subject.kv.scan(prefix)]
            assert sorted(found) == sorted(key for key in keys if key.startswith(prefix)), prefix

    async def test_kv_scan_by_glob(self, subject: Subject) -> None:
        """``*`` and ``?`` are wild, nothing else."""
        keys = {"user:1", "user:22", "user:", "users", "[u]ser", "us\ner", "a.b", "axb"}
        await subject.kv.set_many(dict.fromkeys(keys, 1))
        expected = {
            "*": keys,
            "user:*": {"user:1", "user:22", "user:"},
            "user:?": {"user:1"},
            "*ser*": {"user:1", "user:22", "user:", "users", "[u]ser"},
            "[u]ser": {"[u]ser"},
            "us?er": {"us\ner"},
            "a.b": {"a.b"},
            "": set(),
        }
        for glob, wanted in expected.items():
            assert {key async for key in subject.kv.scan(glob=glob)} == wanted, glob

    async def test_kv_scan_pages(self, subject: Subject) -> None:
        """The size of a page changes nothing but the number of round trips; a bad one is refused."""
        keys = [f"k{number:03}" for number in range(53)]
        await subject.kv.set_many(dict.fromkeys(keys, 1))
        for page in (1, 7, 53, 10_000):
            assert sorted([key async for key in subject.kv.scan(page=page)]) == keys
        for bad in (0, -1, 10_001, True, 1.5, None):
            with pytest.raises(InvalidQuery):
                _ = [key async for key in subject.kv.scan(page=bad)]  # type: ignore[arg-type]
        with pytest.raises(InvalidQuery):
            _ = [key async for key in subject.kv.scan("prefix", glob="glob*")]

    async def test_kv_scan_while_keys_come_and_go(self, subject: Subject) -> None:
        """A key that exists all the time comes exactly once; none comes twice."""
        stay = {f"stay-{number:03}" for number in range(60)}
        go = {f"go-{number:03}" for number in range(60)}
        await subject.kv.set_many(dict.fromkeys(stay | go, 1))
        seen: list[str] = []
        async for key in subject.kv.scan(page=10):
            seen.append(key)
            if len(seen) % 10 == 5:
                await subject.kv.delete_many(list(go)[: len(seen)])
                await subject.kv.set(f"come-{len(seen):03}", 1)
        assert len(seen) == len(set(seen))
        assert stay <= set(seen)

    async def test_kv_clear(self, subject: Subject) -> None:
        """All of one namespace, and nothing else."""
        await subject.kv.set_many({f"k{number}": number for number in range(30)})
        room = subject.kv.namespace("room")
        await room.set("kept", 1)
        assert await subject.kv.clear() == 30
        assert await subject.kv.clear() == 0
        assert await room.get("kept") == 1
