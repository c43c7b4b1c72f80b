"""ambidex on PostgreSQL against psycopg, asyncpg and py-key-value-aio; run by ``--only postgres``.

One private server on loopback serves both sides, as durable as PostgreSQL is by default; both decode what they read
from MessagePack, and the raw drivers use prepared statements in autocommit mode.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from ambidex import UnifiedStorage
from bench.data import KEYS, WRITES, Write, batch, document, pack, unpack
from bench.harness import (
    FASTER,
    SLOWER,
    Bench,
    Samples,
    at_least,
    at_most,
    calls,
    compare_tasks,
    require,
    row,
)
from bench.services import storage, url

_BULK = 20_000
_IN_FLIGHT = 128
_POOL = 10
_GET = "SELECT value FROM bench_raw WHERE key = {}"
_SET = "INSERT INTO bench_raw (key, value) VALUES ({}, {}) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@contextmanager
def _psycopg() -> Iterator[Any]:
    """Open a psycopg pool, with the documents in a table made for nothing else."""
    require("psycopg")
    pool = require("psycopg_pool").ConnectionPool(
        url("postgres"), min_size=_POOL, max_size=_POOL, kwargs={"autocommit": True}, open=False
    )
    with pool:
        pool.wait()
        with pool.connection() as conn:
            conn.execute("DROP TABLE IF EXISTS bench_raw")
            conn.execute('CREATE TABLE bench_raw (key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL)')
            rows = [(key, pack(document(number))) for number, key in enumerate(KEYS)]
            conn.cursor().executemany(_SET.format("%s", "%s"), rows)
        yield pool


@contextmanager
def _asyncpg() -> Iterator[tuple[asyncio.Runner, UnifiedStorage, Any]]:
    """Open a loop, our storage (closed on that loop) and an asyncpg pool over the raw table."""
    asyncpg = require("asyncpg")
    with storage("postgres") as ours, _psycopg(), asyncio.Runner() as runner:
        pool = runner.run(_pool(asyncpg))
        try:
            yield runner, ours, pool
        finally:
            runner.run(pool.close())
            runner.run(ours.aio.close())


async def _pool(asyncpg: Any) -> Any:
    return await asyncpg.create_pool(url("postgres"), min_size=_POOL, max_size=_POOL)


@row("postgres.get-sync", "kv.get of a 120-byte document", against="psycopg pool", kind=SLOWER, target=at_most(1.3))
def get_sync(bench: Bench) -> Samples:
    with storage("postgres") as ours, _psycopg() as pool:
        statement = _GET.format("%s")

        def raw(key: str) -> Any:
            with pool.connection() as conn:
                return unpack(conn.execute(statement, (key,)).fetchone()[0])

        return bench.compare(calls(ours.sync.kv.get, KEYS), calls(raw, KEYS))


@row("postgres.set-sync", "kv.set of a 120-byte document", against="psycopg pool", kind=SLOWER)
def set_sync(bench: Bench) -> Samples:
    with storage("postgres") as ours, _psycopg() as pool:
        statement, kv = _SET.format("%s", "%s"), ours.sync.kv

        def raw(write: Write) -> None:
            with pool.connection() as conn:
                conn.execute(statement, (write[0], pack(write[1])))

        return bench.compare(calls(lambda write: kv.set(*write), WRITES), calls(raw, WRITES))


@row("postgres.get-async-1", "await kv.get, one at a time", against="asyncpg pool of 10", kind=SLOWER)
def get_async_1(bench: Bench) -> Samples:
    return _get_async(bench, 1)


@row(
    "postgres.get-async-128",
    "await kv.get, 128 in flight",
    against="asyncpg pool of 10",
    kind=FASTER,
    target=at_least(8),
)
def get_async_128(bench: Bench) -> Samples:
    return _get_async(bench, _IN_FLIGHT)


def _get_async(bench: Bench, in_flight: int) -> Samples:
    statement = _GET.format("$1")
    with _asyncpg() as (runner, ours, pool):

        async def peer(key: str) -> Any:
            return unpack(await pool.fetchval(statement, key))

        return compare_tasks(bench, runner, ours.aio.kv.get, peer, in_flight)


@row(
    "postgres.set-async-128",
    "await kv.set, 128 in flight",
    against="asyncpg pool of 10",
    kind=FASTER,
    target=at_least(4),
)
def set_async_128(bench: Bench) -> Samples:
    statement = _SET.format("$1", "$2")
    with _asyncpg() as (runner, ours, pool):
        kv = ours.aio.kv
        return compare_tasks(
            bench,
            runner,
            lambda write: kv.set(*write),
            lambda write: pool.execute(statement, write[0], pack(write[1])),
            _IN_FLIGHT,
            WRITES,
        )


@row(
    "postgres.set_many-20000",
    "kv.set_many of 20,000 new keys",
    against="psycopg COPY into a bare table",
    kind=SLOWER,
    target=at_most(2),
)
def set_many(bench: Bench) -> Samples:
    with storage("postgres") as ours, _psycopg() as pool:
        rounds = count()

        def mine(_number: int) -> float:
            items = batch(next(rounds), _BULK)
            start = time.perf_counter()
            ours.sync.kv.set_many(items)
            taken = time.perf_counter() - start
            ours.sync.kv.delete_many(items)
            return taken

        def raw(_number: int) -> float:
            items = batch(next(rounds), _BULK)
            with pool.connection() as conn:
                start = time.perf_counter()
                with conn.cursor() as cursor, cursor.copy("COPY bench_raw FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(["text", "bytea"])
                    for key, value in items.items():
                        copy.write_row((key, pack(value)))
                taken = time.perf_counter() - start
                conn.execute("DELETE FROM bench_raw WHERE key LIKE 'bulk:%'")
            return taken

        return bench.compare(mine, raw, most=1)


# Peers.


@row(
    "postgres.get-py-key-value", "await kv.get, 128 in flight", against="py-key-value-aio PostgreSQLStore", kind=FASTER
)
def get_py_key_value(bench: Bench) -> Samples:
    with _asyncpg() as (runner, ours, pool):
        store = _postgres_store(runner, pool)
        return compare_tasks(bench, runner, ours.aio.kv.get, store.get, _IN_FLIGHT)


@row(
    "postgres.set-py-key-value", "await kv.set, 128 in flight", against="py-key-value-aio PostgreSQLStore", kind=FASTER
)
def set_py_key_value(bench: Bench) -> Samples:
    with _asyncpg() as (runner, ours, pool):
        store, kv = _postgres_store(runner, pool), ours.aio.kv
        return compare_tasks(
            bench, runner, lambda write: kv.set(*write), lambda write: store.put(*write), _IN_FLIGHT, WRITES
        )


def _postgres_store(runner: asyncio.Runner, pool: Any) -> Any:
    store = require("key_value.aio.stores.postgresql", "py-key-value-aio[postgresql]").PostgreSQLStore(pool=pool)
    runner.run(store.put_many(KEYS, [document(number) for number in range(len(KEYS))]))
    return store
