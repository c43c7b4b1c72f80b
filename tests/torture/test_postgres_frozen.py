"""A PostgreSQL server that stops answering (SIGSTOP): every call ends at its deadline, typed."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.core.runtime import deadline
from ambidex.errors import AmbidexError, DeadlineExceeded, Overloaded, Unavailable
from tests.services.postgres import PostgresServer
from tests.torture.postgres_tools import database, private_server

pytestmark = pytest.mark.torture

_DEADLINE = 1.0
_GRACE = 0.5
"""What a busy machine may add; without a deadline the calls last as long as the server stands still."""
_TYPES = (DeadlineExceeded, Unavailable, Overloaded)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with private_server() as server:
        yield server


@pytest.fixture
def storage(server: PostgresServer) -> Iterator[UnifiedStorage]:
    storage = UnifiedStorage(server.url)
    storage.sync.kv.set("key", 1)
    yield storage
    storage.close()


def _calls(kv: Any, events: Any) -> dict[str, Callable[[], Any]]:
    return {
        "get": lambda: kv.get("key"),
        "get_many": lambda: kv.get_many(["key", "other"]),
        "set": lambda: kv.set("key", 2),
        "incr": lambda: kv.incr("count"),
        "append": lambda: events.append("log", 1),
        "scan": kv.namespaces,
    }


def test_blocking_calls_end_at_the_deadline(server: PostgresServer, storage: UnifiedStorage) -> None:
    sync = storage.sync
    ends: dict[str, tuple[float, BaseException | None]] = {}

    def call(name: str, work: Callable[[], Any]) -> None:
        start, error = time.monotonic(), None
        try:
            with deadline(_DEADLINE):
                work()
        except AmbidexError as raised:
            error = raised
        ends[name] = time.monotonic() - start, error

    server.pause()
    try:
        threads = [threading.Thread(target=call, args=item) for item in _calls(sync.kv, sync.events).items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        server.resume()
    _all_in_time(ends)
    assert sync.kv.get("key") in (1, 2)


def test_asynchronous_calls_end_at_the_deadline(server: PostgresServer, storage: UnifiedStorage) -> None:
    aio = storage.aio
    ends: dict[str, tuple[float, BaseException | None]] = {}

    async def call(name: str, work: Callable[[], Awaitable[Any]]) -> None:
        start, error = time.monotonic(), None
        try:
            with deadline(_DEADLINE):
                await work()
        except AmbidexError as raised:
            error = raised
        ends[name] = time.monotonic() - start, error

    async def main() -> None:
        await asyncio.gather(aio.kv.get("key"), aio.kv.incr("n"))  # two connections stand
        server.pause()
        try:
            await asyncio.gather(*(call(name, work) for name, work in _calls(aio.kv, aio.events).items()))
        finally:
            server.resume()
        _all_in_time(ends)
        assert await aio.kv.get("key") in (1, 2)
        await aio.close()

    asyncio.run(main())


def test_a_unit_ends_at_the_deadline(server: PostgresServer, storage: UnifiedStorage) -> None:
    start = time.monotonic()
    try:
        with pytest.raises(_TYPES) as caught, deadline(_DEADLINE), storage.sync.transaction():
            storage.sync.kv.set("key", 3)
            server.pause()
            storage.sync.kv.set("key", 4)
        assert time.monotonic() - start < _DEADLINE + _GRACE
        assert caught.value.applied == "no"  # the unit was never committed
    finally:
        server.resume()
    assert storage.sync.kv.get("key") in (1, 2)
    assert database(storage).threads.open_connections <= 10


def test_each_waiter_of_a_batch_has_its_own_deadline(server: PostgresServer, storage: UnifiedStorage) -> None:
    async def one(seconds: float) -> float:
        start = time.monotonic()
        with pytest.raises(_TYPES), deadline(seconds):
            await storage.aio.kv.get("key")
        return time.monotonic() - start

    async def main() -> None:
        await storage.aio.kv.get("key")
        server.pause()
        try:
            short, long = await asyncio.gather(one(0.3), one(1.0))
        finally:
            server.resume()
        assert short < 0.3 + _GRACE
        assert 0.9 < long < 1.0 + _GRACE
        await storage.aio.close()

    asyncio.run(main())


def test_control_raw_psycopg_waits_on(server: PostgresServer) -> None:
    done = threading.Event()
    with psycopg.connect(server.url, autocommit=True, options="-c statement_timeout=1000") as connection:

        def call() -> None:
            connection.execute("SELECT 1")
            done.set()

        server.pause()
        try:
            thread = threading.Thread(target=call, daemon=True)
            thread.start()
            assert not done.wait(_DEADLINE * 2)  # the server's own timeout does not help when the server is frozen
        finally:
            server.resume()
        thread.join()


def _all_in_time(ends: dict[str, tuple[float, BaseException | None]]) -> None:
    assert len(ends) == 6
    for name, (seconds, error) in ends.items():
        assert isinstance(error, _TYPES), (name, error)
        assert seconds < _DEADLINE + _GRACE, (name, seconds)
        if name in ("get", "get_many", "scan"):
            assert error.applied == "no", name
