"""Servers that stand still (SIGSTOP), in the long form for 20 s: all four leaf drivers end calls at their deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive
from ambidex.errors import AmbidexError, CircuitOpen
from ambidex.runtime.blocking import BlockingRuntime
from tests.services.handle import Server
from tests.torture.redis_support import rounds, timed, timed_async
from tests.torture.servers import server_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]

DEADLINE = 1.0
EXCESS = 0.15
"""What the driver itself may take beyond the deadline, in seconds."""
BUSY = 1.0
"""What a busy machine may add to that. One call in a few must do without."""
ATTEMPTS = 4
RETURN = 2.0


@pytest.fixture(scope="module", params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_of(request.param) as server:
        yield server


def open_at(server: Server) -> UnifiedStorage:
    return UnifiedStorage(f"{server.url}?durability=relaxed", timeout=DEADLINE)


Measure = Callable[[Callable[[], Any]], Awaitable[tuple[float, Any]]]


async def stand_still(server: Server, kv: Any, measure: Measure) -> list[float]:
    """Return by how much each call went beyond its deadline while the server stood still."""
    beyond: list[float] = []
    until = time.monotonic() + rounds(0, 20)
    server.pause()
    try:
        while time.monotonic() < until or (len(beyond) < 2 * ATTEMPTS and min(beyond, default=BUSY) > EXCESS):
            for call in (lambda: kv.get("key"), lambda: kv.set("key", 2)):
                seconds, outcome = await measure(call)
                assert isinstance(outcome, AmbidexError), outcome
                if isinstance(outcome, CircuitOpen):
                    continue  # the breaker has answered, not the driver
                beyond.append(seconds - DEADLINE)
    finally:
        server.resume()
    return beyond


async def back(get: Callable[[str], Awaitable[Any]], sleep: Callable[[float], Awaitable[None]]) -> float:
    """Return the seconds until a call succeeds again."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        try:
            await get("key")
            break
        except AmbidexError:
            await sleep(0.02)
    return time.monotonic() - began


def check(beyond: list[float]) -> None:
    assert max(beyond) < BUSY, beyond
    assert min(beyond) < EXCESS, beyond


def test_the_blocking_driver_ends_at_the_deadline(server: Server) -> None:
    storage = open_at(server)
    storage.sync.kv.set("key", 1)

    async def measure(call: Callable[[], Any]) -> tuple[float, Any]:
        return timed(call)

    async def get(key: str) -> Any:
        return storage.sync.kv.get(key)

    check(drive(stand_still(server, storage.sync.kv, measure)))
    assert drive(back(get, BlockingRuntime().sleep)) < RETURN + BUSY
    assert storage.sync.kv.get("key") in (1, 2)
    storage.close()


def test_the_asynchronous_driver_ends_at_the_deadline(server: Server) -> None:
    storage = open_at(server)

    async def main() -> float:
        kv = storage.aio.kv
        await kv.set("key", 1)
        check(await stand_still(server, kv, timed_async))
        seconds = await back(kv.get, asyncio.sleep)
        assert await kv.get("key") in (1, 2)
        await storage.aio.close()
        return seconds

    assert asyncio.run(main()) < RETURN + BUSY
