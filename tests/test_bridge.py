"""Clients of one colour in both modes."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ambidex import Blocking, deadline, operation
from ambidex.bridge import Runner, async_only, sync_only
from ambidex.core.dual import Store, drive
from ambidex.errors import DeadlineExceeded, NestedCheckout
from ambidex.runtime.portal import LOOP_THREAD


class AsyncOnly:
    """Refuses to be used on any loop but the one that it was made on, as real clients do."""

    made = 0

    def __init__(self) -> None:
        AsyncOnly.made += 1
        self.loop = asyncio.get_running_loop()
        self.values: dict[str, int] = {}
        self.closed = False

    async def put(self, key: str, value: int) -> None:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        self.values[key] = value

    async def get(self, key: str) -> int:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return self.values[key]

    async def close(self) -> None:
        self.closed = True


class Numbers(Store):
    """Written once over a runner."""

    def __init__(self, client: Runner[Any]) -> None:
        self._client = client

    @operation
    async def put(self, key: str, value: int) -> None:
        await self._client.run(lambda client: client.put(key, value))

    @operation
    async def get(self, key: str) -> int:
        found: int = await self._client.run(lambda client: client.get(key))
        return found


class BlockingNumbers(Blocking, Numbers):
    pass


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    LOOP_THREAD.stop()


def test_an_async_only_client_serves_synchronous_threads_from_one_loop() -> None:
    AsyncOnly.made = 0
    numbers = BlockingNumbers(async_only(AsyncOnly)[0])

    def one(number: int) -> int:
        numbers.put(f"key-{number}", number)
        return numbers.get(f"key-{number}")

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(one, range(200))) == list(range(200))
    assert AsyncOnly.made == 1


def test_an_async_only_client_is_made_once_for_each_loop() -> None:
    AsyncOnly.made = 0
    _, aio = async_only(AsyncOnly, AsyncOnly.close)

    async def main() -> None:
        numbers = Numbers(aio)
        await asyncio.gather(*(numbers.put(f"key-{number}", number) for number in range(20)))
        assert await numbers.get("key-7") == 7
        client = await aio.run(lambda client: client)
        await aio.close()
        assert client.closed

    asyncio.run(main())
    asyncio.run(main())
    assert AsyncOnly.made == 2


def test_a_client_may_be_made_by_awaiting() -> None:
    async def connect() -> AsyncOnly:
        await asyncio.sleep(0)
        return AsyncOnly()

    blocking, _ = async_only(connect, AsyncOnly.close)
    numbers = BlockingNumbers(blocking)
    numbers.put("key", 1)
    client = drive(blocking.run(lambda client: client))
    drive(blocking.close())
    assert client.closed
    numbers.put("key", 2)  # it opens again
    assert numbers.get("key") == 2


def test_the_deadline_holds_and_cancels_the_work() -> None:
    cancelled = threading.Event()

    async def slow(client: AsyncOnly) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    blocking, _ = async_only(AsyncOnly)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded), deadline(0.1):
        drive(blocking.run(slow))
    assert time.monotonic() - began < 5
    assert cancelled.wait(5)


def test_errors_and_context_cross() -> None:
    blocking, _ = async_only(AsyncOnly)
    with pytest.raises(KeyError):
        drive(blocking.run(lambda client: client.get("absent")))


def test_the_loop_thread_never_waits_for_itself() -> None:
    blocking, _ = async_only(AsyncOnly)
    numbers = BlockingNumbers(blocking)
    with pytest.raises(NestedCheckout):
        drive(blocking.run(lambda client: numbers.get("key")))


class SyncOnly:
    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.threads: set[int] = set()
        self.closed = False

    def put(self, key: str, value: int) -> None:
        self.threads.add(threading.get_ident())
        self.values[key] = value

    def get(self, key: str) -> int:
        return self.values[key]

    def close(self) -> None:
        self.closed = True


def test_a_sync_only_client_serves_loops_from_worker_threads() -> None:
    blocking, aio = sync_only(SyncOnly, SyncOnly.close)
    BlockingNumbers(blocking).put("key", 1)

    async def main() -> None:
        numbers = Numbers(aio)
        assert await numbers.get("key") == 1  # the same client
        await asyncio.gather(*(numbers.put(f"key-{number}", number) for number in range(50)))
        client = await aio.run(lambda client: client)
        assert len(client.threads - {threading.get_ident()}) >= 1
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        heart = asyncio.create_task(beat())
        await aio.run(lambda _: time.sleep(0.2))
        heart.cancel()
        assert beats > 2  # the loop went on
        with pytest.raises(DeadlineExceeded), deadline(0.05):
            await aio.run(lambda _: time.sleep(0.3))
        await aio.close()
        assert client.closed

    asyncio.run(main())


def test_a_forked_child_makes_its_own() -> None:
    blocking, _ = async_only(AsyncOnly)
    numbers = BlockingNumbers(blocking)
    numbers.put("key", 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            numbers.put("key", 2)
            status = 0 if numbers.get("key") == 2 else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert numbers.get("key") == 1
