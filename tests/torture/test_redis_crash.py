"""Redis servers that are killed: what was acknowledged is there again, and calls work again soon."""

import asyncio
import threading
import time
from typing import Any, Self

import pytest
import redis

from ambidex import UnifiedStorage
from ambidex.errors import AmbidexError
from tests.services import RedisCluster, RedisSentinel, RedisServer
from tests.torture.redis_support import rounds, server_flavour
from tests.torture.servers import DURABLE

pytestmark = pytest.mark.torture


class Writers:
    """Threads that count upwards, each under its own key, noting what was acknowledged."""

    def __init__(self, storage: UnifiedStorage, count: int) -> None:
        self.acknowledged = [0] * count
        self.strange: list[BaseException] = []
        self._stop = threading.Event()
        self._storage = storage
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        value = 0
        while not self._stop.is_set():
            value += 1
            try:
                self._storage.sync.kv.set(f"writer-{number}", value)
                self.acknowledged[number] = value
            except AmbidexError:
                time.sleep(0.01)
            except BaseException as error:
                self.strange.append(error)
                return


def works_again(call: Any, seconds: float) -> float:
    """Seconds until a call succeeds; fails after `seconds`."""
    began = time.monotonic()
    while True:
        try:
            call()
        except AmbidexError as error:
            if time.monotonic() - began > seconds:
                raise AssertionError(f"not working {seconds} s after the server's return") from error
            time.sleep(0.02)
        else:
            return time.monotonic() - began


def test_no_acknowledged_write_is_lost_by_kill_9() -> None:
    with RedisServer(server_flavour(), options=DURABLE) as server:
        storage = UnifiedStorage(server.url)
        for _ in range(rounds(2, 10)):
            with Writers(storage, 8) as writers:
                time.sleep(0.4)
                server.kill()
                time.sleep(0.3)
                server.start()
                assert works_again(lambda: storage.sync.kv.set("again", 1), 4.0) < 2.0 + 0.5
                time.sleep(0.2)
            assert not writers.strange
            for number, value in enumerate(writers.acknowledged):
                assert value > 0
                found = storage.sync.kv.get(f"writer-{number}")
                assert found is not None
                assert found >= value
        storage.close()


def test_control_relaxed_settings_lose_them() -> None:
    with RedisServer(server_flavour()) as server:
        storage = UnifiedStorage(server.url, durability="relaxed")
        storage.sync.kv.set("key", 1)
        server.kill()
        server.start()
        works_again(lambda: storage.sync.kv.set("again", 1), 4.0)
        assert storage.sync.kv.get("key") is None
        storage.close()


def test_tasks_go_on_after_a_restart() -> None:
    with RedisServer(server_flavour(), options=DURABLE) as server:
        storage = UnifiedStorage(server.url)

        async def main() -> None:
            kv = storage.aio.kv
            await kv.set("key", 1)
            server.kill()
            outcomes = await asyncio.gather(*(kv.get("key") for _ in range(100)), return_exceptions=True)
            assert all(isinstance(outcome, AmbidexError) for outcome in outcomes)
            await asyncio.get_running_loop().run_in_executor(None, server.start)
            began = time.monotonic()
            while True:
                try:
                    assert await kv.get("key") == 1
                    break
                except AmbidexError:
                    assert time.monotonic() - began < 2.5
                    await asyncio.sleep(0.02)
            await storage.aio.close()

        asyncio.run(main())


def test_a_cluster_goes_on_after_its_master_was_killed() -> None:
    with RedisCluster(server_flavour()) as cluster:
        storage = UnifiedStorage(cluster.url)
        kv = storage.sync.kv
        keys = [f"key-{number}" for number in range(60)]
        kv.set_many(dict.fromkeys(keys, 0))
        for node in cluster.nodes[:3]:
            node.wait_replicated()
        victim = cluster.master_of("ambidex:k:kv:::key-0")
        raw = redis.Redis.from_url(victim.url)
        victim.kill()
        kinds: set[type] = set()
        began = time.monotonic()
        while time.monotonic() - began < 30:
            try:
                for key in keys:
                    kv.set(key, 1)
                break
            except AmbidexError as error:
                kinds.add(type(error))
                time.sleep(0.1)
        assert kinds, "the election was not noticed"
        assert all(issubclass(kind, AmbidexError) for kind in kinds)
        works_again(lambda: kv.set_many(dict.fromkeys(keys, 2)), 5.0)
        assert kv.get_many(keys) == dict.fromkeys(keys, 2)

        async def main() -> None:
            assert await storage.aio.kv.get_many(keys) == dict.fromkeys(keys, 2)
            await storage.aio.close()

        asyncio.run(main())
        with pytest.raises(redis.exceptions.ConnectionError):  # control: one who does not follow stays outside
            raw.get("key")
        raw.close()


def test_behind_sentinels_the_new_master_is_found() -> None:
    with RedisSentinel(server_flavour()) as group:
        storage = UnifiedStorage(group.url)
        kv = storage.sync.kv
        kv.set("key", 1)
        old = group.master()
        old.wait_replicated()
        raw = redis.Redis.from_url(old.url)
        old.kill()
        works_again(lambda: kv.set("key", 2), 20.0)
        assert kv.get("key") == 2

        async def main() -> None:
            assert await storage.aio.kv.get("key") == 2
            await storage.aio.close()

        asyncio.run(main())
        with pytest.raises(redis.exceptions.ConnectionError):  # control
            raw.get("key")
        raw.close()
