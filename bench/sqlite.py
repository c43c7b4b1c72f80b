"""ambidex on SQLite against sqlite3, aiosqlite, diskcache and py-key-value-aio; run by ``--only sqlite``.

Every database here is in WAL mode. What writes does so at synchronous=FULL, one durable transaction an operation,
unless the row says otherwise.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any

import msgspec

from ambidex import UnifiedStorage
from bench.data import KEYS, WRITES, Write, batch, document, pack, unpack
from bench.harness import (
    ADDED_MS,
    FASTER,
    SLOWER,
    Bench,
    Samples,
    Side,
    at_least,
    at_most,
    calls,
    require,
    row,
    tasks,
)

_TABLE = "CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_GET = "SELECT value FROM kv WHERE key = ?"
_SET = "INSERT INTO kv (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_IN_FLIGHT = 64


@contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        yield folder


@contextmanager
def _ambidex(folder: str) -> Iterator[UnifiedStorage]:
    """Open our storage with the documents in it."""
    storage = UnifiedStorage(f"sqlite:///{folder}/ambidex.db")
    try:
        storage.sync.kv.set_many({key: document(number) for number, key in enumerate(KEYS)})
        yield storage
    finally:
        storage.sync.close()


@contextmanager
def _sqlite3(folder: str) -> Iterator[sqlite3.Connection]:
    """Open the standard library's driver, in autocommit mode, with the documents in a table made for nothing else."""
    conn = sqlite3.connect(f"{folder}/raw.db", isolation_level=None)
    try:
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _TABLE, "BEGIN"):
            conn.execute(statement)
        conn.executemany(_SET, ((key, pack(document(number))) for number, key in enumerate(KEYS)))
        conn.execute("COMMIT")
        yield conn
    finally:
        conn.close()


@asynccontextmanager
async def _aiosqlite(folder: str, isolation_level: str | None = None) -> AsyncIterator[Any]:
    """Open aiosqlite on a database of the same kind; fail unless it is as durable as it should be."""
    with _sqlite3(folder):
        pass
    db = await require("aiosqlite").connect(f"{folder}/raw.db", isolation_level=isolation_level)
    try:
        await db.execute("PRAGMA synchronous = FULL")
        ((mode,),) = await db.execute_fetchall("PRAGMA journal_mode")
        ((level,),) = await db.execute_fetchall("PRAGMA synchronous")
        assert (mode, level) == ("wal", 2), (mode, level)
        yield db
    finally:
        await db.close()


@contextmanager
def _both(
    isolation_level: str | None = None,
) -> Iterator[tuple[asyncio.Runner, UnifiedStorage, Any]]:
    """Open a loop, our storage and aiosqlite."""
    require("aiosqlite")
    with _folder() as folder, _ambidex(folder) as storage, asyncio.Runner() as runner:
        manager = _aiosqlite(folder, isolation_level)
        db = runner.run(manager.__aenter__())
        try:
            yield runner, storage, db
        finally:
            runner.run(manager.__aexit__(None, None, None))


# Reading.


@row(
    "sqlite.get-sync",
    "kv.get of a 120-byte document",
    against="sqlite3 + msgspec",
    kind=SLOWER,
    target=at_most(1.6),
)
def get_sync(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, _sqlite3(folder) as conn:

        def raw(key: str) -> Any:
            row = conn.execute(_GET, (key,)).fetchone()
            return None if row is None else unpack(row[0])

        assert raw(KEYS[5]) == storage.sync.kv.get(KEYS[5]) == document(5)
        return bench.compare(calls(storage.sync.kv.get, KEYS), calls(raw, KEYS))


@row(
    "sqlite.get-async",
    "await kv.get of a 120-byte document",
    against="aiosqlite + msgspec",
    kind=FASTER,
    target=at_least(8),
)
def get_async(bench: Bench) -> Samples:
    with _both() as (runner, storage, db):

        async def peer(key: str) -> Any:  # one hand-over to its thread, where execute and fetchone would be two
            rows = await db.execute_fetchall(_GET, (key,))
            return unpack(next(iter(rows))[0])

        return bench.compare(tasks(runner, storage.aio.kv.get, KEYS), tasks(runner, peer, KEYS))


@row("sqlite.get-diskcache", "kv.get of a 120-byte document", against="diskcache.Cache.get", kind=FASTER)
def get_diskcache(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, _diskcache(folder) as cache:
        for number, key in enumerate(KEYS):
            cache.set(key, document(number))
        return bench.compare(calls(storage.sync.kv.get, KEYS), calls(cache.get, KEYS))


@row("sqlite.get-py-key-value", "await kv.get", against="py-key-value-aio DiskStore.get", kind=FASTER)
def get_py_key_value(bench: Bench) -> Samples:
    with (
        _folder() as folder,
        _ambidex(folder) as storage,
        asyncio.Runner() as runner,
        _disk_store(folder, runner) as store,
    ):
        runner.run(store.put_many(KEYS, [document(number) for number in range(len(KEYS))]))
        return bench.compare(tasks(runner, storage.aio.kv.get, KEYS), tasks(runner, store.get, KEYS))


# Writing.


@row("sqlite.set-sync", "kv.set, durable", against="sqlite3 autocommit", kind=SLOWER)
def set_sync(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, _sqlite3(folder) as conn:
        kv = storage.sync.kv
        return bench.compare(
            calls(lambda write: kv.set(*write), WRITES),
            calls(lambda write: conn.execute(_SET, (write[0], pack(write[1]))), WRITES),
        )


@row(
    "sqlite.set-async-64",
    "await kv.set, durable, 64 in flight",
    against="aiosqlite autocommit",
    kind=FASTER,
    target=at_least(6),
)
def set_async(bench: Bench) -> Samples:
    with _both() as (runner, storage, db):

        async def peer(write: Write) -> None:  # one hand-over and one commit of its own for each
            await db.execute(_SET, (write[0], pack(write[1])))

        return _compare_sets(bench, runner, storage, peer)


@row(
    "sqlite.set-async-64-mixed",
    "await kv.set, durable, 64 in flight",
    against="aiosqlite, one transaction shared by whoever writes (a rollback would undo others' writes)",
    kind=FASTER,
)
def set_async_mixed(bench: Bench) -> Samples:
    with _both(isolation_level="IMMEDIATE") as (runner, storage, db):

        async def peer(write: Write) -> None:  # the first commit takes along what the others have executed
            await db.execute(_SET, (write[0], pack(write[1])))
            await db.commit()

        return _compare_sets(bench, runner, storage, peer)


@row("sqlite.set-async-1", "await kv.set, durable, one at a time", against="aiosqlite autocommit", kind=FASTER)
def set_async_one(bench: Bench) -> Samples:
    with _both() as (runner, storage, db):
        kv = storage.aio.kv
        return bench.compare(
            tasks(runner, lambda write: kv.set(*write), WRITES),
            tasks(runner, lambda write: db.execute(_SET, (write[0], pack(write[1]))), WRITES),
        )


def _compare_sets(
    bench: Bench, runner: asyncio.Runner, storage: UnifiedStorage, peer: Callable[[Write], Awaitable[object]]
) -> Samples:
    kv = storage.aio.kv
    return bench.compare(
        tasks(runner, lambda write: kv.set(*write), WRITES, in_flight=_IN_FLIGHT),
        tasks(runner, peer, WRITES, in_flight=_IN_FLIGHT),
        least=4 * _IN_FLIGHT,
    )


@row("sqlite.set-diskcache", "kv.set, durable", against="diskcache.Cache.set (FULL)", kind=FASTER)
def set_diskcache(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, _diskcache(folder) as cache:
        kv = storage.sync.kv
        return bench.compare(
            calls(lambda write: kv.set(*write), WRITES), calls(lambda write: cache.set(*write), WRITES)
        )


@row("sqlite.set-py-key-value", "await kv.set, durable", against="py-key-value-aio DiskStore.put (FULL)", kind=FASTER)
def set_py_key_value(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, asyncio.Runner() as runner:
        kv = storage.aio.kv
        with _disk_store(folder, runner) as store:
            return bench.compare(
                tasks(runner, lambda write: kv.set(*write), WRITES),
                tasks(runner, lambda write: store.put(*write), WRITES),
            )


@row("sqlite.set_many-20000", "kv.set_many of 20,000", against="sqlite3 executemany", kind=SLOWER)
def set_many(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, _sqlite3(folder) as conn:
        rounds = count()

        def ours(_number: int) -> float:
            items = batch(next(rounds))
            start = time.perf_counter()
            storage.sync.kv.set_many(items)
            return time.perf_counter() - start

        def theirs(_number: int) -> float:
            items = batch(next(rounds))
            start = time.perf_counter()
            conn.execute("BEGIN IMMEDIATE")
            conn.executemany(_SET, [(key, pack(value)) for key, value in items.items()])
            conn.execute("COMMIT")
            return time.perf_counter() - start

        return bench.compare(ours, theirs, most=1)


@row("sqlite.transaction-sync", "a transaction of five kv.get and five kv.set", against="sqlite3", kind=SLOWER)
def transaction_sync(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, _sqlite3(folder) as conn:
        sync = storage.sync
        units = [WRITES[start : start + 5] for start in range(0, len(WRITES), 5)]

        def ours(unit: list[Write]) -> None:
            with sync.transaction():
                for key, value in unit:
                    sync.kv.get(key)
                    sync.kv.set(key, value)

        def theirs(unit: list[Write]) -> None:
            conn.execute("BEGIN IMMEDIATE")
            for key, value in unit:
                unpack(conn.execute(_GET, (key,)).fetchone()[0])
                conn.execute(_SET, (key, pack(value)))
            conn.execute("COMMIT")

        return bench.compare(calls(ours, units), calls(theirs, units))


# What a long read does to the loop.


@row(
    "sqlite.scan-300ms",
    "delay of a concurrent timer while a query of 300 ms runs",
    against="an idle loop",
    kind=ADDED_MS,
    target=at_most(5),
)
def scan_delay(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, asyncio.Runner() as runner:
        leaf: Any = storage.aio.kv._port  # the statement of one long read, as a search would send it
        statement, steps = "SELECT count(*) FROM ambidex_kv a, json_each(?) b WHERE a.value > b.value", 200
        while True:
            numbers = msgspec.json.encode(list(range(steps))).decode()
            start = time.perf_counter()
            runner.run(leaf._leaf.rows(statement, (numbers,)))
            taken = time.perf_counter() - start
            if taken >= 0.3:
                break
            steps = int(steps * min(8, max(1.2, 0.33 / taken)))
        return bench.compare(
            _lateness(runner, lambda: leaf._leaf.rows(statement, (numbers,))),
            _lateness(runner, lambda: asyncio.sleep(taken)),
            most=1,
        )


@row(
    "sqlite.scan-keys",
    "delay of a concurrent timer while kv.scan reads 50,000 keys",
    against="an idle loop",
    kind=ADDED_MS,
)
def scan_keys(bench: Bench) -> Samples:
    with _folder() as folder, _ambidex(folder) as storage, asyncio.Runner() as runner:
        storage.sync.kv.set_many({f"scan:{number}": number for number in range(50_000)})

        async def scan() -> None:
            found = 0
            async for _key in storage.aio.kv.scan("scan:"):
                found += 1
            assert found == 50_000

        return bench.compare(_lateness(runner, scan), _lateness(runner, lambda: asyncio.sleep(0.3)), most=1)


def _lateness(runner: asyncio.Runner, work: Callable[[], Awaitable[object]]) -> Side:
    """Return the side that gives the longest lateness of a 1 ms timer while something runs."""

    async def timed() -> float:
        task = asyncio.ensure_future(work())
        worst = 0.0
        while not task.done():
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - due)
        await task
        return worst

    return lambda _number: runner.run(timed())


# Peers.


@contextmanager
def _diskcache(folder: str) -> Iterator[Any]:
    cache = require("diskcache").Cache(f"{folder}/diskcache", sqlite_synchronous=2, eviction_policy="none")
    try:
        yield cache
    finally:
        cache.close()


@contextmanager
def _disk_store(folder: str, runner: asyncio.Runner) -> Iterator[Any]:
    module = require("key_value.aio.stores.disk", "py-key-value-aio[disk]")
    with _diskcache(folder) as cache:
        cache.set("not empty", "")  # DiskStore takes an empty cache for none
        store = module.DiskStore(disk_cache=cache)
        runner.run(store.setup())
        yield store
