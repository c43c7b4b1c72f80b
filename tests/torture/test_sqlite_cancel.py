"""Cancellation and Ctrl-C at any moment: no acknowledged write lost, nothing half done, nobody stuck."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import aiosqlite
import pytest

from ambidex import UnifiedStorage
from ambidex.core.runtime import deadline
from tests.torture.sqlite import integrity, rounds, run

pytestmark = [pytest.mark.torture, pytest.mark.timeout(600)]


async def storm(calls: list[Callable[[], Awaitable[object]]], seed: int) -> list[bool]:
    """Start the calls, cancel half of them at random moments, and tell which came to their end."""
    pick = random.Random(seed)
    tasks = [asyncio.ensure_future(call()) for call in calls]
    doomed = [task for task in tasks if pick.random() < 0.5]
    for task in doomed:
        for _ in range(pick.randrange(4)):
            await asyncio.sleep(pick.choice((0, 0, 0.0002, 0.002)))
        task.cancel()
        if pick.random() < 0.2:
            await asyncio.sleep(0)
            task.cancel()  # while it undoes what it did
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if isinstance(r, Exception)] == []
    return [not isinstance(result, asyncio.CancelledError) for result in results]


def test_a_storm_of_cancelled_writers_loses_nothing_and_halves_nothing(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/storm.db", durability="relaxed")
    kv = storage.aio.kv

    async def one(name: str) -> None:
        await kv.set(f"one:{name}", name)

    async def many(name: str) -> None:
        await kv.set_many({f"many:{name}:{i}": name for i in range(5)})

    async def unit(name: str) -> None:
        async with storage.aio.transaction():
            for i in range(3):
                await kv.set(f"unit:{name}:{i}", name)
            async with storage.aio.transaction():
                await kv.set(f"unit:{name}:3", name)
                await kv.set(f"unit:{name}:4", name)

    async def main() -> int:
        cancelled = 0
        for turn in range(rounds(25, 1000)):
            kinds = [one, many, unit] * 8
            names = [f"{turn}:{i}" for i in range(len(kinds))]
            ended = await storm([partial(kind, name) for kind, name in zip(kinds, names, strict=True)], turn)
            with deadline(10):  # a stuck writer would hold this one up
                await kv.set("alive", turn)
            for kind, name, end in zip(kinds, names, ended, strict=True):
                cancelled += not end
                if kind is one:
                    assert not end or await kv.get(f"one:{name}") == name
                else:
                    prefix = f"{kind.__name__}:{name}:"
                    found = await kv.get_many([f"{prefix}{i}" for i in range(5)])
                    assert len(found) in ((5,) if end else (0, 5))
        return cancelled

    assert asyncio.run(main()) > 50
    storage.close()
    assert integrity(tmp_path / "storm.db") == "ok"


def test_a_storm_halves_the_transactions_of_the_raw_driver(tmp_path: Path) -> None:
    async def main() -> int:
        async with aiosqlite.connect(tmp_path / "raw.db", isolation_level=None) as db:
            await db.execute("PRAGMA journal_mode = WAL")
            await db.execute("CREATE TABLE t (unit, i)")

            async def unit(name: int) -> None:
                for i in range(5):
                    await db.execute("INSERT INTO t VALUES (?, ?)", (name, i))

            for turn in range(20):
                await storm([partial(unit, turn * 24 + i) for i in range(24)], turn)
            rows = await db.execute_fetchall("SELECT count(*) FROM t GROUP BY unit")
            return sum(count != 5 for (count,) in rows)

    assert asyncio.run(main()) > 0


@pytest.mark.parametrize("turns", range(12))
def test_a_transaction_cancelled_after_any_number_of_steps_is_whole_or_nothing(turns: int, tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/steps.db", durability="relaxed", lease_timeout=5)

    async def unit() -> None:
        async with storage.aio.transaction():
            await storage.aio.kv.set("a", 1)
            await storage.aio.kv.set("b", 1)

    async def main() -> None:
        await storage.initialize_async()
        task = asyncio.ensure_future(unit())
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with deadline(4):  # less than the lease: it was given back, not timed out
            await storage.aio.kv.set("next", 1)
        assert len(await storage.aio.kv.get_many(["a", "b"])) in ((0, 2) if task.cancelled() else (2,))

    asyncio.run(main())
    storage.close()


def test_a_task_cancelled_while_it_waits_for_the_lease_takes_nothing(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/wait.db", durability="relaxed", lease_timeout=60)

    async def second() -> None:
        async with storage.aio.transaction():
            raise AssertionError("it began")

    async def main() -> None:
        async with storage.aio.transaction():
            await storage.aio.kv.set("first", 1)
            waiting = asyncio.ensure_future(_outside(second))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.cancelled()
        with deadline(5):
            await storage.aio.kv.set("after", 2)
        assert await storage.aio.kv.get_many(["first", "after"]) == {"first": 1, "after": 2}

    asyncio.run(main())
    storage.close()


async def _outside(call: Callable[[], Awaitable[None]]) -> None:
    """Run the call as a task that is in no transaction."""
    import contextvars

    await asyncio.get_running_loop().create_task(call(), context=contextvars.Context())  # type: ignore[arg-type]


CTRL_C = """
    import os, random, signal, sys, threading, time
    from ambidex import SyncStorage
    from ambidex.core.runtime import deadline
    storage = SyncStorage(f"sqlite:///{sys.argv[1]}", durability="relaxed")
    storage.initialize()
    told, hits, stop = [], 0, False
    def handler(_signal, frame):  # as Python's own, but only where the call below catches it
        global hits
        while frame is not None:
            if frame.f_code.co_name == "write":
                hits += 1
                raise KeyboardInterrupt
            frame = frame.f_back
    def interrupt():
        while not stop:
            time.sleep(random.uniform(0.0001, 0.001))
            os.kill(os.getpid(), signal.SIGINT)
    def write(i):
        storage.kv.set(f"k{i}", i)
        return i
    signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    i = 0
    while hits < int(sys.argv[2]):
        i += 1
        try:
            told.append(write(i))
        except KeyboardInterrupt:
            pass
    stop = True
    thread.join()
    with deadline(5):
        storage.kv.set("alive", 1)
    for start in range(0, len(told), 5000):
        part = told[start : start + 5000]
        assert storage.kv.get_many([f"k{i}" for i in part]) == {f"k{i}": i for i in part}, "lost"
    storage.close()
    print("well")
"""


def test_ctrl_c_in_a_writing_thread_leaves_a_writer_that_works(tmp_path: Path) -> None:
    assert run(CTRL_C, tmp_path / "interrupted.db", rounds(500, 20_000), timeout=300) == "well"
    assert integrity(tmp_path / "interrupted.db") == "ok"
