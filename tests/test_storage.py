"""The faces: made without opening anything, opened by themselves in any mode, thread, loop and process."""

import asyncio
import copy
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ambidex
from ambidex import AsyncStorage, Settings, StorageBackend, SyncStorage, UnifiedStorage, register_backend
from ambidex.backends.memory import MemoryBackend
from ambidex.core.ports import Capability
from ambidex.errors import CapabilityMissing, ConfigurationError, TenantMismatch
from ambidex.settings import BackendUrl

_MESSAGE = "UnifiedStorage initialized"
Make = Callable[[], UnifiedStorage]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[UnifiedStorage] = []

    def new() -> UnifiedStorage:
        url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/s.db"
        made.append(UnifiedStorage(url))
        return made[-1]

    yield new
    for storage in made:
        storage.close()


def _descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# ---------------------------------------------------------------- making


def test_making_one_opens_nothing(tmp_path: Path) -> None:
    before = _descriptors()
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/s.db", search=f"sqlite:///{tmp_path}/i.db")
    repr(storage), copy.copy(storage), pickle.dumps(storage), storage.sync, storage.aio, storage.tenant("t")
    assert list(tmp_path.iterdir()) == []
    assert _descriptors() == before
    storage.close()
    assert list(tmp_path.iterdir()) == []


def test_servers_are_not_needed_to_make_one() -> None:
    storage = UnifiedStorage("redis://nobody:hunter2@127.0.0.1:1/0", records="postgresql://u:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in repr(storage)
    assert "hunter2" not in repr(storage.sync) + repr(storage.aio) + repr(storage.settings)
    places = "'redis://nobody:***@127.0.0.1:1/0', records='postgresql://u:***@127.0.0.1:1/x'"
    assert repr(storage) == f"UnifiedStorage({places})"
    assert "acme" in repr(storage.tenant("acme"))


def test_settings_or_a_url_but_not_both() -> None:
    settings = Settings("memory://", timeout=3)
    assert UnifiedStorage(settings=settings).settings is settings
    with pytest.raises(ConfigurationError, match="not both"):
        UnifiedStorage("memory://", settings=settings)
    with pytest.raises(ConfigurationError, match="not both"):
        UnifiedStorage(settings=settings, timeout=5)


@pytest.mark.parametrize("cls", [UnifiedStorage, SyncStorage, AsyncStorage])
def test_bad_urls_are_refused_by_every_face(cls: type[Any]) -> None:
    for url in ("mysql://h", "nonsense", "sqlite://x", ""):
        with pytest.raises(ConfigurationError):
            cls(url)
    with pytest.raises(ConfigurationError, match="unknown setting 'tiemout'"):
        cls("memory://", tiemout=5)


def test_each_face_can_be_made_from_a_url() -> None:
    sync = SyncStorage("memory://")
    sync.set("key", 1)
    assert sync.kv.get("key") == 1

    async def main() -> Any:
        async with AsyncStorage("memory://", timeout=5) as storage:
            await storage.set("key", 2)
            return await storage.kv.get("key")

    assert asyncio.run(main()) == 2


def test_without_url_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMBIDEX_URL", f"sqlite:///{tmp_path}/env.db")
    with UnifiedStorage() as storage:
        storage.set("key", 1)
    assert (tmp_path / "env.db").exists()
    monkeypatch.delenv("AMBIDEX_URL")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with UnifiedStorage() as storage:
        storage.set("key", 1)
    assert list((tmp_path / "data").rglob("ambidex.db"))


def test_the_abstract_base_has_the_four_methods() -> None:
    assert issubclass(UnifiedStorage, StorageBackend)
    assert StorageBackend.__abstractmethods__ == {"get", "set", "delete", "search"}
    with pytest.raises(TypeError, match="abstract"):
        StorageBackend()  # type: ignore[abstract]


def test_the_module_level_instance_is_lazy(tmp_path: Path) -> None:
    code = (
        "import ambidex, os, sys\n"
        "assert 'ambidex.storage' not in sys.modules\n"
        "storage = ambidex.unified_storage\n"
        "assert storage is ambidex.unified_storage\n"
        "assert not os.listdir(os.environ['XDG_DATA_HOME'])\n"
        "storage.set('key', {'a': 1})\n"
        "print(storage.get('key'))\n"
    )
    environ = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    environ.pop("AMBIDEX_URL", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)
    assert (done.stdout, done.stderr) == ("{'a': 1}\n", "")
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = ambidex.nothing_like_this


# ---------------------------------------------------------------- detecting


def test_raw_key_value_detects_the_mode(make: Make) -> None:
    storage = make()
    assert storage.set("key", {"a": b"x"}) is None
    assert storage.get("key") == {"a": b"x"}

    async def main() -> list[Any]:
        await storage.set("key", [1], ttl=60)
        return [await storage.get("key"), await storage.delete("key"), await storage.delete("key")]

    assert asyncio.run(main()) == [[1], True, False]
    assert storage.get("key") is None
    storage.index.add("x", "some words")
    assert [hit.id for hit in storage.search("words", top_k=3)] == ["x"]


def test_rooms_detect_the_mode(make: Make) -> None:
    storage = make()
    assert storage.kv.namespace("room").incr("n") == 1

    async def main() -> list[Any]:
        await storage.events.append("s", 1, 2)
        values = [record.value async for record in storage.events.iterate("s")]
        return [await storage.kv.namespace("room").incr("n"), values, await storage.index.count()]

    assert asyncio.run(main()) == [2, [1, 2], 0]
    assert [record.value for record in storage.events.iterate("s")] == [1, 2]
    assert "room" in repr(storage.kv.namespace("room"))


def test_statements_choose_the_face(make: Make) -> None:
    storage = make()
    with storage as sync:
        assert isinstance(sync, SyncStorage)
        sync.set("key", 1)

    async def main() -> Any:
        async with storage as aio:
            assert isinstance(aio, AsyncStorage)
            return await aio.get("key")

    assert asyncio.run(main()) == 1
    with storage.transaction():
        storage.set("key", 2)
    assert storage.get("key") == 2


# ---------------------------------------------------------------- initialising and closing


def _lines(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.message == _MESSAGE for record in caplog.records)


def test_one_log_line_an_instance(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ambidex")
    storage = make()
    assert _lines(caplog) == 0
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: storage.initialize(), range(8)))

    async def main() -> None:
        await asyncio.gather(*(storage.initialize_async() for _ in range(4)))
        await storage.set("key", 1)

    asyncio.run(main())
    storage.tenant("t").set("key", 1)
    copy.copy(storage).set("key", 1)
    storage.close()
    assert storage.get("key") == 1
    assert _lines(caplog) == 1
    make().get("key")
    assert _lines(caplog) == 2


def test_the_first_use_initialises_in_either_mode(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ambidex")
    make().get("key")
    assert _lines(caplog) == 1
    storage = make()

    async def main() -> None:
        assert await storage.get("key") is None

    asyncio.run(main())
    assert _lines(caplog) == 2


def test_initialising_in_one_mode_serves_the_other(make: Make) -> None:
    storage = make()
    storage.initialize()

    async def use() -> Any:
        await storage.set("key", 1)
        await storage.initialize_async()
        return await storage.get("key")

    assert asyncio.run(use()) == 1
    other = make()

    asyncio.run(other.initialize_async())
    other.set("other", 2)
    assert other.get("other") == 2


def test_closing_in_any_state_and_using_again(make: Make) -> None:
    storage = make()
    storage.close()
    asyncio.run(storage.close_async())
    storage.set("key", 1)
    asyncio.run(storage.close_async())
    assert storage.get("key") == 1

    async def main() -> Any:
        storage.close()
        value = await storage.get("key")
        storage.close()
        await storage.close_async()
        return value

    assert asyncio.run(main()) == 1
    assert storage.get("key") == 1


def test_close_releases_descriptors_and_threads(tmp_path: Path) -> None:
    before = _descriptors()
    names = {thread.name for thread in threading.enumerate()}
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/s.db")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: storage.set(f"k{n}", n), range(16)))
    asyncio.run(storage.aio.set("key", 1))
    assert _descriptors() > before
    storage.close()
    assert _descriptors() == before
    assert {thread.name for thread in threading.enumerate() if thread.is_alive()} <= names | {"asyncio_0"}


# ---------------------------------------------------------------- copies


def test_copies_share_and_pickles_reopen(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/s.db", timeout=9).tenant("acme")
    storage.set("key", 1)
    shared, again = copy.copy(storage), pickle.loads(pickle.dumps(storage))
    assert shared._core is storage._core
    assert again._core is not storage._core
    assert repr(shared) == repr(again) == repr(storage)
    assert shared.get("key") == again.get("key") == 1
    assert again.settings.timeout == 9
    again.close()
    storage.close()


def test_deepcopy_is_safe(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/s.db")
    storage.set("key", [1])
    again = copy.deepcopy(storage)
    assert again.get("key") == [1]
    again.close()
    storage.close()


# ---------------------------------------------------------------- threads, loops, processes


def test_repeated_loops_leak_no_descriptor(make: Make) -> None:
    storage = make()

    async def use(number: int) -> Any:
        await storage.set("key", number)
        return await storage.kv.get_many(["key", "absent"])

    for number in range(5):
        asyncio.run(use(number))
    before = _descriptors()
    for number in range(50):
        assert asyncio.run(use(number)) == {"key": number}
    assert _descriptors() <= before


def test_many_threads_and_loops_at_once(make: Make) -> None:
    storage = make()
    errors: list[BaseException] = []
    barrier = threading.Barrier(36)

    def blocking(worker: int) -> None:
        for number in range(8):
            storage.set(f"{worker}:{number}", [worker, number])
            assert storage.get(f"{worker}:{number}") == [worker, number]
            storage.kv.incr("n")

    async def loop(worker: int) -> None:
        for number in range(8):
            await storage.set(f"{worker}:{number}", [worker, number])
            assert await storage.get(f"{worker}:{number}") == [worker, number]
            await storage.kv.incr("n")

    def run(worker: int) -> None:
        try:
            barrier.wait(60)
            if worker % 9 == 0:
                asyncio.run(loop(worker))
            else:
                blocking(worker)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(36)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert storage.get("n") == 36 * 8


def test_a_forked_child_works_and_leaves_the_parent_alone(make: Make) -> None:
    storage = make()
    storage.set("key", "parent")
    asyncio.run(storage.aio.get("key"))
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # in the child
        status = 1
        try:
            assert storage.get("key") == "parent"
            storage.set("child", 1)
            assert asyncio.run(storage.aio.get("child")) == 1
            with storage.sync.transaction():
                storage.sync.set("unit", 1)
            storage.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert storage.get("key") == "parent"
    storage.set("after", 1)
    assert storage.get("after") == 1


def test_a_fork_while_other_threads_write(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/s.db?durability=relaxed&timeout=20")
    storage.set("key", 0)
    for number in range(3):
        stop = threading.Event()

        def write(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                storage.kv.incr("n")

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        stopped, stopping = os.pipe()
        pid = os.fork()
        if pid == 0:  # pragma: no cover  # in the child
            status = 1
            try:
                os.read(stopped, 1)  # the parent holds no lock any more, so none may be left here either
                storage.set(f"child-{number}", 1)
                status = 0
            finally:
                os._exit(status)
        stop.set()
        for thread in threads:
            thread.join()
        os.write(stopping, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        for end in (stopped, stopping):
            os.close(end)
        assert storage.get(f"child-{number}") == 1
    storage.close()


# ---------------------------------------------------------------- tenants, health, capabilities


def test_tenants_are_bound_once(make: Make) -> None:
    storage = make()
    acme, other = storage.tenant("acme"), storage.tenant("other")
    acme.set("key", "acme's")
    assert (storage.get("key"), other.get("key"), acme.get("key")) == (None, None, "acme's")
    assert acme.sync.get("key") == asyncio.run(acme.aio.get("key")) == "acme's"
    assert storage.sync.tenant("acme").get("key") == "acme's"
    assert asyncio.run(storage.aio.tenant("acme").get("key")) == "acme's"
    assert acme.tenant("acme").get("key") == "acme's"
    for face in (acme, acme.sync, acme.aio):
        with pytest.raises(TenantMismatch, match="bound to 'acme'"):
            face.tenant("other")
    with pytest.raises(TenantMismatch, match="no name"):
        storage.tenant("")


def test_health_names_every_capability(make: Make) -> None:
    storage = make()
    expected = {str(capability): True for capability in storage._core.configured()}
    assert {"kv", "log", "records", "search", "transactions"} <= expected.keys()
    assert storage.health_check() == expected
    assert asyncio.run(storage.aio.health_check()) == expected


def test_a_broken_backend_is_reported_and_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "broken.db"
    path.write_bytes(b"this is no database" * 1000)
    storage = UnifiedStorage("memory://", search=f"sqlite:///{path}")
    health = storage.health_check()
    assert health["kv"] is True
    assert health["search"] is False
    assert "health check of sqlite failed" in caplog.text
    assert asyncio.run(storage.aio.health_check())["search"] is False
    storage.close()


def test_capabilities_live_where_they_are_placed(tmp_path: Path) -> None:
    storage = UnifiedStorage("memory://", search=f"sqlite:///{tmp_path}/i.db")
    storage.set("key", 1)
    assert not (tmp_path / "i.db").exists()
    storage.index.add("x", "words")
    assert (tmp_path / "i.db").exists()
    storage.close()


class _KvOnly(MemoryBackend):
    name = "kvonly"
    capabilities = frozenset({Capability.KV})


def test_a_third_partys_backend_and_what_it_lacks() -> None:
    def make(place: BackendUrl, settings: Settings) -> _KvOnly:
        assert place.scheme == "kvonly"
        return _KvOnly(place, settings)

    register_backend("kvonly", make)
    storage = UnifiedStorage("kvonly://anything/at?all=1")
    storage.set("key", 1)
    assert storage.get("key") == 1
    with pytest.raises(CapabilityMissing, match=r"'kvonly' .* has no search; it has kv. Place search elsewhere"):
        storage.sync.index.search("x")
    advice = (
        r"has no transactions; .* UnifiedStorage\('sqlite:///data.db', kv='kvonly://"  # and no setting there is not
    )
    with pytest.raises(CapabilityMissing, match=advice), storage.sync.transaction():
        pass
    assert storage.health_check() == {"kv": True}
    beside = UnifiedStorage("kvonly://x", search="memory://")
    beside.index.add("x", "words")
    assert [hit.id for hit in beside.search("words")] == ["x"]


def test_a_backend_whose_driver_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="redis")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigurationError, match=r"redis:// needs the module 'redis': pip install 'ambidex\[redis\]'"):
        UnifiedStorage("redis://h").sync.kv.get("key")
