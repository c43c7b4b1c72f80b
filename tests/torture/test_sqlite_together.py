"""One instance in many threads, loops and forked children at once: no error, no wrong value, no descriptor left."""

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import apsw
import pytest

from ambidex import UnifiedStorage
from tests.torture.sqlite import descriptors, integrity, rounds

pytestmark = [pytest.mark.torture, pytest.mark.timeout(600)]

# Python 3.12 warns about any fork beside threads; the point here is that it works.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def work(storage: UnifiedStorage, me: str, turns: int) -> None:
    """Do a mixture of operations in synchronous code and check each answer."""
    kv = storage.sync.kv
    for i in range(turns):
        kv.set(f"{me}:{i}", [me, i])
        assert kv.get(f"{me}:{i}") == [me, i]
        kv.incr("total")
        with storage.sync.transaction():
            before = kv.get("pair:a", 0)
            assert kv.get("pair:b", 0) == before
            kv.set("pair:a", before + 1)
            kv.set("pair:b", before + 1)
        storage.sync.events.append("events", me)
        assert kv.get_many([f"{me}:{j}" for j in range(i + 1)]) == {f"{me}:{j}": [me, j] for j in range(i + 1)}
        if random.random() < 0.5:
            assert kv.delete(f"{me}:{i}")
            assert kv.get(f"{me}:{i}") is None
            kv.set(f"{me}:{i}", [me, i])


async def work_async(storage: UnifiedStorage, me: str, turns: int) -> None:
    """Do the same on a loop, several tasks at once."""
    kv = storage.aio.kv

    async def one(task: int) -> None:
        for i in range(turns):
            key = f"{me}:{task}:{i}"
            await kv.set(key, [key])
            assert await kv.get(key) == [key]
            await kv.incr("total")
            async with storage.aio.transaction():
                before = await kv.get("pair:a", 0)
                assert await kv.get("pair:b", 0) == before
                await kv.set("pair:a", before + 1)
                await kv.set("pair:b", before + 1)
            await storage.aio.events.append("events", me)

    await asyncio.gather(*(one(task) for task in range(3)))


def in_loop(storage: UnifiedStorage, me: str, turns: int) -> None:
    asyncio.run(work_async(storage, me, turns))


def forked(storage: UnifiedStorage, me: str, turns: int, children: list[int]) -> None:
    children.extend(in_child(partial(work, storage, f"{me}{i}", turns)) for i in range(3))


def in_threads(calls: list[Callable[[], object]]) -> None:
    errors: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def in_child(call: Callable[[], object]) -> int:
    """Run the call in a forked child and return its process id."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(300)  # a child that hangs must fail, and not outlive the tests
        status = 1
        try:
            call()
            status = 0
        except BaseException as error:
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(status)
    return pid


@forks
def test_threads_loops_and_forks_share_one_instance(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/shared.db", durability="relaxed")
    turns = rounds(2, 20)
    # Import everything first: Python itself lets a child wait for ever for a module that another thread was importing.
    work(storage, "first", 1)
    asyncio.run(work_async(storage, "first", 1))
    growth = []
    for turn in range(3):
        children: list[int] = []
        calls: list[Callable[[], object]] = [partial(work, storage, f"r{turn}t{i}", turns) for i in range(64)]
        calls += [partial(in_loop, storage, f"r{turn}l{i}", turns) for i in range(8)]
        calls += [partial(forked, storage, f"r{turn}c", turns, children)]
        in_threads(calls)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
        done = 4 + (turn + 1) * turns * (64 + 8 * 3 + 3)
        assert storage.kv.get("total") == done
        assert storage.kv.get("pair:a") == storage.kv.get("pair:b") == done
        assert storage.events.length("events") == done
        storage.close()
        gc.collect()
        growth.append(descriptors())
    assert growth[0] == growth[1] == growth[2]
    assert integrity(tmp_path / "shared.db") == "ok"


def test_a_hundred_event_loops_one_after_another_leave_no_descriptor(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/loops.db", durability="relaxed")
    counts = []

    async def once(i: int) -> None:
        assert await storage.kv.incr("runs") == i + 1
        assert await storage.kv.get("runs") == i + 1
        big = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000) SELECT count(*) FROM c"
        leaf = storage._core.opened()[0].aio
        # At first so many that each worker starts, with a connection of its own: one that starts later is no leak.
        found = await asyncio.gather(*(leaf.rows(big) for _ in range(1 if i else 100)))  # type: ignore[attr-defined]
        assert found == [[(5000,)]] * len(found)  # by the SQL beneath the port

    for i in range(100):
        asyncio.run(once(i))
        counts.append(descriptors())
    assert max(counts[10:]) <= counts[10]
    storage.close()


@forks
def test_a_child_keeps_what_it_wrote_when_the_parent_closes(tmp_path: Path) -> None:
    path = tmp_path / "forked.db"
    storage = UnifiedStorage(f"sqlite:///{path}")
    storage.kv.set("before", 1)
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        assert storage.kv.get("before") == 1
        storage.kv.set("early", 2)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        storage.kv.set("late", 3)

    pid = in_child(child)
    os.read(ready[0], 1)
    storage.close()  # as the last user of the file that SQLite knows of, it would remove the child's log
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert storage.kv.get_many(["before", "early", "late"]) == {"before": 1, "early": 2, "late": 3}
    storage.close()
    assert integrity(path) == "ok"


@forks
def test_sqlite_itself_loses_what_such_a_child_writes(tmp_path: Path) -> None:
    path = str(tmp_path / "raw.db")
    parent = apsw.Connection(path)
    parent.execute("PRAGMA journal_mode = WAL").fetchall()
    parent.execute("CREATE TABLE t (x); INSERT INTO t VALUES ('before')")
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        conn = apsw.Connection(path)
        conn.execute("INSERT INTO t VALUES ('early')")
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        conn.execute("INSERT INTO t VALUES ('late')")

    pid = in_child(child)
    os.read(ready[0], 1)
    parent.close()
    os.write(go[1], b"x")
    os.waitpid(pid, 0)
    assert apsw.Connection(path).execute("SELECT x FROM t").fetchall() == [("before",), ("early",)]


@forks
def test_a_fork_inside_a_transaction_is_refused_to_the_child_and_harms_nobody(tmp_path: Path) -> None:
    from ambidex.errors import ForkedUse

    storage = UnifiedStorage(f"sqlite:///{tmp_path}/leased.db")

    def child() -> None:
        for attempt in (storage, UnifiedStorage(f"sqlite:///{tmp_path}/leased.db")):
            with pytest.raises(ForkedUse, match=r"fork"):
                attempt.kv.set("child", 1)

    with storage.sync.transaction():
        storage.sync.kv.set("inside", 1)
        pid = in_child(child)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        storage.sync.kv.set("after", 2)
    assert storage.kv.get_many(["inside", "after", "child"]) == {"inside": 1, "after": 2}
    storage.close()
    assert integrity(tmp_path / "leased.db") == "ok"


@forks
def test_a_forked_child_continues_a_private_database_with_its_own_copy() -> None:
    storage = UnifiedStorage("sqlite://")
    storage.kv.set("x", 1)

    def child() -> None:
        assert storage.kv.get("x") == 1
        storage.kv.set("x", 2)
        assert storage.kv.get("x") == 2
        storage.close()

    pid = in_child(child)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert storage.kv.get("x") == 1
    storage.close()
