"""Lookups and upserts of one tick: one statement, and yet each caller has its own answer, error and deadline."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres.aio import AsyncConnection, Done
from ambidex.backends.relational.sql import Statement
from ambidex.core.runtime import deadline
from ambidex.errors import AmbidexError, Busy, DeadlineExceeded
from tests.services.proxy import Proxy


def test_a_tick_of_lookups_is_one_request(storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[int] = []
    start = AsyncConnection.start

    def counted(self: AsyncConnection, statements: Sequence[Statement], deadline: float, done: Done) -> None:
        requests.append(len(statements))
        start(self, statements, deadline, done)

    async def main() -> None:
        kv = storage.aio.kv
        await kv.set_many({f"k{number}": number for number in range(400)})
        monkeypatch.setattr(AsyncConnection, "start", counted)
        found = await asyncio.gather(*(kv.get(f"k{number % 500}") for number in range(600)))
        assert found == [number % 500 if number % 500 < 400 else None for number in range(600)]
        assert requests == [1]
        await asyncio.gather(*(kv.set(f"k{number}", 0) for number in range(400)))
        assert len(requests) == 2
        await storage.aio.close()

    asyncio.run(main())


def test_the_later_of_two_writes_of_a_tick_is_stored(storage: UnifiedStorage) -> None:
    async def main() -> None:
        kv = storage.aio.kv
        await asyncio.gather(*(kv.set("key", number) for number in range(100)), kv.set("other", 1))
        assert await kv.get("key") == 99
        await storage.aio.close()

    asyncio.run(main())


def test_ttl_and_kind_of_value_are_each_writes_own(storage: UnifiedStorage) -> None:
    async def main() -> None:
        kv = storage.aio.kv
        await asyncio.gather(
            kv.set("int", 1), kv.set("bytes", b"x", ttl=100), kv.set("none", None), kv.set("t", [1], 50)
        )
        assert await kv.get_many(["int", "bytes", "none", "t"]) == {"int": 1, "bytes": b"x", "none": None, "t": [1]}
        assert await kv.ttl("int") is None
        assert 90 < (await kv.ttl("bytes") or 0) <= 100
        assert 40 < (await kv.ttl("t") or 0) <= 50
        await storage.aio.close()

    asyncio.run(main())


def test_a_cancelled_waiter_leaves_the_others_alone(storage: UnifiedStorage) -> None:
    async def main() -> None:
        kv = storage.aio.kv
        await kv.set_many({f"k{number}": number for number in range(20)})
        reads = [asyncio.create_task(kv.get(f"k{number}")) for number in range(20)]
        writes = [asyncio.create_task(kv.set(f"w{number}", number)) for number in range(20)]
        await asyncio.sleep(0)
        for task in (*reads[::2], *writes[::2]):
            task.cancel()
        results = await asyncio.gather(*reads, *writes, return_exceptions=True)
        assert results[1:20:2] == list(range(1, 20, 2))
        assert all(isinstance(result, asyncio.CancelledError) for result in (*results[:20:2], *results[20::2]))
        for number in range(1, 20, 2):
            assert await kv.get(f"w{number}") == number
        await storage.aio.close()

    asyncio.run(main())


def test_a_locked_row_holds_up_its_own_writer_only(storage: UnifiedStorage, place: str) -> None:
    async def main() -> None:
        kv = storage.aio.kv
        await asyncio.gather(*(kv.set(f"k{number}", 0) for number in range(10)))

        async def write(number: int) -> float | AmbidexError:
            start = time.monotonic()
            try:
                with deadline(1.5):
                    await kv.set(f"k{number}", 1)
            except AmbidexError as error:
                return error
            return time.monotonic() - start

        other = UnifiedStorage(place)
        async with other.aio.transaction():
            await other.aio.kv.set("k3", 2)
            # in a context of its own: this task is in a transaction of the other storage only
            results = await asyncio.gather(*(write(number) for number in range(10)))
        assert isinstance(results[3], Busy)
        assert results[3].applied == "no"
        assert all(isinstance(seconds, float) and seconds < 1.4 for seconds in results[:3] + results[4:])
        assert await kv.get("k3") == 2
        await other.aio.close()
        await storage.aio.close()

    asyncio.run(main())


def test_a_write_behind_a_slow_batch_has_its_own_deadline(place: str, make_proxy: Callable[[str], Proxy]) -> None:
    proxy = make_proxy(place)
    storage = UnifiedStorage(proxy.url)

    async def main() -> None:
        kv = storage.aio.kv
        await kv.set("k", 0)
        proxy.freeze()
        slow = asyncio.gather(kv.set("k", 1), kv.set("k1", 1))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught, deadline(0.2):
            await kv.set("k2", 1)
        assert time.monotonic() - start < 2.0  # the batch before it waits for half a minute
        assert str(caught.value.applied) == "no"
        proxy.thaw()
        await slow
        assert await kv.get_many(["k", "k1", "k2"]) == {"k": 1, "k1": 1}
        await storage.aio.close()

    asyncio.run(main())


def test_nothing_is_coalesced_inside_a_transaction(storage: UnifiedStorage) -> None:
    async def main() -> None:
        kv = storage.aio.kv
        await kv.set("key", "before")
        outside = asyncio.Event()
        inside = asyncio.Event()

        async def look() -> object:
            await inside.wait()
            found = await asyncio.gather(*(kv.get("key") for _ in range(5)))
            outside.set()
            return found

        looking = asyncio.create_task(look())
        async with storage.aio.transaction():
            await asyncio.gather(kv.set("key", "within"), kv.set("more", 1))
            assert list(await asyncio.gather(kv.get("key"), kv.get("more"))) == ["within", 1]
            inside.set()
            await outside.wait()
        assert await looking == ["before"] * 5
        assert await kv.get("key") == "within"
        await storage.aio.close()

    asyncio.run(main())
