"""wait_replicas: a write is acknowledged when a replica has it, and says that it may be lost where none has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive
from ambidex.core.ports import Capability, Put, When
from ambidex.core.runtime import deadline, operation_id
from ambidex.errors import ConfigurationError, NotReplicated
from tests.services import RedisOptions, RedisServer
from tests.torture.redis_support import server_flavour


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    with ExitStack() as stack:
        soon = RedisOptions(extra={"repl-diskless-sync-delay": "0"})
        master = stack.enter_context(RedisServer(server_flavour(), options=soon))
        replica = RedisServer(server_flavour(), options=RedisOptions(extra={"replicaof": f"127.0.0.1 {master.port}"}))
        yield master, stack.enter_context(replica)


@pytest.fixture
def master(servers: tuple[RedisServer, RedisServer]) -> Iterator[RedisServer]:
    """With its replica in step."""
    server, replica = servers
    server.wait_replicated()
    yield server
    replica.resume()


def opened(server: RedisServer, wait: str = "wait_replicas=1&wait_timeout=0.1") -> UnifiedStorage:
    return UnifiedStorage(f"{server.url}?{wait}", timeout=20, search="memory://")


Run = Callable[[UnifiedStorage, Callable[[Any], Any]], Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a body with the ports of one mode."""

    def both(storage: UnifiedStorage, body: Callable[[Any], Any]) -> Any:
        if request.param == "sync":
            try:
                return drive(body(storage._core.leaf(Capability.KV, blocking=True)))
            finally:
                storage.close()

        async def main() -> Any:
            try:
                return await body(storage._core.leaf(Capability.KV, blocking=False))
            finally:
                await storage.aio.close()

        return asyncio.run(main())

    return both


WRITES: dict[str, Callable[[Any], Any]] = {
    "put": lambda leaf: leaf.kv.put("a", 1, None, When.ALWAYS),
    "put_many": lambda leaf: leaf.kv.put_many([Put("a", 1), Put("b", 2)], None),
    "put_many with a time": lambda leaf: leaf.kv.put_many([Put("a", 1), Put("b", 2)], 60_000),
    "incr": lambda leaf: leaf.kv.incr("n", 1, None),
    "delete_many": lambda leaf: leaf.kv.delete_many(["a", "b"]),
    "append": lambda leaf: leaf.log.append("s", [b"1", b"2"], None),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_no_replica_has_is_not_acknowledged(
    servers: tuple[RedisServer, RedisServer], master: RedisServer, run: Run, name: str
) -> None:
    async def body(leaf: Any) -> None:
        await insisted(partial(WRITES[name], leaf))  # until the replica has it
        await insisted(partial(leaf.kv.put_many, [Put("a", 1), Put("b", 2)], None))
        servers[1].pause()
        with pytest.raises(NotReplicated, match="0 of 1 replicas"):
            await WRITES[name](leaf)
        assert await leaf.kv.get("absent") is None  # reads ask nobody else
        servers[1].resume()
        await insisted(partial(WRITES[name], leaf))

    run(opened(master), body)


def test_without_the_option_nobody_waits(
    servers: tuple[RedisServer, RedisServer], master: RedisServer, run: Run
) -> None:
    async def body(leaf: Any) -> None:
        servers[1].pause()
        for write in WRITES.values():
            await write(leaf)

    run(opened(master, "pool_size=2"), body)


def test_a_named_write_that_is_repeated_until_a_replica_has_it_counts_once(
    servers: tuple[RedisServer, RedisServer], master: RedisServer, run: Run
) -> None:
    """Also over a new connection, on which nothing was written."""
    key = uuid4().hex

    async def cut_off(leaf: Any) -> None:
        servers[1].pause()
        with operation_id("one"), pytest.raises(NotReplicated):
            await leaf.kv.incr(key, 1, None)

    async def back(leaf: Any) -> None:
        servers[1].resume()
        with operation_id("one"):
            assert await insisted(partial(leaf.kv.incr, key, 1, None)) == 1
        assert await leaf.kv.get(key) == 1

    for body in (cut_off, cut_off, back):
        run(opened(master), body)


async def insisted(call: Callable[[], Any]) -> Any:
    """Repeat it while the replica is not quick enough, as on a busy machine."""
    with deadline(15):
        while True:
            try:
                return await call()
            except NotReplicated:
                continue


def test_a_refused_write_says_what_the_server_says(master: RedisServer, run: Run) -> None:
    async def body(leaf: Any) -> None:
        master.call("SET", "ambidex:l:wrong", "no stream")
        with pytest.raises(Exception) as caught:
            await leaf.log.append("wrong", [b"1"], None)
        assert not isinstance(caught.value, NotReplicated)

    run(opened(master), body)


@pytest.mark.parametrize("bad", ["wait_replicas=-1", "wait_replicas=x", "wait_timeout=0", "wait_timeout=x"])
def test_an_option_that_cannot_work_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match=bad.partition("=")[0]):
        UnifiedStorage(f"redis://127.0.0.1:1?{bad}").sync.kv.get("a")


def test_a_replica_that_is_away_closes_no_door(
    servers: tuple[RedisServer, RedisServer], master: RedisServer, run: Run
) -> None:
    """The server itself answers: the breaker lets reads and further writes come to it."""

    async def body(leaf: Any) -> None:
        servers[1].pause()
        for number in range(60):
            with pytest.raises(NotReplicated):
                await leaf.kv.put("a", number, None, When.ALWAYS)
        assert await leaf.kv.get("a") == 59

    run(opened(master, "wait_replicas=1&wait_timeout=0.01"), body)
