"""Units of work across backends: all or nothing, once, in order, whatever happens between commit and application."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest

from ambidex import UnifiedStorage, errors
from ambidex.core.dual import drive
from ambidex.core.ports import Capability
from ambidex.core.spec import Id
from ambidex.stores.scope import Scope
from tests.services import PostgresServer, RedisServer
from tests.services.postgres import unavailable as no_postgres
from tests.services.redis import unavailable as no_redis
from tests.stores.conftest import Face, Run, in_units, stop_applying


@dataclass
class Order:
    id: Annotated[int, Id()]
    state: str = "new"


@contextmanager
def placed(main: str, other: str, index: str) -> Iterator[UnifiedStorage]:
    storage = UnifiedStorage(main, kv=other, log=other, search=index)
    try:
        yield storage
    finally:
        storage.close()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    if reason := no_redis("wheel"):
        pytest.skip(reason)
    with RedisServer("wheel") as server:
        yield server.url


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    if reason := no_postgres("wheel"):
        pytest.skip(reason)
    with PostgresServer("wheel") as server:
        yield server.url


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, str]:
    """The main backend, that of key-value and streams, and that of the index."""
    kind = getattr(request, "param", "sqlite+sqlite")
    main, other = f"sqlite:///{tmp_path}/main.db", f"sqlite:///{tmp_path}/other.db"
    index = other
    if kind.startswith("postgres"):
        main = f"{request.getfixturevalue('postgres_url')}?schema=s{uuid4().hex}"
    if kind.endswith("redis"):
        other = f"{request.getfixturevalue('redis_url')}?prefix={uuid4().hex}:"
    return main, other, index


@pytest.fixture
def storage(places: tuple[str, str, str]) -> Iterator[UnifiedStorage]:
    with placed(*places) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, storage: UnifiedStorage) -> Run:
    return in_units(request.param, storage)


everywhere = pytest.mark.parametrize(
    "places", ["sqlite+sqlite", "sqlite+redis", "postgres+redis", "postgres+sqlite"], indirect=True
)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        stop_applying(patch)
        yield patch


@everywhere
def test_a_unit_takes_effect_on_all_backends(run: Run) -> None:
    async def body(storage: Any) -> None:
        orders = storage.repository(Order)
        await storage.kv.set("old", 1)
        async with storage.transaction():
            await orders.create(Order(1))
            await storage.kv.set("order-1", {"state": "new"}, ttl=500)
            await storage.kv.set_many({"a": 1, "b": b"\x00"})
            assert await storage.kv.delete("old") is True
            assert await storage.kv.delete_many(["old", "never"]) == 1
            assert await storage.events.append("orders", 1, {"two": 2}) == 0
            await storage.index.add("1", "an order of swans", {"year": 1}, vector=[0.5, -0.0])
            assert await storage.kv.get("order-1") is None  # what is committed there
            assert await storage.kv.get("old") == 1
            assert await storage.index.count() == 0
        assert await orders.get(1) == Order(1)
        assert await storage.kv.get_many(["order-1", "a", "b", "old"]) == {
            "order-1": {"state": "new"},
            "a": 1,
            "b": b"\x00",
        }
        assert 490 < await storage.kv.ttl("order-1") <= 500
        assert [record.value for record in await storage.events.tail("orders")] == [1, {"two": 2}]
        assert [hit.id for hit in await storage.search("swans")] == ["1"]
        async with storage.transaction():
            assert await storage.index.remove("1", "2") == 1
            await storage.index.add("3", "geese")
            assert await storage.index.reset(namespace="default") == 1
        assert await storage.index.count() == 0
        assert await storage.recover() == 0

    run(body)


@everywhere
def test_an_error_in_the_body_leaves_nothing_anywhere(run: Run) -> None:
    async def body(storage: Any) -> None:
        orders = storage.repository(Order)
        with pytest.raises(ZeroDivisionError):
            async with storage.transaction():
                await orders.create(Order(1))
                await storage.kv.set("a", 1)
                await storage.events.append("s", 1)
                raise ZeroDivisionError
        assert await orders.get(1) is None
        assert await storage.kv.get("a") is None
        assert await storage.events.length("s") == 0
        assert await storage.recover() == 0

    run(body)


@everywhere
def test_a_savepoint_that_is_undone_takes_its_own_writes_along(run: Run) -> None:
    async def body(storage: Any) -> None:
        async with storage.transaction():
            await storage.kv.set("outer", 1)
            with pytest.raises(ZeroDivisionError):
                async with storage.transaction():
                    await storage.kv.set("inner", 1)
                    raise ZeroDivisionError
            async with storage.transaction():
                await storage.kv.set("kept", 1)
        assert await storage.kv.get_many(["outer", "inner", "kept"]) == {"outer": 1, "kept": 1}

    run(body)


@everywhere
def test_a_crash_after_the_commit_is_made_good_at_the_next_use(
    run: Run, stopped: pytest.MonkeyPatch, places: tuple[str, str, str]
) -> None:
    async def body(storage: Any) -> None:
        async with storage.transaction():
            await storage.repository(Order).create(Order(1))
            await storage.kv.set("a", 1)
            await storage.events.append("s", 1)
        assert await storage.kv.get("a") is None

    run(body)
    stopped.undo()
    with placed(*places) as fresh:
        assert fresh.sync.kv.get("a") == 1
        assert [record.value for record in fresh.sync.events.tail("s")] == [1]
        assert fresh.sync.recover() == 0


@everywhere
def test_a_row_that_is_applied_again_changes_nothing(
    run: Run, stopped: pytest.MonkeyPatch, storage: UnifiedStorage
) -> None:
    async def body(face: Any) -> None:
        async with face.transaction():
            await face.kv.set("a", 1)
            await face.kv.set_many({"b": 1})
            await face.kv.delete("c")
            await face.events.append("s", 1)
            await face.index.add("1", "swans")
        outbox = storage._core.outbox(isinstance(face, Face))
        keys, _ = await outbox._home.kv.scan("ob::r:", None, 10)
        (row,) = await outbox._read(keys)
        assert await face.recover() == 1
        for key in "abc":
            await face.kv.set(key, "newer")
        await face.index.remove("1")
        assert await outbox._apply(row) is True  # as one who was slow
        assert await face.kv.get_many(["a", "b", "c"]) == dict.fromkeys("abc", "newer")
        assert await face.events.length("s") == 1
        assert await face.index.count() == 0

    run(body)


@everywhere
def test_units_that_touch_the_same_keys_keep_their_order(run: Run, stopped: pytest.MonkeyPatch) -> None:
    async def body(storage: Any) -> None:
        async with storage.transaction():
            await storage.kv.set("a", "first")
            await storage.kv.set("b", "first")
        async with storage.transaction():
            await storage.kv.set("unrelated", 1)
        async with storage.transaction():
            await storage.kv.set("b", "second")
            await storage.kv.set("c", "second")
        stopped.undo()
        async with storage.transaction():
            await storage.kv.set("c", "third")
        assert await storage.kv.get_many(["a", "b", "c"]) == {"a": "first", "b": "second", "c": "third"}
        await storage.recover()
        assert await storage.kv.get_many(["a", "b", "c", "unrelated"]) == {
            "a": "first",
            "b": "second",
            "c": "third",
            "unrelated": 1,
        }

    run(body)


@everywhere
def test_many_who_recover_at_once_apply_each_entry_once(
    stopped: pytest.MonkeyPatch, storage: UnifiedStorage, places: tuple[str, str, str]
) -> None:
    for number in range(30):
        with storage.sync.transaction():
            storage.sync.kv.set("last", number)
            storage.sync.events.append("s", number)
    stopped.undo()
    failures: list[BaseException] = []

    def recover() -> None:
        try:
            with placed(*places) as mine:
                mine.sync.recover()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=recover) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [record.value for record in storage.sync.events.tail("s", 100)] == list(range(30))
    assert storage.sync.kv.get("last") == 29
    assert storage.sync.recover() == 0


def test_a_long_queue_is_applied_whole_by_the_next_unit(stopped: pytest.MonkeyPatch, storage: UnifiedStorage) -> None:
    for number in range(130):
        with storage.sync.transaction():
            storage.sync.events.append("s", number)
    stopped.undo()
    with storage.sync.transaction():
        storage.sync.events.append("s", 130)
    assert [record.value for record in storage.sync.events.tail("s", 200)] == list(range(131))


@pytest.mark.parametrize(
    "refused",
    [
        lambda s: s.kv.incr("n"),
        lambda s: s.kv.compare_and_set("n", 1, 0),
        lambda s: s.kv.add("n", 1),
        lambda s: s.kv.replace("n", 1),
        lambda s: s.kv.touch("n"),
        lambda s: s.kv.get_or_set("n", 1),
        lambda s: s.events.trim("n", 1),
        lambda s: s.events.expire("n", 1),
        lambda s: s.events.drop("n"),
    ],
)
def test_what_decides_something_elsewhere_is_refused_with_the_remedy(run: Run, refused: Any) -> None:
    async def body(storage: Any) -> None:
        with pytest.raises(errors.CapabilityMissing, match="before or after the transaction, or place"):
            async with storage.transaction():
                await storage.kv.set("a", 1)
                await refused(storage)
        assert await storage.kv.get("a") is None
        await refused(storage)  # outside it works

    run(body)


def test_a_transaction_elsewhere_inside_a_unit_is_refused(storage: UnifiedStorage) -> None:
    scope: Scope = storage.sync.scope(Capability.KV, blocking=True)
    with storage.sync.transaction(), pytest.raises(errors.UsageError, match="transaction of its own"):
        scope.leaf.transaction()
    scope.leaf.transaction()


def test_a_task_that_outlives_its_unit_is_told(storage: UnifiedStorage) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def late() -> None:
            await ended.wait()
            await storage.aio.kv.set("late", 1)

        async with storage.aio.transaction():
            task = asyncio.create_task(late())
            await asyncio.sleep(0)
        ended.set()
        with pytest.raises(errors.UsageError, match="has ended"):
            await task
        await storage.aio.close()

    asyncio.run(main())


def test_a_unit_that_is_run_again_leaves_its_writes_once(run: Run) -> None:
    async def body(storage: Any) -> None:
        runs = 0

        async def unit() -> None:
            nonlocal runs
            runs += 1
            await storage.events.append("s", runs)
            if runs < 3:
                raise errors.Conflict("somebody was faster")

        await storage.atomically(unit)
        assert [record.value for record in await storage.events.tail("s")] == [3]

    run(body)


def test_tenants_stay_apart(storage: UnifiedStorage) -> None:
    acme, globex = storage.sync.tenant("acme"), storage.sync.tenant("globex")
    with acme.transaction():
        acme.kv.set("plan", "large")
    assert (acme.kv.get("plan"), globex.kv.get("plan")) == ("large", None)


def test_a_server_that_is_down_after_the_commit_gets_it_when_it_is_back(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    mode = request.node.callspec.params["run"]
    if reason := no_redis("wheel"):
        pytest.skip(reason)
    with RedisServer("wheel") as server, placed(f"sqlite:///{tmp_path}/m.db", server.url, "memory://") as storage:
        face: Any = Face(storage.sync) if mode == "sync" else storage.aio

        async def body() -> None:
            orders = face.repository(Order)
            await face.kv.set("warm", 1)
            async with face.transaction():
                await orders.create(Order(1))
                await face.kv.set("a", 1)
                await face.events.append("s", 1)
                server.kill()
            assert await orders.get(1) == Order(1)
            async with face.transaction():
                await orders.create(Order(2))
                await face.kv.set("a", 2)
                await face.events.append("s", 2)
            with pytest.raises(errors.AmbidexError):
                await face.kv.get("a")
            assert await face.recover() == 0
            server.start()
            for _ in range(200):
                if await face.recover():
                    break
                await storage._core.runtime(mode == "sync").sleep(0.05)
            assert await face.recover() == 0
            assert await face.kv.get("a") == 2
            assert [record.value for record in await face.events.tail("s")] == [1, 2]

        caplog.set_level(logging.WARNING, "ambidex")
        if mode == "sync":
            drive(body())
        else:
            asyncio.run(body())
        assert "a unit was committed" in caplog.text


def test_what_can_never_be_applied_is_set_aside_and_holds_up_nothing(
    storage: UnifiedStorage, stopped: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with storage.sync.transaction():
        storage.sync.kv.set("a", 1)
        storage.sync.index.add("1", "swans")
    with storage.sync.transaction():
        storage.sync.kv.set("a", 2)
    stopped.undo()

    async def refuse(namespace: str, items: Any) -> None:
        raise errors.UnsupportedValue("no vector of 7 numbers fits here")

    stopped.setattr(storage._core.backend(Capability.SEARCH).blocking.search, "index", refuse)
    assert storage.sync.recover() == 1
    assert storage.sync.kv.get("a") == 2
    assert "no vector of 7 numbers fits here" in caplog.text
    assert storage.sync.recover() == 0


def test_a_main_backend_without_transactions_has_no_units() -> None:
    storage = UnifiedStorage("redis://127.0.0.1:1", search="memory://").sync
    with pytest.raises(errors.CapabilityMissing, match="transactions"):
        storage.recover()
    with pytest.raises(errors.CapabilityMissing, match="transactions"), storage.transaction():
        pass
