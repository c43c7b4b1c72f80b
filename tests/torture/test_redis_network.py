"""Redis behind a network that fails: cancelled callers, a frozen server, lost replies, connections killed."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio as redis_asyncio

from ambidex import UnifiedStorage, operation_id
from ambidex.errors import AmbidexError, DeadlineExceeded, OutcomeUnknown
from tests.services import Proxy, RedisServer
from tests.torture.redis_support import rounds, server_flavour, timed, timed_async

pytestmark = pytest.mark.torture


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(server_flavour()) as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.url) as running:
        yield running


@pytest.fixture
def storage(proxy: Proxy) -> Iterator[UnifiedStorage]:
    made = UnifiedStorage(proxy.url)
    yield made
    made.close()


# ---------------------------------------------------------------- cancel storm


async def storm(get: Any, tasks: int) -> tuple[int, int]:
    """Read keys that hold their own names from many tasks, most of them cancelled on the way.

    Returns the number of wrong replies and of lost cancels.
    """
    dice = random.Random(7)
    wrong = 0

    async def one(number: int) -> None:
        nonlocal wrong
        if await get(f"key-{number % 50}") != f"key-{number % 50}":
            wrong += 1

    lost = 0
    for start in range(0, tasks, 200):
        running = [asyncio.create_task(one(number)) for number in range(start, min(start + 200, tasks))]
        cancelled = []
        while pending := [task for task in running if not task.done()]:
            await asyncio.sleep(dice.random() * 0.002)
            cancelled += [task for task in dice.sample(pending, len(pending) // 2) if task.cancel()]
        await asyncio.gather(*running, return_exceptions=True)
        lost += sum(not task.cancelled() for task in cancelled)
    return wrong, lost


def test_a_cancel_storm_gives_nobody_the_wrong_reply(storage: UnifiedStorage, proxy: Proxy) -> None:
    async def main() -> None:
        kv = storage.aio.kv
        for number in range(50):
            await kv.set(f"key-{number}", f"key-{number}")
        proxy.delay(replies=0.003)
        assert await storm(kv.get, rounds(2_000, 20_000)) == (0, 0)
        assert proxy.connections == 1  # none leaked, and none given up either
        assert proxy.accepted == 1

    asyncio.run(main())


def test_control_connections_returned_by_a_finally_give_wrong_replies(proxy: Proxy) -> None:
    async def main() -> None:
        client = redis_asyncio.Redis.from_url(proxy.url, decode_responses=True, protocol=3)
        for number in range(50):
            await client.set(f"key-{number}", f"key-{number}")
        free: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(10):
            free.put_nowait(client.connection_pool.make_connection())  # type: ignore[no-untyped-call]

        async def get(key: str) -> Any:
            connection = await free.get()
            try:
                await connection.send_command("GET", key)
                return await connection.read_response(disconnect_on_error=False)  # its protection, off
            finally:
                free.put_nowait(connection)

        proxy.delay(replies=0.003)
        wrong = 0
        try:
            for _ in range(10):  # whether a storm hits the moment between two replies is a matter of chance
                wrong += (await storm(get, 1_000))[0]
                if wrong:
                    break
        finally:
            while not free.empty():
                await free.get_nowait().disconnect(nowait=True)
            await client.aclose()
        assert wrong > 0

    asyncio.run(main())


# ---------------------------------------------------------------- frozen server


def test_a_frozen_server_holds_nobody_beyond_the_deadline(server: RedisServer) -> None:
    storage = UnifiedStorage(server.url, timeout=1.0)
    storage.sync.kv.set("key", 1)

    async def main() -> list[tuple[float, Any]]:
        kv = storage.aio.kv
        await kv.get("key")
        server.pause()
        calls = [timed_async(lambda: kv.get("key")) for _ in range(20)]
        calls += [timed_async(lambda: kv.set("key", 2)) for _ in range(20)]
        return list(await asyncio.gather(*calls))

    try:
        for seconds, outcome in asyncio.run(main()):
            assert isinstance(outcome, DeadlineExceeded), outcome
            assert seconds < 1.15 + 0.35  # the margin is the machine's, not the driver's
        kv = storage.sync.kv
        for call in (lambda: kv.get("key"), lambda: kv.set("key", 3)):
            seconds, outcome = timed(call)
            assert isinstance(outcome, AmbidexError), outcome
            assert seconds < 1.15 + 0.35
    finally:
        server.resume()
    time.sleep(1.5)  # the breaker's pause
    assert storage.sync.kv.get("key") in (1, 2, 3)
    storage.close()


def test_control_a_frozen_server_holds_the_raw_driver(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    client.set("key", 1)
    server.pause()
    caller = threading.Thread(target=timed, args=(lambda: client.get("key"),), daemon=True)
    caller.start()
    caller.join(2.0)
    held = caller.is_alive()
    server.resume()
    caller.join()
    client.close()
    assert held


# ---------------------------------------------------------------- lost replies


def test_a_lost_reply_is_never_a_silent_double(storage: UnifiedStorage, server: RedisServer, proxy: Proxy) -> None:
    kv = storage.sync.kv
    kv.incr("counter", 0)
    proxy.lose_replies(None, match=b"EVALSHA", every=5)
    done = unknown = 0
    for _ in range(rounds(200, 2_000)):
        try:
            kv.incr("counter")
            done += 1
        except OutcomeUnknown:
            unknown += 1
    proxy.heal()
    assert unknown > 0
    assert kv.get("counter") == done + unknown  # each lost one was executed once, and its caller was told


def test_with_operation_ids_increments_count_exactly_once(storage: UnifiedStorage, proxy: Proxy) -> None:
    kv, count = storage.sync.kv, rounds(300, 2_000)
    kv.incr("counter", 0)
    proxy.lose_replies(None, match=b"EVALSHA", every=10)
    for number in range(count):
        with operation_id(f"sync-{number}"):
            kv.incr("counter")
    assert proxy.lost > 0
    assert kv.get("counter") == count

    async def main() -> None:
        async def one(number: int) -> None:
            with operation_id(f"async-{number}"):
                while True:
                    try:
                        await storage.aio.kv.incr("counter")
                        return
                    except OutcomeUnknown:  # the retry budget is used up: repeating by hand is as safe
                        await asyncio.sleep(0.01)

        for start in range(0, count, 20):
            await asyncio.gather(*(one(number) for number in range(start, min(start + 20, count))))
        await storage.aio.close()

    proxy.lose_replies(None, match=b"EVALSHA", every=10)
    asyncio.run(main())
    proxy.heal()
    assert storage.sync.kv.get("counter") == 2 * count


def test_control_the_raw_driver_counts_twice(proxy: Proxy) -> None:
    client = redis.Redis(*proxy.address)  # with its default of ten retries
    client.set("counter", 0)
    proxy.lose_replies(None, match=b"INCRBY", every=5)
    for _ in range(100):
        client.incr("counter")
    proxy.heal()
    assert int(client.get("counter")) > 100  # type: ignore[arg-type]
    client.close()


# ---------------------------------------------------------------- connections killed


def kill_all(server: RedisServer) -> None:
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_killed_connections_cost_no_read(server: RedisServer) -> None:
    storage = UnifiedStorage(server.url)
    kv = storage.sync.kv
    kv.set("key", 1)

    async def main() -> None:
        aio = storage.aio.kv
        await aio.get("key")
        for _ in range(rounds(5, 10)):
            kill_all(server)
            began = time.monotonic()
            assert await asyncio.gather(*(aio.get("key") for _ in range(100))) == [1] * 100
            assert time.monotonic() - began < 3.0
        await storage.aio.close()

    asyncio.run(main())
    for _ in range(rounds(5, 10)):
        kv.get("key")
        kill_all(server)
        seconds, outcome = timed(lambda: kv.get("key"))
        assert outcome == 1
        assert seconds < 1.0 + 0.5
    storage.close()


def test_control_a_connection_without_retries_fails(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url, single_connection_client=True)
    client.set("key", 1)
    failed = 0
    for _ in range(10):
        kill_all(server)
        try:
            client.get("key")
        except redis.ConnectionError:
            failed += 1
    client.close()
    assert failed > 0
