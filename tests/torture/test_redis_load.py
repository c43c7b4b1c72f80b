"""Many callers, many loops and forks over one storage object on Redis."""

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio as redis_asyncio

from ambidex import UnifiedStorage, deadline
from ambidex.errors import DeadlineExceeded, Overloaded
from tests.services import RedisServer
from tests.torture.redis_support import descriptors, rounds, server_flavour

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(server_flavour()) as running:
        yield running


@pytest.fixture
def storage(server: RedisServer) -> Iterator[UnifiedStorage]:
    made = UnifiedStorage(f"{server.url}?pool_size=10")
    yield made
    made.close()


def test_ten_thousand_tasks_are_all_served(storage: UnifiedStorage) -> None:
    async def main() -> None:
        kv = storage.aio.kv

        async def one(number: int) -> None:
            await kv.set(f"task-{number}", number)
            assert await kv.get(f"task-{number}") == number

        await asyncio.gather(*(one(number) for number in range(10_000)))
        await storage.aio.close()

    asyncio.run(main())


def test_control_the_raw_driver_refuses_them(server: RedisServer) -> None:
    async def main() -> None:
        client = redis_asyncio.Redis.from_url(server.url)
        with pytest.raises(redis.exceptions.MaxConnectionsError):
            await asyncio.gather(*(client.get(f"task-{number}") for number in range(10_000)))
        await asyncio.sleep(0.5)
        await client.aclose()

    asyncio.run(main())


def test_two_hundred_threads_share_ten_connections(storage: UnifiedStorage, server: RedisServer) -> None:
    kv = storage.sync.kv
    before = int(str(server.call("CLIENT", "LIST")).count("name=ambidex"))
    most = 0

    def one(number: int) -> None:
        nonlocal most
        for turn in range(rounds(10, 100)):
            kv.set(f"thread-{number}", turn)
            assert kv.get(f"thread-{number}") == turn

    with ThreadPoolExecutor(200) as threads:
        running = [threads.submit(one, number) for number in range(200)]
        most = str(server.call("CLIENT", "LIST")).count("name=ambidex") - before
        for call in running:
            call.result()
    assert most <= 10


def test_who_comes_late_to_a_full_pool_is_told_in_time(server: RedisServer) -> None:
    storage = UnifiedStorage(f"{server.url}?pool_size=1", timeout=5)
    kv = storage.sync.kv
    kv.set("key", 1)
    blocker = threading.Thread(target=lambda: server.call("DEBUG", "SLEEP", "1.2", timeout=5))
    blocker.start()
    time.sleep(0.1)
    outcomes: list[Any] = []

    def one() -> None:
        began = time.monotonic()
        try:
            with deadline(0.4):
                kv.get("key")
        except (DeadlineExceeded, Overloaded) as error:
            outcomes.append((time.monotonic() - began, error))

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    blocker.join()
    assert len(outcomes) == 5
    assert all(seconds < 0.4 + 0.15 + 0.35 for seconds, _ in outcomes)
    assert sum(error.applied == "no" for _, error in outcomes) >= 4  # only one of them had been sent
    assert kv.get("key") == 1
    storage.close()


# ---------------------------------------------------------------- loops and forks


def test_a_hundred_loops_one_after_another_leak_no_descriptor(storage: UnifiedStorage) -> None:
    async def main(number: int) -> None:
        await storage.aio.kv.set("loop", number)
        assert await storage.aio.kv.get("loop") == number

    for number in range(3):
        asyncio.run(main(number))
    before = descriptors()
    for number in range(100):
        asyncio.run(main(number))
    assert descriptors() <= before + 1


def test_control_the_raw_driver_is_bound_to_its_first_loop(server: RedisServer) -> None:
    async def main(client: Any) -> None:
        await client.get("key")

    clients = [redis_asyncio.Redis.from_url(server.url)]
    asyncio.run(main(clients[0]))
    with pytest.raises(RuntimeError, match="loop"):
        asyncio.run(main(clients[0]))
    with warnings.catch_warnings():  # its connections cannot be closed any more
        warnings.simplefilter("ignore", ResourceWarning)
        clients.clear()
        gc.collect()


def test_eight_loops_side_by_side(storage: UnifiedStorage) -> None:
    async def main(number: int) -> None:
        kv = storage.aio.kv
        for turn in range(rounds(30, 300)):
            keys = [f"{number}-{turn}-{place}" for place in range(20)]
            await asyncio.gather(*(kv.set(key, key) for key in keys))
            assert await asyncio.gather(*(kv.get(key) for key in keys)) == keys

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: asyncio.run(main(number)), range(8)))


def in_child(work: Any) -> int:
    """Run `work` in a forked child; 0 if it went well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_parent_and_children_never_share_a_connection(storage: UnifiedStorage) -> None:
    kv = storage.sync.kv

    def work(name: str) -> None:
        for turn in range(50):
            storage.sync.kv.set(f"fork-{name}", f"{name}-{turn}")
            assert storage.sync.kv.get(f"fork-{name}") == f"{name}-{turn}"

        async def main() -> None:
            keys = [f"{name}-{place}" for place in range(50)]
            await asyncio.gather(*(storage.aio.kv.set(key, key) for key in keys))
            assert await asyncio.gather(*(storage.aio.kv.get(key) for key in keys)) == keys

        asyncio.run(main())

    work("parent")
    before = descriptors()

    def keep_calling(stop: threading.Event) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            kv.set("busy", turn)
            assert kv.get("busy") == turn

    for number in range(rounds(5, 50)):
        stop = threading.Event()
        caller = threading.Thread(target=keep_calling, args=(stop,))
        caller.start()
        try:
            assert in_child(lambda number=number: work(f"child-{number}")) == 0
        finally:
            stop.set()
            caller.join()
    work("parent")
    assert descriptors() <= before + 2


def test_a_fork_inside_a_running_loop_leaves_the_parent_s_connection_alone(storage: UnifiedStorage) -> None:
    async def main() -> None:
        kv = storage.aio.kv
        await kv.set("key", 1)
        waiting = [asyncio.create_task(kv.get("key")) for _ in range(20)]
        await asyncio.sleep(0)
        assert in_child(lambda: None) == 0
        assert await asyncio.gather(*waiting) == [1] * 20
        assert await kv.get("key") == 1
        await storage.aio.close()

    asyncio.run(main())
