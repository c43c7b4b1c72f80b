"""What a type checker sees of the faces and rooms; read by mypy --strict and pyright strict, never run."""

from collections.abc import Coroutine
from typing import Any, assert_type

from ambidex import AsyncStorage, SyncStorage, UnifiedStorage
from ambidex.core.forms import BlockingPageStream, PageStream
from ambidex.core.ports import Hit, IndexItem
from ambidex.stores.kv import BlockingKeyValue, KeyValue, Versioned
from ambidex.stores.log import BlockingLog, Log, Record
from ambidex.stores.outbox_admin import BlockingOutboxAdmin, LeftUnit, OutboxAdmin
from ambidex.stores.search import BlockingIndex, Index


async def asynchronous(storage: AsyncStorage) -> None:
    kv = storage.kv
    assert_type(kv, KeyValue)
    assert_type(kv.namespace("x"), KeyValue)
    assert_type(await assert_type(kv.incr("x"), Coroutine[Any, Any, int]), int)
    assert_type(await kv.get("x"), Any)
    assert_type(await kv.get_many(["x"]), dict[str, Any])
    assert_type(await kv.get_versioned("x"), Versioned | None)
    assert_type(await kv.set("x", 1, ttl=5), None)
    assert_type(await kv.add("x", 1), bool)
    assert_type(await kv.compare_and_set("x", 1, 0), int | None)
    assert_type(await kv.delete("x"), bool)
    assert_type(await kv.delete_many(["x"]), int)
    assert_type(await kv.incr("x", 2), int)
    assert_type(await kv.ttl("x"), float | None)
    assert_type(kv.scan("x"), PageStream[str])
    assert_type([key async for key in kv.scan(glob="x*")], list[str])
    assert_type(await kv.namespaces(), list[str])
    assert_type(storage.events, Log)
    assert_type(await storage.events.append("s", 1, 2), int)
    assert_type(await storage.events.tail("s"), list[Record])
    assert_type([record async for record in storage.events.iterate("s")], list[Record])
    assert_type(storage.outbox, OutboxAdmin)
    assert_type(await storage.outbox.failed(), list[LeftUnit])
    assert_type(await storage.outbox.retry("x"), None)
    assert_type(storage.index, Index)
    assert_type(await storage.index.search("x"), list[Hit])
    assert_type(await storage.index.fetch(["x"]), list[IndexItem])
    assert_type(await storage.get("x"), Any)
    assert_type(await storage.delete("x"), bool)
    assert_type(await storage.search("x", top_k=3), list[Hit])
    assert_type(await storage.health_check(), dict[str, bool])
    assert_type(storage.tenant("t"), AsyncStorage)
    async with storage.transaction() as nothing:
        assert_type(nothing, None)
    async with storage as entered:
        assert_type(entered, AsyncStorage)


def blocking(storage: SyncStorage) -> None:
    kv = storage.kv
    assert_type(kv, BlockingKeyValue)
    assert_type(kv.namespace("x"), BlockingKeyValue)
    assert_type(kv.get("x"), Any)
    assert_type(kv.get_many(["x"]), dict[str, Any])
    assert_type(kv.get_versioned("x"), Versioned | None)
    assert_type(kv.add("x", 1), bool)
    assert_type(kv.compare_and_set("x", 1, 0), int | None)
    assert_type(kv.delete("x"), bool)
    assert_type(kv.delete_many(["x"]), int)
    assert_type(kv.incr("x", 2), int)
    assert_type(kv.ttl("x"), float | None)
    assert_type(kv.scan("x"), BlockingPageStream[str])
    assert_type(list(kv.scan(glob="x*")), list[str])
    assert_type(kv.namespaces(), list[str])
    assert_type(storage.events, BlockingLog)
    assert_type(storage.events.append("s", 1, 2), int)
    assert_type(storage.events.tail("s"), list[Record])
    assert_type(list(storage.events.iterate("s")), list[Record])
    assert_type(storage.outbox, BlockingOutboxAdmin)
    assert_type(storage.outbox.waiting(5), list[LeftUnit])
    assert_type(storage.outbox.discard("x"), None)
    assert_type(storage.index, BlockingIndex)
    assert_type(storage.index.search("x"), list[Hit])
    assert_type(storage.delete("x"), bool)
    assert_type(storage.search("x", top_k=3), list[Hit])
    assert_type(storage.health_check(), dict[str, bool])
    assert_type(storage.tenant("t"), SyncStorage)
    with storage.transaction() as nothing:
        assert_type(nothing, None)
    with storage as entered:
        assert_type(entered, SyncStorage)


async def unified(storage: UnifiedStorage) -> None:
    assert_type(storage.sync, SyncStorage)
    assert_type(storage.aio, AsyncStorage)
    assert_type(storage.tenant("t"), UnifiedStorage)
    assert_type(storage.get("x"), Any)
    assert_type(storage.kv.get("x"), Any)
    assert_type(storage.kv.namespace("x").incr("n"), Any)
    with storage as sync:
        assert_type(sync, SyncStorage)
    async with storage as aio:
        assert_type(aio, AsyncStorage)


def mistakes(storage: SyncStorage) -> None:
    storage.kv.set(5, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.kv.incr("x", "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.kv.get("x", modle=int)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
