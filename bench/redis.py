"""ambidex on Redis against redis-py, valkey-glide, coredis and py-key-value-aio; run by ``--only redis``.

One private server on loopback serves both sides; both decode what they read from MessagePack, with hiredis as the
parser.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from ambidex import UnifiedStorage
from bench.data import KEYS, WRITES, batch, document, pack, unpack
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
_RAW = {f"raw:{key}": document(number) for number, key in enumerate(KEYS)}


@contextmanager
def _redis_py() -> Iterator[Any]:
    """Open a blocking redis-py client, with its own documents on the server."""
    client = require("redis").Redis.from_url(url("redis"))
    try:
        client.mset({key: pack(value) for key, value in _RAW.items()})
        yield client
    finally:
        client.close()


@contextmanager
def _loop() -> Iterator[tuple[asyncio.Runner, UnifiedStorage]]:
    """Open a loop and our storage, which is closed on that loop."""
    with storage("redis") as ours, _redis_py(), asyncio.Runner() as runner:
        try:
            yield runner, ours
        finally:
            runner.run(ours.aio.close())


@row("redis.get-sync", "kv.get of a 120-byte document", against="redis-py", kind=SLOWER, target=at_most(1.25))
def get_sync(bench: Bench) -> Samples:
    with storage("redis") as ours, _redis_py() as client:
        return bench.compare(calls(ours.sync.kv.get, KEYS), calls(lambda key: unpack(client.get(key)), list(_RAW)))


@row("redis.set-sync", "kv.set of a 120-byte document", against="redis-py", kind=SLOWER)
def set_sync(bench: Bench) -> Samples:
    with storage("redis") as ours, _redis_py() as client:
        kv = ours.sync.kv
        return bench.compare(
            calls(lambda write: kv.set(*write), WRITES),
            calls(lambda write: client.set("raw:" + write[0], pack(write[1])), WRITES),
        )


@row("redis.get-async-1", "await kv.get, one at a time", against="redis.asyncio", kind=SLOWER, target=at_most(1.35))
def get_async_1(bench: Bench) -> Samples:
    return _get_async(bench, 1)


@row("redis.get-async-128", "await kv.get, 128 in flight", against="redis.asyncio", kind=FASTER, target=at_least(4))
def get_async_128(bench: Bench) -> Samples:
    return _get_async(bench, 128)


@row("redis.get-async-1000", "await kv.get, 1,000 in flight", against="redis.asyncio", kind=FASTER, target=at_least(8))
def get_async_1000(bench: Bench) -> Samples:
    return _get_async(bench, 1000)


def _get_async(bench: Bench, in_flight: int) -> Samples:
    with _loop() as (runner, ours), _redis_asyncio(runner, in_flight) as client:

        async def peer(key: str) -> Any:
            return unpack(await client.get("raw:" + key))

        return compare_tasks(bench, runner, ours.aio.kv.get, peer, in_flight)


@row("redis.set-async-128", "await kv.set, 128 in flight", against="redis.asyncio", kind=FASTER)
def set_async_128(bench: Bench) -> Samples:
    with _loop() as (runner, ours), _redis_asyncio(runner, 128) as client:
        kv = ours.aio.kv
        return compare_tasks(
            bench,
            runner,
            lambda write: kv.set(*write),
            lambda write: client.set("raw:" + write[0], pack(write[1])),
            128,
            WRITES,
        )


@contextmanager
def _redis_asyncio(runner: asyncio.Runner, in_flight: int) -> Iterator[Any]:
    """Open redis-py's asyncio client with a connection for each call in flight: faster than fewer that are waited for.

    Its default pool has 100 and refuses the rest.
    """
    client = require("redis.asyncio").Redis.from_url(url("redis"), max_connections=in_flight)
    try:
        yield client
    finally:
        runner.run(client.aclose())


@row(
    "redis.set_many-20000",
    "kv.set_many of 20,000",
    against="redis-py pipeline without MULTI",
    kind=SLOWER,
    target=at_most(2),
)
def set_many(bench: Bench) -> Samples:
    with storage("redis") as ours, _redis_py() as client:
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
            start = time.perf_counter()
            pipeline = client.pipeline(transaction=False)
            for key, value in items.items():
                pipeline.set(key, pack(value))
            pipeline.execute()
            taken = time.perf_counter() - start
            client.delete(*items)
            return taken

        return bench.compare(mine, raw, most=1)


# Peers.


@row("redis.get-coredis", "await kv.get, 128 in flight", against="coredis", kind=FASTER)
def coredis(bench: Bench) -> Samples:
    module = require("coredis")
    with _loop() as (runner, ours):
        client = module.Redis.from_url(url("redis"))

        async def peer(key: str) -> Any:
            return unpack(await client.get("raw:" + key))

        with _held(runner, client) if hasattr(client, "__aenter__") else nullcontext():  # from its version 6 on
            return compare_tasks(bench, runner, ours.aio.kv.get, peer, 128)


@contextmanager
def _held(runner: asyncio.Runner, client: Any) -> Iterator[None]:
    """Hold a client open that must be closed by the task that opened it, as structured concurrency wants."""
    done = asyncio.Event()

    async def hold(opened: asyncio.Future[None]) -> None:
        async with client:
            opened.set_result(None)
            await done.wait()

    async def start() -> asyncio.Task[None]:
        opened = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(hold(opened))
        await asyncio.wait([opened, task], return_when=asyncio.FIRST_COMPLETED)
        return task

    async def end(task: asyncio.Task[None]) -> None:
        done.set()
        await task

    task = runner.run(start())
    try:
        yield
    finally:
        runner.run(end(task))


@row("redis.get-valkey-glide", "await kv.get, 128 in flight", against="valkey-glide", kind=FASTER)
def valkey_glide(bench: Bench) -> Samples:
    module = require("glide", "valkey-glide")
    with _loop() as (runner, ours):
        place = urlsplit(url("redis"))
        node = module.NodeAddress(place.hostname, place.port)
        client = runner.run(module.GlideClient.create(module.GlideClientConfiguration([node])))

        async def peer(key: str) -> Any:
            return unpack(await client.get("raw:" + key))

        try:
            return compare_tasks(bench, runner, ours.aio.kv.get, peer, 128)
        finally:
            runner.run(client.close())


@row("redis.get-py-key-value", "await kv.get, 128 in flight", against="py-key-value-aio RedisStore", kind=FASTER)
def get_py_key_value(bench: Bench) -> Samples:
    with _loop() as (runner, ours), _redis_store(runner) as store:
        return compare_tasks(bench, runner, ours.aio.kv.get, store.get, 128)


@row("redis.set-py-key-value", "await kv.set, 128 in flight", against="py-key-value-aio RedisStore", kind=FASTER)
def set_py_key_value(bench: Bench) -> Samples:
    with _loop() as (runner, ours), _redis_store(runner) as store:
        kv = ours.aio.kv
        return compare_tasks(bench, runner, lambda write: kv.set(*write), lambda write: store.put(*write), 128, WRITES)


@contextmanager
def _redis_store(runner: asyncio.Runner) -> Iterator[Any]:
    module = require("key_value.aio.stores.redis", "py-key-value-aio[redis]")
    client = require("redis.asyncio").Redis.from_url(url("redis"), max_connections=128, decode_responses=True)
    try:
        store = module.RedisStore(client=client)
        runner.run(store.put_many(KEYS, list(_RAW.values())))
        yield store
    finally:
        runner.run(client.aclose())
