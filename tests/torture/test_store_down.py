"""The server behind the stores is killed or frozen: reads degrade, writes are refused, health says which; then back."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive
from ambidex.errors import AmbidexError
from tests.services import RedisServer
from tests.services.handle import Server
from tests.stores.conftest import Awaited
from tests.torture.redis_support import timed, timed_async
from tests.torture.servers import DURABLE, server_of
from tests.torture.together import all_at_once

pytestmark = [pytest.mark.torture, pytest.mark.timeout(300)]

TIMEOUT = 0.5
"""The deadline of a call, in seconds."""
PROBE = 2.0
"""The deadline of a health check's probe, in seconds."""
GRACE = 1.0
"""What a busy machine may add; far below what waiting for a frozen server without a deadline takes."""
RETURN = 2.0
"""Within so many seconds of the server's return everything works again."""

MEDIA = f"media://{'0' * 64}/a"
EMPTY = {"vector_results": [], "conversation_context": [], "combined_relevance": 0.0}
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the otter"}]


@pytest.fixture(scope="module", params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that keeps what it acknowledged when it is killed."""
    with server_of(request.param, DURABLE) as server:
        yield server


def searches(server: Server) -> bool:
    """Whether the search stands on the server, too; else it is in a file, and well all the time."""
    return not isinstance(server, RedisServer)


def in_files(server: Server) -> set[str]:
    """What does not stand on the server."""
    return {"blobs"} if searches(server) else {"blobs", "search"}


@pytest.fixture
def storage(server: Server, tmp_path: Path) -> Iterator[UnifiedStorage]:
    """What the server can on the server, the rest in files; a tenant that no other test uses."""
    places = {"blobs": f"file://{tmp_path}/blobs"}
    if not searches(server):
        places["search"] = f"sqlite:///{tmp_path}/index.db"
    storage = UnifiedStorage(server.url, timeout=TIMEOUT, pool_size=60, **places)  # type: ignore[arg-type]
    yield storage.tenant(tmp_path.name)
    storage.close()


@dataclass
class Note:
    """A record."""

    id: int
    text: str


class Fault:
    """One way to be away, and how it ends."""

    def __init__(self, name: str, server: Server) -> None:
        self.name, self._server = name, server

    def begin(self) -> None:
        (self._server.kill if self.name == "killed" else self._server.pause)()

    def end(self) -> None:
        if self.name == "killed":
            self._server.start()
        else:
            self._server.resume()


@pytest.fixture(params=["killed", "frozen"])
def fault(request: pytest.FixtureRequest, server: Server) -> Iterator[Fault]:
    fault = Fault(request.param, server)
    yield fault
    fault.end()  # also where the test failed in between; ending twice is harmless


def writes(face: Any) -> dict[str, Callable[[], Any]]:
    """Every way to write that the server stands behind."""
    chat, documents, kv, notes = face.conversations, face.documents, face.kv, face.repository(Note)
    return {
        "save": lambda: face.save_conversation("c", MESSAGES),
        "append": lambda: chat.append("c", MESSAGES[0]),
        "extend": lambda: chat.extend("c"),
        "reset": lambda: chat.reset("c"),
        "set_metadata": lambda: chat.set_metadata("c", a=1),
        "delete": lambda: chat.delete("c"),
        "store": lambda: face.store_document("an otter", {"path": "new"}),
        "batch": lambda: face.batch_store_documents(["one", "two"]),
        "update": lambda: documents.update("id", "text"),
        "documents.delete": lambda: documents.delete("id"),
        "kv.set": lambda: kv.set("k", 1),
        "kv.set_many": lambda: kv.set_many({"k": 1, "l": 2}),
        "kv.incr": lambda: kv.incr("n"),
        "kv.delete": lambda: kv.delete("k"),
        "kv.get_or_set": lambda: kv.get_or_set("m", lambda: 1),
        "repository.create": lambda: notes.create(Note(9, "new")),
        "repository.update": lambda: notes.update(Note(1, "changed")),
        "repository.delete": lambda: notes.delete(1),
        "events.append": lambda: face.events.append("e", 1),
        "store_media": lambda: face.store_media(b"new", "new", "text/plain"),
        "media.delete": lambda: face.media.delete(MEDIA),
    }


def strict_reads(face: Any) -> dict[str, Callable[[], Any]]:
    """Reads that have nothing to fall back on."""
    chat, documents, kv, notes = face.conversations, face.documents, face.kv, face.repository(Note)
    return {
        "strict": lambda: face.get_conversation("c", strict=True),
        "window": lambda: chat.window("c"),
        "history": lambda: chat.history("c"),
        "list_active": chat.list_active,
        "statistics": lambda: chat.statistics("c"),
        "documents.get": lambda: documents.get("id"),
        "documents.list": documents.list,
        "documents.find": lambda: documents.find("otter"),
        "kv.get": lambda: kv.get("k"),
        "kv.get_many": lambda: kv.get_many(["k", "l"]),
        "kv.namespaces": kv.namespaces,
        "repository.get": lambda: notes.get(1),
        "repository.list": notes.list,
        "repository.page": notes.page,
        "events.tail": lambda: face.events.tail("e"),
        "media.read": lambda: face.media.read(MEDIA),
        "media.info": lambda: face.media.info(MEDIA),
    }


async def pause(mode: str) -> None:
    if mode == "async":
        await asyncio.sleep(0.02)
    else:
        threading.Event().wait(0.02)


async def clocked(mode: str, call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and outcome of a call; in synchronous code it is done when it returns."""
    if mode == "async":
        return await timed_async(call)
    return timed(lambda: drive(call()))


def run(mode: str, storage: UnifiedStorage, body: Callable[[Any], Any]) -> None:
    if mode == "sync":
        drive(body(Awaited(storage.sync)))
        return

    async def main() -> None:
        await body(storage.aio)
        await storage.aio.close()

    asyncio.run(main())


def of_the_index(face: Any) -> dict[str, Callable[[], Any]]:
    """Every use of a search that stands on the server."""
    return {
        "index.add": lambda: face.index.add("id", "an otter"),
        "index.search": lambda: face.index.search("otter"),
        "index.count": face.index.count,
        "index.remove": lambda: face.index.remove("id"),
        "index.list": face.index.list,
    }


async def while_away(mode: str, face: Any, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Assert what each operation gives while the server is away, and that each ends."""
    degraded = {
        "get_conversation": (lambda: face.get_conversation("c"), None),
        "search_context": (lambda: face.search_context("otter", "c"), EMPTY),
    }
    # All at once, so that the breaker, which soon answers in the server's place, has not seen anything yet.
    others = of_the_index(face) if searches(server) else {}
    ends = await all_at_once(mode, {**strict_reads(face), **writes(face), **others})
    for name, (seconds, outcome) in ends.items():
        assert isinstance(outcome, AmbidexError), (name, outcome)
        assert seconds < TIMEOUT + GRACE, name
    for name, (call, expected) in degraded.items():
        caplog.clear()
        seconds, outcome = await clocked(mode, call)
        assert outcome == expected, name
        assert seconds < TIMEOUT + GRACE, name
        assert [record.levelname for record in caplog.records].count("ERROR") == 1, name
    if searches(server):
        assert await face.search_context("otter") == EMPTY
    else:  # what stands in the file works on
        assert len((await face.search_context("otter"))["vector_results"]) == 1


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_reads_degrade_writes_are_refused_and_all_is_back_soon(
    mode: str, storage: UnifiedStorage, server: Server, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ambidex")

    def is_whole(found: list[dict[str, Any]]) -> bool:
        texts = [message["content"] for message in found]
        return texts[:2] == ["hi", "the otter"] and texts[-1] == "again"

    async def back(face: Any) -> None:
        began = time.monotonic()

        async def soon(call: Callable[[], Any], is_right: Callable[[Any], bool] = lambda _outcome: True) -> None:
            """Repeat a call until it works; on a busy machine the first ones may not end in time."""
            while True:
                _, outcome = await clocked(mode, call)
                if not isinstance(outcome, Exception) and is_right(outcome):
                    return
                assert time.monotonic() - began < RETURN + GRACE, outcome
                await pause(mode)

        await soon(lambda: face.conversations.append("c", {"role": "user", "content": "again"}))
        await soon(lambda: face.get_conversation("c", strict=True), is_whole)
        await soon(lambda: face.store_document("a newt"))
        await soon(lambda: face.search_context("newt", "c"), lambda found: len(found["vector_results"]) == 1)
        for name, call in strict_reads(face).items():
            if not name.startswith("media"):
                await soon(call)

    async def body(face: Any) -> None:
        await face.repository(Note).upsert(Note(1, "one"))
        await face.conversations.delete("c")
        await face.save_conversation("c", MESSAGES)
        assert len(await face.get_conversation("c")) == 2
        fault.begin()
        await while_away(mode, face, server, caplog)
        fault.end()
        await back(face)

    run(mode, storage, body)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_health_check_says_which_capabilities_are_down(
    mode: str, storage: UnifiedStorage, server: Server, fault: Fault
) -> None:
    """Every capability has an entry; those in the file are well all the time."""

    async def body(face: Any) -> None:
        well = await face.health_check()
        assert {str(capability) for capability in storage._core.configured()} == set(well)
        assert {"kv", "log", "records", "search", "blobs"} <= set(well)
        assert all(well.values())
        fault.begin()
        for _ in range(2):
            seconds, health = await clocked(mode, face.health_check)
            assert seconds < PROBE + GRACE
            assert health == {name: name in in_files(server) for name in well}
        fault.end()
        began = time.monotonic()
        while not all((await face.health_check()).values()):
            assert time.monotonic() - began < RETURN + GRACE
            await pause(mode)
        assert await face.health_check() == well

    run(mode, storage, body)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_health_check_before_anything_was_opened(
    mode: str, storage: UnifiedStorage, server: Server, fault: Fault
) -> None:
    async def body(face: Any) -> None:
        fault.begin()
        seconds, health = await clocked(mode, face.health_check)
        assert seconds < PROBE + GRACE
        assert {name for name, good in health.items() if good} == in_files(server)

    run(mode, storage, body)


def test_control_a_frozen_server_accepts_and_never_answers(server: Server) -> None:
    """Nothing but a deadline ends such a wait: the kernel says that all is well."""
    server.pause()
    try:
        with socket.create_connection(server.address, timeout=TIMEOUT) as bare:
            bare.sendall(b"PING\r\n" if isinstance(server, RedisServer) else b"\0\0\0\x08\x04\xd2\x16\x2f")
            with pytest.raises(TimeoutError):
                bare.recv(1)
    finally:
        server.resume()
