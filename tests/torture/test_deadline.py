"""A server that answers slowly: an operation of several calls ends at its one deadline, not at that of each call."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage, deadline
from ambidex.errors import AmbidexError
from tests.services.proxy import Proxy
from tests.torture.servers import server_of
from tests.torture.together import Ends, all_at_once, in_threads

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

TIMEOUT = 0.4
"""The deadline of an operation, in seconds."""
DELAY = 0.35
"""What each round trip takes: a single one ends in time, two do not."""
GRACE = 0.25
"""What a busy machine may add; two round trips take longer than TIMEOUT + GRACE."""

USER = {"role": "user", "content": "hi"}
MESSAGES = [USER, {"role": "assistant", "content": "the otter"}]


@dataclass
class Note:
    """A record."""

    id: int
    text: str


@pytest.fixture(scope="module", params=["postgres", "redis"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with server_of(request.param) as server, Proxy(server.url) as proxy:
        yield proxy


def searches(proxy: Proxy) -> bool:
    """Whether the search stands on the server, too."""
    return proxy.url.startswith("postgres")


def open_at(proxy: Proxy, folder: Path, timeout: float) -> UnifiedStorage:
    query = "&" if "?" in proxy.url else "?"
    places = {"blobs": f"file://{folder}/blobs"}
    if not searches(proxy):
        places["search"] = f"sqlite:///{folder}/index.db"
    return UnifiedStorage(
        f"{proxy.url}{query}durability=relaxed",
        **places,  # type: ignore[arg-type]
        timeout=timeout,
        pool_size=40,
        embedder="none",
    ).tenant(folder.name)


async def prepared(face: Any) -> dict[str, Any]:
    """Store what the operations work on."""
    chats = face.conversations
    for name in ("append", "extend", "delete", "reset", "restore", "fork", "read", "metadata"):
        await chats.save(name, MESSAGES)
        await chats.set_metadata(name, a=1)
    await chats.reset("restore")
    ids = {name: await face.store_document(f"otter {name}", {"path": name}) for name in ("update", "delete", "get")}
    ids["media"] = await face.media.store(b"kept", "kept")
    ids["gone"] = await face.media.store(b"gone", "gone")
    await face.index.add("id", "an otter")
    await face.index.search("warm up")  # what is imported at the first search takes its time
    await face.repository(Note).upsert(Note(1, "one"))
    await face.repository(Note).page(size=1)
    return ids


def operations(face: Any, ids: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Every operation that makes several calls of the server."""
    chats, documents, media = face.conversations, face.documents, face.media
    return {
        "save_conversation": lambda: face.save_conversation("new", MESSAGES),
        "append": lambda: chats.append("append", USER, ttl_hours=1),
        "extend": lambda: chats.extend("extend"),
        "delete": lambda: chats.delete("delete"),
        "reset": lambda: chats.reset("reset"),
        "restore": lambda: chats.restore("restore"),
        "fork": lambda: chats.fork("fork"),
        "set_metadata": lambda: chats.set_metadata("metadata", b=2),
        "history": lambda: chats.history("read"),
        "statistics": lambda: chats.statistics("read"),
        "store_document": lambda: face.store_document("a newt", {"path": "new"}),
        "batch_store_documents": lambda: face.batch_store_documents(["one", "two"]),
        "documents.update": lambda: documents.update(ids["update"], "an adder"),
        "documents.delete": lambda: documents.delete(ids["delete"]),
        "documents.get": lambda: documents.get(ids["get"]),
        "documents.get_by_path": lambda: documents.get_by_path("get"),
        "documents.list": documents.list,
        "documents.find": lambda: documents.find("otter"),
        "get_or_set": lambda: face.kv.get_or_set("new", lambda: 1),
        "store_media": lambda: face.store_media(b"new", "new", "text/plain"),
        "media.delete": lambda: media.delete(ids["gone"]),
    }


def of_the_index(face: Any) -> dict[str, Callable[[], Any]]:
    """Operations of several calls where the search stands on the server."""
    return {
        "search": lambda: face.search("otter"),
        "search_context": lambda: face.search_context("otter", "read"),
        "index.add": lambda: face.index.add("new", "a newt"),
    }


async def _prepare(storage: UnifiedStorage) -> dict[str, Any]:
    async with storage as aio:
        return await prepared(aio)


def _connected(face: Any) -> None:
    """Hold a connection long enough for others to need one each."""
    with suppress(AmbidexError):
        face.kv.get("x")
    time.sleep(0.05)


def slowed(mode: str, proxy: Proxy, folder: Path, timeout: float, within: float = 60.0) -> Ends:
    """Return seconds and outcome of each operation while the server is slow; its connections stand before."""
    ids = asyncio.run(_prepare(open_at(proxy, folder, 30.0)))
    storage = open_at(proxy, folder, timeout)

    def calls(face: Any) -> dict[str, Callable[[], Any]]:
        return {**operations(face, ids), **(of_the_index(face) if searches(proxy) else {})}

    async def in_tasks() -> Ends:
        face = storage.aio
        try:
            await asyncio.gather(*(face.kv.get("x") for _ in range(30)), return_exceptions=True)
            proxy.delay(replies=DELAY)
            with deadline(within):
                return await all_at_once("async", calls(face))
        finally:
            await face.close()

    try:
        if mode == "async":
            return asyncio.run(in_tasks())
        in_threads({str(n): lambda: _connected(storage.sync) for n in range(30)})
        proxy.delay(replies=DELAY)
        return in_threads(calls(storage.sync))
    finally:
        proxy.heal()
        storage.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_operation_of_several_calls_ends_at_its_one_deadline(
    mode: str, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ambidex")
    ends = slowed(mode, proxy, tmp_path, TIMEOUT)
    late = {name: end for name, end in ends.items() if end[0] > TIMEOUT + GRACE}
    assert late == {}
    for name, (_, outcome) in ends.items():
        assert not isinstance(outcome, Exception) or isinstance(outcome, AmbidexError), (name, outcome)


def test_control_each_of_them_needs_longer_than_that(proxy: Proxy, tmp_path: Path) -> None:
    """With time enough they take more than one round trip, so that without the one deadline they would be late."""
    ends = slowed("async", proxy, tmp_path, 30.0, within=TIMEOUT + 2 * GRACE)
    assert {name: end for name, end in ends.items() if end[0] < TIMEOUT + GRACE} == {}
