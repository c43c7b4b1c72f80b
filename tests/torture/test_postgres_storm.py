"""Cancelled tasks, crowds of callers, forks and many loops on PostgreSQL: nobody ever gets another one's reply."""

import asyncio
import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import psycopg
import psycopg_pool
import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres.aio import AsyncConnection
from ambidex.core.runtime import deadline
from ambidex.errors import AmbidexError, DeadlineExceeded, PoolTimeout
from tests.services.keeper import wait_until
from tests.services.postgres import PostgresServer
from tests.services.proxy import Proxy
from tests.torture.postgres_tools import database, descriptors, private_server, rounds

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with private_server() as server:
        yield server


class _Storm:
    """Tasks that read and write, half of which are cancelled somewhere on their way."""

    def __init__(self, storage: UnifiedStorage) -> None:
        self.kv = storage.aio.kv
        self.wrong: list[object] = []
        self.done = self.cancelled = self.lost_cancels = 0

    async def ask(self, number: int) -> None:
        name = f"k{number % 500}"
        kind = number % 4
        if kind == 0:
            found: object = await self.kv.get(name)
        elif kind == 1:
            found = (await self.kv.get_many([name])).get(name)
        elif kind == 2:
            entry = await self.kv.get_versioned(name)
            found = entry and entry.value
        else:
            await self.kv.set(f"own{number}", number)
            found, name = await self.kv.get(f"own{number}"), str(number)
        if str(found) != name:
            self.wrong.append((number, found))

    async def one(self, number: int, chance: random.Random) -> None:
        task = asyncio.create_task(self.ask(number))
        cancelled = False
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.02)
            cancelled = task.cancel()
        try:
            await task
            self.done += 1
            self.lost_cancels += cancelled
        except asyncio.CancelledError:
            self.cancelled += 1
        except Exception as error:
            self.wrong.append(error)

    async def rage(self, total: int, wave: int = 500) -> None:
        await self.kv.set_many({f"k{number}": f"k{number}" for number in range(500)})
        chance = random.Random(7)
        for start in range(0, total, wave):
            if self.wrong:
                return
            await asyncio.gather(*(self.one(number, chance) for number in range(start, start + wave)))


@pytest.mark.timeout(600)
def test_a_storm_of_cancellations_mixes_up_no_replies(
    server: PostgresServer, make_proxy: Callable[[str], Proxy]
) -> None:
    proxy = make_proxy(server.url)
    proxy.delay(requests=0.002, replies=0.002)
    storage = UnifiedStorage(proxy.url)
    storm = _Storm(storage)

    async def main() -> None:
        await storm.rage(rounds(2_000, 20_000) // 2, wave=500)
        await storm.rage(rounds(2_000, 20_000) // 2, wave=40)
        pool = database(storage).loops.get()
        await asyncio.sleep(0.3)  # what was cancelled has ended or been closed
        assert pool.open_connections == len(pool._idle) <= 10
        async with asyncio.timeout(10):  # the pool is whole: ten can be out at once
            held = [await pool.acquire(asyncio.get_running_loop().time() + 10) for _ in range(10)]
        for connection in held:
            pool.release(connection)
        await storage.aio.close()

    asyncio.run(main())
    assert storm.done + storm.cancelled == rounds(2_000, 20_000)
    assert not storm.wrong
    assert not storm.lost_cancels
    assert min(storm.cancelled, storm.done) > 100


@pytest.mark.parametrize("protected", [True, False], ids=["ambidex", "control"])
def test_the_next_caller_never_gets_a_cancelled_callers_reply(
    server: PostgresServer, make_proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """The control takes connections back from cancelled callers as if nothing were under way."""

    def give_back(connection: AsyncConnection) -> None:
        connection._end(None, None, broken=False)

    if not protected:
        monkeypatch.setattr(AsyncConnection, "_abandon_request", give_back)
    proxy = make_proxy(server.url)
    storage = UnifiedStorage(f"{proxy.url}?pool_size=1", timeout=5)

    async def main() -> dict[str, str]:
        await storage.aio.kv.set_many({"k1": "v1", "k2": "v2"})
        proxy.delay(replies=0.05)
        first = asyncio.create_task(storage.aio.kv.get_many(["k1"]))
        await asyncio.sleep(0.01)
        first.cancel()
        found: dict[str, str] = await storage.aio.kv.get_many(["k2"])
        await storage.aio.close()
        return found

    found = asyncio.run(main())
    assert (found == {"k2": "v2"}) is protected


def test_cancelled_units_leave_nothing(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)

    async def unit(number: int) -> None:
        async with storage.aio.transaction():
            await storage.aio.kv.set(f"half{number}", 1)
            await asyncio.sleep(0.002 * (number % 5))
            await storage.aio.kv.set(f"whole{number}", 1)

    async def main() -> None:
        for start in range(0, rounds(100, 2_000), 20):
            tasks = [asyncio.create_task(unit(number)) for number in range(start, start + 20)]
            await asyncio.sleep(0.004)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        half = {key.removeprefix("half") async for key in storage.aio.kv.scan("half")}
        whole = {key.removeprefix("whole") async for key in storage.aio.kv.scan("whole")}
        assert half == whole
        assert len(whole) >= 10
        pool = database(storage).loops.get()
        assert pool.open_connections == len(pool._idle)
        await storage.aio.close()

    asyncio.run(main())


@pytest.mark.timeout(300)
def test_ten_thousand_tasks_share_ten_connections(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url, timeout=60)

    async def main() -> None:
        total = rounds(2_000, 10_000)
        order: list[int] = []

        async def count(number: int) -> None:
            await storage.aio.kv.incr("crowd")
            order.append(number)

        await storage.aio.kv.set("crowd", 0)
        await asyncio.gather(*(count(number) for number in range(total)))
        assert await storage.aio.kv.get("crowd") == total
        late = max(abs(place - number) for place, number in enumerate(order))
        assert late < total // 4  # first come, first served, but for those that are out at the same time
        assert database(storage).loops.get().open_connections <= 10
        await storage.aio.close()

    asyncio.run(main())


def test_a_crowd_that_cannot_be_served_in_time_is_shed_in_time(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)

    async def main() -> None:
        await storage.aio.kv.set("shed", 0)
        await asyncio.gather(*(storage.aio.kv.incr("shed") for _ in range(200)))  # the pool learns its pace
        loop = asyncio.get_running_loop()
        start = loop.time()
        with deadline(0.5):
            results = await asyncio.gather(
                *(storage.aio.kv.incr("shed") for _ in range(10_000)), return_exceptions=True
            )
        assert loop.time() - start < 15  # most of it is this process making and ending tasks
        shed = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(result, PoolTimeout | DeadlineExceeded) for result in shed)
        unknown = sum(isinstance(result, AmbidexError) and result.applied == "unknown" for result in shed)
        served = len(results) - len(shed)
        assert served <= (await storage.aio.kv.get("shed")) - 200 <= served + unknown
        await storage.aio.close()

    asyncio.run(main())


def test_two_hundred_threads_share_ten_connections(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)
    kv = storage.sync.kv
    kv.set("threads", 0)

    def work(number: int) -> None:
        for turn in range(rounds(5, 50)):
            kv.incr("threads")
            kv.set(f"t{number}", turn)
            assert kv.get(f"t{number}") == turn

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(work, range(200)))
    assert kv.get("threads") == 200 * rounds(5, 50)
    assert database(storage).threads.open_connections <= 10
    storage.close()


def test_control_raw_pools_fail_a_crowd(server: PostgresServer) -> None:
    """asyncpg's pool takes every caller in and has no deadline for waiting; psycopg_pool's sheds nobody early."""

    async def main() -> None:
        pool = await asyncpg.create_pool(server.url, min_size=1, max_size=1)
        async with pool.acquire() as connection:
            waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
            await asyncio.sleep(1)
            assert not waiting.done()
            waiting.cancel()
            assert await connection.fetchval("SELECT 2") == 2
        await pool.close()

    asyncio.run(main())
    pool = psycopg_pool.ConnectionPool(server.url, min_size=1, max_size=1, timeout=0.5)
    with pool, pool.connection(), pytest.raises(psycopg_pool.PoolTimeout), pool.connection():
        pass  # one thread asks for two connections and finds out only when the time is over


def test_forked_children_have_connections_of_their_own(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)
    kv = storage.sync.kv
    kv.set("fork", "parent")
    asyncio.run(storage.aio.kv.get("fork"))
    for _ in range(rounds(5, 50)):
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            verdict = b"n"
            try:
                ours = kv.incr("children") > 0 and kv.get("fork") == "parent"
                theirs = asyncio.run(storage.aio.kv.get("fork")) == "parent"
                verdict = b"y" if ours and theirs else b"n"
            finally:
                os.write(writes, verdict)
                os._exit(0)
        os.close(writes)
        for _ in range(20):
            assert kv.get("fork") == "parent"
        assert os.read(reads, 1) == b"y"
        os.close(reads)
        os.waitpid(child, 0)
    assert kv.get("children") == rounds(5, 50)
    storage.close()


def test_control_a_forked_raw_connection_breaks_its_parent(server: PostgresServer) -> None:
    connection = psycopg.connect(server.url, autocommit=True)
    child = os.fork()
    if child == 0:
        try:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()


def test_a_hundred_loops_one_after_another_leak_nothing(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)

    async def main(number: int) -> None:
        await storage.aio.kv.set(f"loop{number}", number)
        assert await asyncio.gather(*(storage.aio.kv.get(f"loop{number}") for _ in range(3))) == [number] * 3

    for number in range(3):
        asyncio.run(main(number))
    before = descriptors()
    for number in range(100):
        asyncio.run(main(number))
    wait_until(lambda: gc.collect() >= 0 and descriptors() <= before, 10)  # what a loop held goes with the loop
    assert descriptors() <= before
    storage.close()


def test_control_a_raw_pool_cannot_change_its_loop(server: PostgresServer) -> None:
    async def make() -> asyncpg.Pool:
        pool = await asyncpg.create_pool(server.url, min_size=1, max_size=1)
        assert await pool.fetchval("SELECT 1") == 1
        return pool

    async def ask(pool: asyncpg.Pool) -> object:
        return await pool.fetchval("SELECT 1")

    with asyncio.Runner() as first, asyncio.Runner() as second:
        pool = first.run(make())
        with pytest.raises((RuntimeError, asyncpg.InterfaceError)):
            second.run(ask(pool))
        first.run(pool.close())


def test_eight_loops_side_by_side(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)
    errors: list[BaseException] = []

    async def main(number: int) -> None:
        async def work(task: int) -> None:
            for turn in range(rounds(10, 100)):
                await storage.aio.kv.set(f"l{number}-{task}", [number, task, turn])
                assert await storage.aio.kv.get(f"l{number}-{task}") == [number, task, turn]

        await asyncio.gather(*(work(task) for task in range(8)))

    def thread(number: int) -> None:
        try:
            asyncio.run(main(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not errors
    storage.close()
