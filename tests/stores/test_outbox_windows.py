"""Units of work stopped, overtaken or misplaced at one place: what was committed is made once, in the right place.

Each test holds the machine at the place it is about; nothing is left to luck or to sleeping.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ambidex import UnifiedStorage, errors
from ambidex.core.dual import drive
from ambidex.core.ports import Capability
from ambidex.stores import outbox as outbox_module
from ambidex.stores.outbox import Outbox
from tests.stores.conftest import Face, Port, Run, in_units, stop_applying


@pytest.fixture
def main(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/main.db?durability=relaxed"


@pytest.fixture
def other(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/other.db?durability=relaxed"


@pytest.fixture
def storage(main: str, other: str) -> Iterator[UnifiedStorage]:
    with closing(UnifiedStorage(main, kv=other)) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, storage: UnifiedStorage) -> Run:
    return in_units(request.param, storage)


def core_outbox(storage: UnifiedStorage, face: Any) -> Outbox:
    return storage._core.outbox(isinstance(face, Face))


def test_a_process_that_places_things_otherwise_applies_nothing(
    run: Run, main: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would write to its own main backend what another process has committed for the one on which it has keys."""

    async def body(face: Any) -> None:
        with monkeypatch.context() as stopped:
            stop_applying(stopped)
            async with face.transaction():
                await face.kv.set("a", 1)
        plain = UnifiedStorage(main).sync
        assert plain.recover() == 0
        assert plain.kv.get("a") is None
        assert "kv=" in caplog.text
        elsewhere = UnifiedStorage(main, search=f"sqlite:///{tmp_path}/index.db", embedder="none").sync
        with elsewhere.transaction():
            elsewhere.index.add("1", "swans")
        assert elsewhere.index.count() == 1
        assert elsewhere.kv.get("a") is None
        for one in (plain, elsewhere):
            one.close()
        assert await face.recover() == 1
        assert await face.kv.get("a") == 1

    run(body)


def test_a_write_that_is_begun_in_a_unit_and_overtaken_by_its_end_is_refused(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that nobody waited for asks the other backend while the unit ends: it must not be told that it is done."""

    async def body() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()
        port: Any = storage._core.leaf(Capability.KV, blocking=False).kv
        get_many = port._inner.get_many

        async def slow(keys: Any) -> Any:
            asked.set()
            await answer.wait()
            return await get_many(keys)

        await storage.aio.kv.set("a", 1)
        monkeypatch.setattr(port, "_inner", Port(port._inner, get_many=slow))
        monkeypatch.delitem(port.__dict__, "delete_many", raising=False)
        async with storage.aio.transaction():
            await storage.aio.kv.set("b", 1)
            task = asyncio.create_task(storage.aio.kv.delete("a"))
            await asked.wait()
        answer.set()
        with pytest.raises(errors.UsageError, match="has ended"):
            await task
        monkeypatch.undo()
        assert await storage.aio.kv.get_many(["a", "b"]) == {"a": 1, "b": 1}
        await storage.aio.close()

    asyncio.run(body())


def test_a_page_that_was_read_long_ago_is_not_applied_from_memory(
    run: Run, storage: UnifiedStorage, main: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile others have applied its rows, and the marks that say so are gone."""

    async def body(face: Any) -> None:
        with monkeypatch.context() as stopped:
            stop_applying(stopped)
            for value in (1, 2):
                async with face.transaction():
                    await face.kv.set(f"a-{value}", value)
        slow, late = core_outbox(storage, face), 0.0
        apply = type(slow)._apply

        async def frozen(self: Outbox, row: Any) -> bool:
            nonlocal late
            done = await apply(self, row)
            if self is slow and not late:  # stopped here, for an hour
                with closing(UnifiedStorage(main, kv=other)) as faster:
                    assert faster.sync.recover() == 1
                    faster.sync.kv.set("a-2", "newer")
                    target = faster._core.outbox(True)._target("kv").leaf
                    marks, _ = drive(target.kv.scan("ob::m:", None, 100))
                    assert drive(target.kv.delete_many(marks)) == 2
                late = 3600.0
            return done

        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late, time_ns=time.time_ns)
        monkeypatch.setattr(outbox_module, "time", clock)
        monkeypatch.setattr(Outbox, "_apply", frozen)
        assert await face.recover() == 1
        assert await face.kv.get_many(["a-1", "a-2"]) == {"a-1": 1, "a-2": "newer"}

    run(body)


def test_a_row_is_not_begun_long_after_it_was_read(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen between reading and applying: it is left for another look."""

    async def body(face: Any) -> None:
        with monkeypatch.context() as stopped:
            stop_applying(stopped)
            async with face.transaction():
                await face.kv.set("a", 1)
        outbox = core_outbox(storage, face)
        keys, _ = await outbox._home.kv.scan("ob::r:", None, 10)
        (row,) = await outbox._read(keys)
        with pytest.raises(errors.DeadlineExceeded):
            await outbox._apply(row._replace(read=row.read - 3600))
        assert await face.recover() == 1
        assert await face.kv.get("a") == 1

    run(body)


def test_many_units_behind_a_target_that_is_down_do_not_each_read_the_whole_queue(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_RECOVER_SOON", 3600.0)
    scans: list[str] = []

    async def body(face: Any) -> None:
        with monkeypatch.context() as stopped:
            stop_applying(stopped)
            for number in range(130):
                async with face.transaction():
                    await face.kv.set(f"a-{number}", number)
        outbox = core_outbox(storage, face)
        scan = outbox._home.kv.scan

        async def counted(prefix: str, after: str | None, limit: int) -> Any:
            scans.append(prefix)
            return await scan(prefix, after, limit)

        async def down(*_: Any) -> None:
            raise errors.Unavailable("down")

        with monkeypatch.context() as patch:
            patch.setattr(
                outbox,
                "_home",
                SimpleNamespace(kv=Port(outbox._home.kv, scan=counted), transaction=outbox._home.transaction),
            )
            patch.setattr(Outbox, "_together", down)
            async with face.transaction():
                await face.kv.set("b", 1)
            assert len(scans) == 3  # its own look, and one pass through two pages
            for number in range(3):
                async with face.transaction():
                    await face.kv.set(f"c-{number}", 1)
            assert len(scans) == 3 + 3
        assert await face.recover() == 134
        assert await face.kv.get_many(["a-129", "b", "c-2"]) == {"a-129": 129, "b": 1, "c-2": 1}

    run(body)


def test_what_a_foreign_backend_lets_escape_does_not_undo_a_commit(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(face: Any) -> None:
        async def broken(*_: Any) -> None:
            raise KeyError("a driver's own")

        with monkeypatch.context() as patch:
            patch.setattr(Outbox, "_together", broken)
            async with face.transaction():
                await face.events.append("s", 1)
                await face.kv.set("a", 1)
            assert await face.kv.get("a") is None  # nor does it reach who merely reads
        assert "a unit was committed" in caplog.text
        assert await face.recover() == 1
        assert (await face.kv.get("a"), await face.events.length("s")) == (1, 1)

    run(body)


@pytest.mark.parametrize("place", ["_older", "_apply", "_settle"])
def test_a_task_cancelled_behind_its_commit_leaves_a_row_that_is_looked_for_soon(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    async def body() -> None:
        reached, original = asyncio.Event(), getattr(Outbox, place)

        async def held(self: Outbox, *args: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

        async def unit() -> None:
            async with storage.aio.transaction():
                await storage.aio.events.append("s", 1)
                await storage.aio.kv.set("a", 1)

        await storage.aio.kv.get("a")  # the next look is half a minute away
        monkeypatch.setattr(Outbox, place, held)
        task = asyncio.create_task(unit())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        monkeypatch.setattr(Outbox, place, original)
        assert storage._core._shared.due <= time.monotonic() + 5.0
        await storage.aio.recover()
        assert (await storage.aio.kv.get("a"), await storage.aio.events.length("s")) == (1, 1)
        assert await storage.aio.recover() == 0
        await storage.aio.close()

    asyncio.run(body())


def test_a_child_that_is_forked_inside_a_unit_commits_nothing(storage: UnifiedStorage) -> None:
    face = storage.sync
    with face.transaction():
        face.events.append("s", "parent")
        face.kv.set("a", "parent")
        pid = os.fork()
        if pid == 0:  # pragma: no cover  # in the child
            try:
                face.kv.set("a", "child")
                face.events.append("s", "child")
            except errors.AmbidexError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    assert face.kv.get("a") == "parent"
    assert [record.value for record in face.events.tail("s")] == ["parent"]
    assert face.recover() == 0
