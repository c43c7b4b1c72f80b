"""What transactions have left elsewhere is listed, made when its reason is gone, or given up; in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest

from ambidex import UnifiedStorage, errors
from ambidex.core.codec import encode
from ambidex.core.ports import When
from ambidex.core.spec import Id, Indexed, Unique
from ambidex.stores.outbox_admin import LeftWrite
from ambidex.stores.outbox_rows import Row
from tests.stores.conftest import Face, Run, in_units, stop_applying


@dataclass
class Ticket:
    """As one process knows it."""

    id: Annotated[int, Id()]
    seat: Annotated[str, Indexed()] = ""

    __tablename__ = "tickets"


@dataclass
class UniqueTicket:
    """As a newer version of the program knows it."""

    id: Annotated[int, Id()]
    seat: Annotated[str, Unique()] = ""

    __tablename__ = "tickets"


Places = dict[str, str]


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """The main backend, that of key-value, and that of records."""
    main, other = getattr(request, "param", "sqlite+sqlite").split("+")
    urls = {name: f"sqlite:///{tmp_path}/{name}.db?durability=relaxed" for name in ("main", "other", "records")}
    if main == "postgres":
        urls["main"] = request.getfixturevalue("postgres_url").partition("?")[0] + f"?schema=s{uuid4().hex}"
    if other == "redis":
        urls["other"] = f"{request.getfixturevalue('redis_url')}&prefix={uuid4().hex}:"
    return urls


def opened(places: Places) -> UnifiedStorage:
    return UnifiedStorage(places["main"], kv=places["other"], records=places["records"], embedder="none")


@pytest.fixture
def storage(places: Places) -> Iterator[UnifiedStorage]:
    with closing(opened(places)) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, storage: UnifiedStorage) -> Run:
    return in_units(request.param, storage)


mains = pytest.mark.parametrize("places", ["sqlite+sqlite", "postgres+redis"], indirect=True)


async def refused(storage: Any, patch: pytest.MonkeyPatch) -> str:
    """Commit a unit whose records a newer version of the model does not allow any more; return its name."""
    with patch.context() as stopped:
        stop_applying(stopped)
        async with storage.transaction():
            await storage.events.append("orders", 1)
            await storage.kv.set("a", "my secret")
            await storage.repository(Ticket).upsert(Ticket(1, "1a"))
            await storage.repository(Ticket).upsert(Ticket(2, "2a"))
        (left,) = await storage.outbox.waiting()
        assert [write.place for write in left.writes] == ["kv", "records", "records"]
        assert (left.error, left.failed_at) == ("", None)
        await storage.repository(UniqueTicket).create(UniqueTicket(9, "1a"))
    assert await storage.recover() == 0
    return str(left.id)


@mains
def test_what_was_refused_is_listed_and_made_when_its_reason_is_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(storage: Any) -> None:
        assert await storage.outbox.failed() == []
        name = await refused(storage, monkeypatch)
        assert await storage.kv.get("a") == "my secret"  # what other backends take is made
        assert await storage.repository(Ticket).count() == 1
        (left,) = await storage.outbox.failed()
        assert left.id == name
        assert left.writes == [LeftWrite("records", "records", "upsert", [id_]) for id_ in "12"]
        assert left.error.startswith("AlreadyExists: ")
        now = datetime.now(UTC)
        assert now - timedelta(minutes=5) < left.committed_at <= left.failed_at <= now
        assert "secret" not in repr(left)
        assert await storage.outbox.waiting() == []

        with pytest.raises(errors.AlreadyExists):
            await storage.outbox.retry(name)
        assert [again.id for again in await storage.outbox.failed()] == [name]
        await storage.kv.set("a", "newer")
        await storage.repository(Ticket).delete(9)
        await storage.outbox.retry(name)
        assert sorted([ticket.id for ticket in await storage.repository(Ticket).list()]) == [1, 2]
        assert await storage.kv.get("a") == "newer"  # that had been made
        assert await storage.outbox.failed() == []
        for gone in (storage.outbox.retry, storage.outbox.discard):
            with pytest.raises(errors.NotFound, match=name):
                await gone(name)

    run(body)


@mains
def test_what_was_refused_can_be_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(storage: Any) -> None:
        name = await refused(storage, monkeypatch)
        await storage.outbox.discard(name)
        assert await storage.outbox.failed() == await storage.outbox.waiting() == []
        assert await storage.recover() == 0
        assert [ticket.id for ticket in await storage.repository(Ticket).list()] == [9]

    run(body)


@mains
def test_what_waits_is_listed_and_can_be_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(storage: Any) -> None:
        stop_applying(monkeypatch)
        for number in range(3):
            async with storage.transaction():
                await storage.kv.set_many({"a": number, f"n-{number}": 1})
        first, second, third = await storage.outbox.waiting()
        assert first.committed_at <= second.committed_at <= third.committed_at
        (write,) = second.writes
        assert write.method == "put_many"
        assert [name.rpartition(":")[2] for name in write.names] == ["a", "n-1"]
        assert await storage.outbox.waiting(1) == [first]
        await storage.outbox.discard(third.id)
        with pytest.raises(errors.NotFound):
            await storage.outbox.retry(first.id)  # what waits comes by itself
        assert await storage.recover() == 2
        assert await storage.kv.get("a") == 1
        assert await storage.kv.get("n-2") is None

    run(body)


@pytest.mark.parametrize("places", ["sqlite+redis"], indirect=True)
def test_behind_what_was_refused_nothing_is_made_twice_or_lost(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis takes entries one by one: those before the refused one are made, it and those behind it are set aside."""

    async def body(face: Any) -> None:
        outbox = storage._core.outbox(isinstance(face, Face))
        leaf: Any = outbox._target("kv").leaf
        once = leaf.once
        apply, refuse = type(once).apply, True

        async def picky(self: Any, name: str, port: str, method: str, args: Any) -> None:
            if refuse and args[0].endswith(":bad"):
                raise errors.UnsupportedValue("not this one")
            await apply(self, name, port, method, args)

        monkeypatch.setattr(type(once), "apply", picky)
        async with face.transaction():
            await face.kv.set("before", 1)
            await face.kv.set("bad", 1)
            await face.kv.set("behind", 1)
        (left,) = await face.outbox.failed()
        assert [write.names[0].rpartition(":")[2] for write in left.writes] == ["bad", "behind"]
        assert await face.kv.get_many(["before", "bad", "behind"]) == {"before": 1}
        await face.kv.set("before", 2)
        refuse = False
        await face.outbox.retry(left.id)
        assert await face.kv.get_many(["before", "bad", "behind"]) == {"before": 2, "bad": 1, "behind": 1}

    run(body)


def test_a_retry_comes_behind_older_units_that_wait_for_the_same(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(face: Any) -> None:
        with monkeypatch.context() as stopped:
            stop_applying(stopped)
            for value in ("older", "aside"):
                async with face.transaction():
                    await face.kv.set("a", value)
        outbox = storage._core.outbox(isinstance(face, Face))
        _, (name, row) = await outbox.left(False, 10)
        assert isinstance(row, Row)
        await outbox._home.kv.put(
            "ob::x:" + name, row.set_aside(row.entries, errors.Corrupted("so")), None, When.ALWAYS
        )
        await outbox._home.kv.delete_many(["ob::r:" + name])
        await face.outbox.retry(name)
        assert await face.kv.get("a") == "aside"
        assert await face.recover() == 0

    run(body)


@mains
@pytest.mark.parametrize(
    "damaged",
    [
        b"\x07 of another format",
        encode(["no row"]),
        encode({"at": 1, "entries": [["kv", "kv", "explode", ["a"]]]}),
        encode({"at": 1, "entries": [["kv", "queue", "put", ["a"]]]}),
        encode({"at": 1, "entries": [["records", "records", "upsert", [["tickets", ""], []]]]}),
    ],
    ids=["bytes", "no row", "method", "port", "spec"],
)
def test_a_row_that_this_version_cannot_read_holds_up_nothing(
    run: Run, storage: UnifiedStorage, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(face: Any) -> None:
        home = storage._core.outbox(isinstance(face, Face))._home
        await home.kv.put("ob::r:" + "0" * 32, damaged, None, When.ALWAYS)
        async with face.transaction():
            await face.kv.set("a", 1)
        assert await face.kv.get("a") == 1
        assert await face.recover() == 0
        (left,) = await face.outbox.failed()
        assert (left.id, left.committed_at, left.writes) == ("0" * 32, None, [])
        assert left.error.startswith("Corrupted: what the unit 0000")
        assert "another version" in caplog.text
        with pytest.raises(errors.Corrupted):
            await face.outbox.retry(left.id)
        await face.outbox.discard(left.id)
        assert await face.outbox.failed() == []

    run(body)


def test_what_is_no_use_is_refused(run: Run, storage: UnifiedStorage) -> None:
    async def body(face: Any) -> None:
        for bad in ("", "a:b", "ü", None, 7):
            with pytest.raises(errors.InvalidQuery):
                await face.outbox.retry(bad)
            with pytest.raises(errors.InvalidQuery):
                await face.outbox.discard(bad)
        for limit in (0, 10_001, True, "1"):
            with pytest.raises(errors.InvalidQuery):
                await face.outbox.failed(limit)
        async with face.transaction():
            with pytest.raises(errors.UsageError, match="outside of transactions"):
                await face.outbox.retry("a" * 32)

    run(body)
    with pytest.raises(errors.TenantMismatch, match="all tenants"):
        storage.tenant("acme").outbox.failed()
    with pytest.raises(errors.CapabilityMissing, match="transactions"):
        UnifiedStorage("redis://127.0.0.1:1", search="memory://").outbox.failed()


def test_the_detecting_face_answers_in_both_modes(storage: UnifiedStorage) -> None:
    import asyncio

    async def main() -> Any:
        return await storage.outbox.waiting()

    assert storage.outbox.failed() == asyncio.run(main()) == []
