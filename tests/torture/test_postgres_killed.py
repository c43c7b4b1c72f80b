"""PostgreSQL backends and servers that die: readers notice nothing, no acknowledged write is lost."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator

import psycopg
import psycopg_pool
import pytest

from ambidex import UnifiedStorage
from ambidex.errors import AmbidexError, OutcomeUnknown, Unavailable
from tests.services.postgres import PostgresServer
from tests.torture.postgres_tools import database, private_server, rounds, terminate_all

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with private_server() as server:
        yield server


def test_blocking_reads_survive_killed_backends(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)
    storage.sync.kv.set("key", "value")
    stop, errors, counts = threading.Event(), [], itertools.count()

    def read() -> None:
        while not stop.is_set():
            try:
                assert storage.sync.kv.get("key") == "value"
                next(counts)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    killed = 0
    for _ in range(rounds(5, 50)):
        time.sleep(0.1)
        killed += terminate_all(server.url)
    stop.set()
    for thread in threads:
        thread.join()
    assert killed > 5
    assert next(counts) > 100
    assert not errors
    storage.close()


def test_asynchronous_reads_survive_killed_backends(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)

    async def main() -> None:
        await storage.aio.kv.set("key", "value")
        ending = time.monotonic() + rounds(5, 50) * 0.1

        async def read() -> int:
            reads = 0
            while time.monotonic() < ending:
                assert await storage.aio.kv.get("key") == "value"
                assert await storage.aio.kv.get_many(["key"]) == {"key": "value"}
                reads += 1
            return reads

        async def kill() -> int:
            killed = 0
            while time.monotonic() < ending:
                await asyncio.sleep(0.1)
                killed += await asyncio.to_thread(terminate_all, server.url)
            return killed

        *reads, killed = await asyncio.gather(*(read() for _ in range(32)), kill())
        assert min(reads) > 0
        assert killed > 0
        await storage.aio.close()

    asyncio.run(main())


def test_the_first_call_after_all_are_killed_is_quick(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url)

    async def fill() -> None:
        await asyncio.gather(*(storage.aio.kv.incr(f"n{number}") for number in range(20)))
        terminate_all(server.url)
        start = time.monotonic()
        assert await storage.aio.kv.get("n1") == 1
        assert time.monotonic() - start < 3
        terminate_all(server.url)
        await asyncio.sleep(0.05)  # the loop hears that they have gone
        assert await storage.aio.kv.incr("n1") == 2  # so that even a write is not sent into the void
        await storage.aio.close()

    asyncio.run(fill())
    storage.sync.kv.set("key", 1)
    terminate_all(server.url)
    start = time.monotonic()
    assert storage.sync.kv.get("key") == 1
    assert time.monotonic() - start < 3
    terminate_all(server.url)
    assert storage.sync.kv.incr("key") == 2  # a closed connection is seen before anything is sent on it
    storage.close()


def test_control_a_raw_pool_hands_out_dead_connections(server: PostgresServer) -> None:
    with psycopg_pool.ConnectionPool(server.url, min_size=2, max_size=2, kwargs={"autocommit": True}) as pool:
        pool.wait()
        terminate_all(server.url)
        with pytest.raises(psycopg.OperationalError), pool.connection() as connection:
            connection.execute("SELECT 1")


@pytest.mark.timeout(300)
def test_no_acknowledged_write_is_lost_when_the_server_is_killed(server: PostgresServer) -> None:
    storage = UnifiedStorage(server.url, timeout=5)
    storage.sync.kv.set("warm", 1)
    stop = threading.Event()
    acknowledged: list[set[int]] = [set() for _ in range(8)]
    wrong: list[BaseException] = []

    def write(writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                storage.sync.kv.set(f"w{writer}-{number}", number)
                acknowledged[writer].add(number)
            except (Unavailable, OutcomeUnknown):
                time.sleep(0.01)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(rounds(2, 10)):
        time.sleep(0.5)
        server.kill()
        server.start()
        back = time.monotonic()
        while True:
            try:
                storage.sync.kv.set("back", 1)
                break
            except AmbidexError:
                assert time.monotonic() - back < 3
                time.sleep(0.01)
        assert time.monotonic() - back < 3
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(map(len, acknowledged)) > 100
    for writer, numbers in enumerate(acknowledged):
        found = storage.sync.kv.get_many([f"w{writer}-{number}" for number in numbers])
        assert found == {f"w{writer}-{number}": number for number in numbers}
    assert database(storage).threads.open_connections <= 10
    storage.close()


def test_control_without_durability_a_kill_loses_writes() -> None:
    """With synchronous_commit off, the same server forgets what it has confirmed."""
    with private_server(synchronous_commit="off", wal_writer_delay="10s") as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (n int)")
            connection.execute("CHECKPOINT")
            for number in range(50):
                connection.execute("INSERT INTO t VALUES (%s)", (number,))
        server.kill()
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            row = connection.execute("SELECT count(*) FROM t").fetchone()
        assert row is not None
        assert row[0] < 50
