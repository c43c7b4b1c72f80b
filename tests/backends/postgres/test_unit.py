"""Transactions on PostgreSQL beyond the contract: their limits, their ends, and what becomes of them in a fault."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres.aio import AsyncConnection
from ambidex.core.dual import drive
from ambidex.errors import (
    Closed,
    Conflict,
    LeaseLost,
    NestedCheckout,
    OutcomeUnknown,
    Unavailable,
    UnsupportedValue,
)
from tests.services.proxy import Proxy


def test_the_other_mode_is_refused_at_once_inside_a_unit(storage: UnifiedStorage) -> None:
    async def main() -> None:
        async with storage.aio.transaction():
            await storage.aio.kv.set("key", 1)
            with pytest.raises(NestedCheckout):
                await asyncio.to_thread(storage.sync.kv.get, "key")  # the thread is inside the unit, too
        await storage.aio.close()

    asyncio.run(main())
    with storage.sync.transaction(), pytest.raises(NestedCheckout):
        asyncio.run(storage.aio.kv.get("key"))


def test_a_task_that_outlives_its_unit_is_told(storage: UnifiedStorage) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def late() -> None:
            await go.wait()
            await storage.aio.kv.set("late", 1)

        async with storage.aio.transaction():
            task = asyncio.create_task(late())
        go.set()
        with pytest.raises(Closed):
            await task
        assert await storage.aio.kv.get("late") is None
        await storage.aio.close()

    asyncio.run(main())


def test_a_unit_cancelled_as_its_first_reply_arrives_is_undone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply is there, its task has not seen it yet: the connection must not go back with the unit open."""
    storage = UnifiedStorage(f"{place}&pool_size=1")
    end = AsyncConnection._end

    async def main() -> None:
        await storage.aio.kv.set("key", 1)
        entered = asyncio.Event()

        async def unit() -> None:
            async with storage.aio.transaction():
                entered.set()
                await storage.aio.kv.set("half", 1)
                await storage.aio.kv.set("whole", 1)

        def ended(self: AsyncConnection, *args: Any, **kwargs: Any) -> None:
            end(self, *args, **kwargs)
            monkeypatch.undo()
            task.cancel()

        task = asyncio.create_task(unit())
        await entered.wait()
        monkeypatch.setattr(AsyncConnection, "_end", ended)
        with pytest.raises(asyncio.CancelledError):
            await task
        async with storage.aio.transaction():
            await storage.aio.kv.set("next", 1)
        assert await storage.aio.kv.get_many(["half", "whole", "next"]) == {"next": 1}
        await storage.aio.close()

    asyncio.run(main())


def test_a_refused_argument_does_not_end_a_unit(storage: UnifiedStorage) -> None:
    leaf: Any = storage._core.every_backend()[0].blocking
    leaf = getattr(leaf, "_leaf", leaf)
    with pytest.raises(ZeroDivisionError), storage.sync.transaction():
        with pytest.raises(UnsupportedValue):
            drive(leaf.row("SELECT ?", ("a\x00b",)))  # nothing was sent, BEGIN neither
        storage.sync.kv.set("key", 1)
        raise ZeroDivisionError
    assert storage.sync.kv.get("key") is None


def test_threads_and_tasks_inside_a_unit_take_turns(storage: UnifiedStorage) -> None:
    async def main() -> None:
        async with storage.aio.transaction():
            await asyncio.gather(*(storage.aio.kv.incr("n") for _ in range(50)))
        assert await storage.aio.kv.get("n") == 50
        await storage.aio.close()

    asyncio.run(main())
    with storage.sync.transaction():
        contexts = [contextvars.copy_context() for _ in range(8)]
        threads = [threading.Thread(target=context.run, args=(storage.sync.kv.incr, "n")) for context in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert storage.sync.kv.get("n") == 58


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_unit_that_lasts_too_long_is_undone(place: str, mode: str) -> None:
    storage = UnifiedStorage(place, lease_timeout=0.3)
    storage.sync.kv.set("key", 1)

    async def slow() -> None:
        async with storage.aio.transaction():
            await storage.aio.kv.set("key", 2)
            await asyncio.sleep(0.5)
            held_up = time.monotonic()
            await asyncio.create_task(_outside(storage), context=contextvars.Context())
            assert time.monotonic() - held_up < 5  # its lock has gone with it
            await storage.aio.kv.set("key", 3)

    with pytest.raises(LeaseLost):
        if mode == "async":
            asyncio.run(slow())
        else:
            with storage.sync.transaction():
                storage.sync.kv.set("key", 2)
                time.sleep(0.5)
                storage.sync.kv.set("key", 3)
    assert storage.sync.kv.get("key") == (4 if mode == "async" else 1)
    storage.close()


async def _outside(storage: UnifiedStorage) -> None:
    await storage.aio.kv.set("key", 4)


def test_a_unit_that_only_waits_for_its_commit_too_long_is_undone(place: str) -> None:
    storage = UnifiedStorage(place, lease_timeout=0.2)
    with pytest.raises(LeaseLost), storage.sync.transaction():
        storage.sync.kv.set("key", 2)
        time.sleep(0.4)
    assert storage.sync.kv.get("key") is None
    storage.close()


def test_who_loses_a_race_gets_conflict_and_leaves_nothing(storage: UnifiedStorage, place: str) -> None:
    kv = storage.sync.kv
    kv.set("key", 1)
    other = UnifiedStorage(place)
    with pytest.raises(Conflict) as caught, storage.sync.transaction():
        seen = kv.get("key")
        other.sync.kv.set("key", 10)
        kv.set("trace", 1)
        kv.set("key", seen + 1)
    assert caught.value.retryable
    assert (kv.get("key"), kv.get("trace")) == (10, None)
    other.close()


def test_an_error_that_was_caught_inside_does_not_commit_half(storage: UnifiedStorage, place: str) -> None:
    kv = storage.sync.kv
    kv.set("key", 1)
    other = UnifiedStorage(place)
    with pytest.raises(Conflict), storage.sync.transaction():
        kv.set("half", 1)
        other.sync.kv.set("key", 2)
        with pytest.raises(Conflict):
            kv.set("key", 3)
    assert (kv.get("key"), kv.get("half")) == (2, None)
    other.close()


def test_a_savepoint_undoes_a_refused_statement(storage: UnifiedStorage, place: str) -> None:
    kv = storage.sync.kv
    kv.set("key", 1)
    other = UnifiedStorage(place)
    with storage.sync.transaction():
        kv.set("outer", 1)
        other.sync.kv.set("key", 2)
        with pytest.raises(Conflict), storage.sync.transaction():
            kv.set("key", 3)
        kv.set("outer", 2)
    assert (kv.get("key"), kv.get("outer")) == (2, 2)
    other.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_lost_commit_is_reported_as_unknown(place: str, make_proxy: Callable[[str], Proxy], mode: str) -> None:
    proxy = make_proxy(place)
    storage = UnifiedStorage(proxy.url)
    storage.sync.kv.set("key", 1)

    async def unit() -> None:
        async with storage.aio.transaction():
            await storage.aio.kv.set("key", 2)
            proxy.lose_replies(match=b"COMMIT")

    with pytest.raises(OutcomeUnknown) as caught:
        if mode == "async":
            asyncio.run(unit())
        else:
            with storage.sync.transaction():
                storage.sync.kv.set("key", 2)
                proxy.lose_replies(match=b"COMMIT")
    assert caught.value.applied == "unknown"
    assert storage.sync.kv.get("key") == 2  # the server had executed it
    storage.close()


def test_a_connection_lost_in_a_unit_means_nothing_was_stored(storage: UnifiedStorage, place: str) -> None:
    kv = storage.sync.kv
    with pytest.raises(Unavailable) as caught, storage.sync.transaction():
        kv.set("key", 1)
        with psycopg.connect(place.split("?", maxsplit=1)[0], autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
        kv.set("key", 2)
    assert caught.value.applied == "no"
    assert kv.get("key") is None
