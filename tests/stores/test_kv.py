"""What the key-value store does by itself, whatever backend is behind it; the contract covers the rest."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage, deadline
from ambidex.errors import DeadlineExceeded, InvalidKey, InvalidQuery, Unavailable
from ambidex.stores.kv import BlockingKeyValue, KeyValue, ttl_to_ms


@pytest.mark.parametrize(
    ("ttl", "milliseconds"),
    [(None, None), (1, 1000), (0.5, 500), (0.0001, 1), (timedelta(minutes=1), 60_000), (timedelta(microseconds=1), 1)],
)
def test_times_to_live(ttl: Any, milliseconds: int | None) -> None:
    assert ttl_to_ms(ttl) == milliseconds


@pytest.mark.parametrize(
    "ttl", [0, -1, float("nan"), float("inf"), timedelta(0), timedelta(-1), 1e11, True, "x", [], 10**400]
)
def test_bad_times_to_live(ttl: Any) -> None:
    with pytest.raises(InvalidQuery, match="time to live"):
        ttl_to_ms(ttl)


def test_namespaces_keep_the_class_and_the_mode() -> None:
    storage = UnifiedStorage("memory://")
    room = storage.sync.kv.namespace("room")
    assert type(room) is BlockingKeyValue
    assert type(storage.aio.kv.namespace("room")) is KeyValue
    room.set("key", 1)
    assert room.namespace("inner").get("key") is None
    assert repr(room) == "BlockingKeyValue(namespace='room')"
    assert "tenant='t'" in repr(storage.tenant("t").sync.kv)


def test_a_subclass_keeps_its_class_through_namespaces() -> None:
    class Counters(BlockingKeyValue):
        def twice(self, key: str) -> int:
            return self.incr(key, 2)

    storage = UnifiedStorage("memory://")
    counters = Counters(storage.sync.kv._scope)
    assert counters.namespace("room").twice("n") == 2


def test_a_coroutine_factory_works_in_blocking_mode() -> None:
    async def factory() -> int:
        return await asyncio.to_thread(lambda: 5)

    assert UnifiedStorage("memory://").sync.kv.get_or_set("key", factory) == 5


def test_the_size_limit_of_the_settings_counts() -> None:
    storage = UnifiedStorage("memory://", max_value_bytes=100)
    with pytest.raises(ValueError, match="the limit is 100"):
        storage.sync.kv.set("key", "x" * 101)
    with pytest.raises(ValueError, match="the limit is 100"):
        storage.sync.events.append("s", "x" * 101)


def test_clear_passes_over_many_pages_of_keys() -> None:
    storage = UnifiedStorage("memory://")
    room = storage.sync.kv.namespace("room")
    room.set_many({f"key {number}": number for number in range(20_001)})
    room.namespace("inner").set("key", 1)
    assert room.clear() == 20_001
    assert list(room.scan()) == []
    assert storage.sync.kv.namespaces() == ["room"]


def test_many_keys_are_written_as_one_key_is() -> None:
    kv = UnifiedStorage("memory://").sync.kv
    names = [f"{text} {number}" for text in ("plain", "a:b:c", "größe", "%3A", "a/b:c") for number in range(50)]
    kv.set_many({name: name for name in names})
    assert all(kv.get(name) == name for name in names)
    assert kv.get_many(names) == {name: name for name in names}
    refused: list[Any] = ["nul\x00", "\ud800", "x" * 2001, 7]
    for bad in refused:
        with pytest.raises(InvalidKey):
            kv.set_many(dict.fromkeys([*names, bad], 1))
        with pytest.raises(InvalidKey):
            kv.delete_many([*names, bad])
    assert kv.delete_many(names) == len(names)


def test_a_value_made_between_the_look_and_the_making_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = UnifiedStorage("memory://").sync.kv
    port = kv._port
    get = port.get

    async def late(key: str) -> Any:
        monkeypatch.setattr(port, "get", get)
        found = await get(key)
        kv.set("key", "made by another")
        return found

    monkeypatch.setattr(port, "get", late)
    assert kv.get_or_set("key", pytest.fail) == "made by another"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_time_that_a_factory_takes_is_the_callers_own(tmp_path: Path, mode: str) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/a.db?durability=relaxed", timeout=1.0)

    def factory() -> str:
        time.sleep(1.2)
        storage.sync.kv.set("inner", 1)  # a call of its own, with a deadline of its own
        return "made"

    async def aio() -> Any:
        try:
            return await storage.aio.kv.get_or_set("key", lambda: asyncio.to_thread(factory))
        finally:
            await storage.aio.close()

    assert (storage.sync.kv.get_or_set("key", factory) if mode == "sync" else asyncio.run(aio())) == "made"
    assert storage.sync.kv.get_many(["key", "inner"]) == {"key": "made", "inner": 1}
    with deadline(0.5), pytest.raises(DeadlineExceeded):  # one that the caller has set counts everything
        storage.sync.kv.get_or_set("other", factory)
    storage.close()


@pytest.mark.parametrize(("fails_at", "applied", "left"), [(1, "no", 6), (2, "unknown", 4)])
def test_clearing_that_fails_midway_does_not_say_that_nothing_was_deleted(
    monkeypatch: pytest.MonkeyPatch, fails_at: int, applied: str, left: int
) -> None:
    kv: Any = UnifiedStorage("memory://").sync.kv
    monkeypatch.setattr("ambidex.stores.kv._MAX_PAGE", 2)
    original, calls = kv._port.delete_many, 0

    async def failing(keys: list[str]) -> int:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise Unavailable("away")
        return int(await original(keys))

    monkeypatch.setattr(kv._port, "delete_many", failing, raising=False)
    kv.set_many(dict.fromkeys("abcdef", 1))
    with pytest.raises(Unavailable) as caught:
        kv.clear()
    assert caught.value.applied == applied
    assert kv.clear() == left
