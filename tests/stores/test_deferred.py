"""What each store does inside a unit of work when a part of it lies on another backend: all of it, or nothing.

A table says of each write of conversations and documents, for each placing of what they are made of, whether it takes
part. What does not is refused with the remedy before anything is written, there or here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest

from ambidex import UnifiedStorage, errors
from ambidex.core.dual import drive
from ambidex.core.ports import Capability, KeyValuePort, LogPort, RecordsPort, SearchPort
from ambidex.core.spec import Id
from ambidex.stores import deferred
from tests.stores.conftest import in_units


@dataclass
class Note:
    id: Annotated[str, Id()]


Call = Callable[[Any], Any]

_PORTS = {"kv": KeyValuePort, "log": LogPort, "search": SearchPort, "records": RecordsPort}


@pytest.mark.parametrize("name", _PORTS)
def test_every_method_of_a_port_reads_waits_is_refused_or_is_harmless(name: str) -> None:
    """So that none that is added later writes to the other backend before the commit."""
    methods = {method for method, _ in inspect.getmembers(_PORTS[name], inspect.isfunction) if method[0] != "_"}
    waiting = {method for method in methods if hasattr(deferred._WRITES[name], method)}
    kinds = [deferred._READS[name], deferred._REFUSED[name], deferred._AT_ONCE.get(name, frozenset()), waiting]
    assert sorted(method for kind in kinds for method in kind) == sorted(methods)


# ------------------------------------------------------------------ the table

_USER, _ANSWER = {"role": "user", "content": "Where do swans winter?"}, {"role": "assistant", "content": "On lakes."}

CONVERSATIONS: dict[str, Call] = {
    "save": lambda s: s.conversations.save("chat", [_USER, _ANSWER], ttl_hours=None),
    "save with ttl": lambda s: s.conversations.save("chat", [_USER, _ANSWER]),
    "append": lambda s: s.conversations.append("chat", _USER),
    "append with ttl": lambda s: s.conversations.append("chat", _USER, ttl_hours=5),
    "extend": lambda s: s.conversations.extend("old"),
    "reset": lambda s: s.conversations.reset("old"),
    "restore": lambda s: s.conversations.restore("was reset"),
    "fork": lambda s: s.conversations.fork("old", new_chat_id="fork"),
    "delete": lambda s: s.conversations.delete("old"),
    "set_metadata": lambda s: s.conversations.set_metadata("old", topic="swans"),
}


async def _updated(storage: Any) -> Any:
    document = await storage.documents.get_by_path("old")
    return await storage.documents.update(document.id, "Old swans, told anew.")


async def _deleted(storage: Any) -> Any:
    document = await storage.documents.get_by_path("old")
    return await storage.documents.delete(document.id)


DOCUMENTS: dict[str, Call] = {
    "store": lambda s: s.documents.store("Whooper swans winter on lakes.", {"path": "swans", "tags": ["birds"]}),
    "store_many": lambda s: s.documents.store_many(["Barnacle geese graze.", ("Eiders dive.", {"path": "eiders"})]),
    "update": _updated,
    "delete": _deleted,
    "clear": lambda s: s.documents.clear(),
    "recover": lambda s: s.documents.recover(),
}


PLACINGS = [
    ("conversations", "file", ""),
    ("conversations", "file", "kv"),
    ("conversations", "file", "log"),
    ("conversations", "file", "search"),
    ("conversations", "file", "kv log"),
    ("conversations", "file", "kv log search"),
    ("conversations", "redis", "log"),
    ("conversations", "redis", "kv log"),
    ("documents", "file", ""),
    ("documents", "file", "kv"),
    ("documents", "file", "search"),
    ("documents", "file", "kv search"),
    ("documents", "redis", "kv"),
]


def _takes_part(store: str, call: str, elsewhere: set[str]) -> bool:
    if store == "documents" or call == "set_metadata":
        return "kv" not in elsewhere
    return call == "append" or not elsewhere & {"kv", "log"}


@pytest.fixture
def storage(kind: str, elsewhere: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UnifiedStorage]:
    file = f"sqlite:///{tmp_path}/other.db?durability=relaxed"
    other = f"{request.getfixturevalue('redis_url')}&prefix={uuid4().hex}:" if kind == "redis" else file
    places: dict[str, Any] = {name: file if name == "search" else other for name in elsewhere.split()}
    made = UnifiedStorage(f"sqlite:///{tmp_path}/main.db?durability=relaxed", **places)
    yield made
    made.close()


async def _begin(storage: Any) -> None:
    await storage.conversations.append("old", _USER, _ANSWER)
    await storage.conversations.append("was reset", _USER)
    await storage.conversations.reset("was reset")
    await storage.documents.store("Old swans.", {"path": "old", "tags": ["old"]})


async def _seen(storage: Any) -> list[Any]:
    """Return everything that these writes could change, as a user sees it."""
    chats = sorted(await storage.conversations.list_active())
    found: list[Any] = [chats]
    for chat in chats:
        found += [await storage.conversations.history(chat), await storage.conversations.window(chat)]
        found.append({k: v for k, v in (await storage.conversations.metadata(chat)).items() if k != "at"})
    for document in sorted(await storage.documents.list(), key=lambda info: info.content_hash):
        found.append((document.path, document.version, (await storage.documents.get(document.id)).content))
    for query in ("swans", "geese", "eiders", "lakes"):
        found.append(sorted(one.document.content for one in await storage.documents.find(query)))
        found.append(sorted(hit.text for hit in await storage.search(query)))
    return [*found, await storage.documents.tags(), await storage.documents.recover()]


@functools.cache
def _expected(call: Call) -> list[Any]:
    """Return what is seen after a call where everything lies together and nothing is a unit."""

    async def plainly(storage: Any) -> list[Any]:
        await _begin(storage)
        await call(storage)
        return await _seen(storage)

    seen: list[Any] = in_units("sync", UnifiedStorage("memory://"))(plainly)
    return seen


async def _refused(storage: Any, call: Call) -> None:
    await _begin(storage)
    before = await _seen(storage)
    async with storage.transaction():
        await storage.repository(Note).create(Note("kept"))
        with pytest.raises(errors.CapabilityMissing, match="before or after the transaction, or place"):
            await call(storage)
    assert await storage.repository(Note).count() == 1
    assert await _seen(storage) == before
    assert await storage.recover() == 0
    await call(storage)  # outside it works


async def _whole(storage: Any, call: Call) -> None:
    await _begin(storage)
    before = await _seen(storage)
    with pytest.raises(ZeroDivisionError):
        async with storage.transaction():
            await call(storage)
            raise ZeroDivisionError
    assert await _seen(storage) == before
    async with storage.transaction():
        await call(storage)
    assert await _seen(storage) == _expected(call)
    assert await storage.recover() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("store", "kind", "elsewhere"), PLACINGS)
def test_a_write_takes_part_in_a_unit_or_is_refused_before_it_writes(
    store: str, kind: str, mode: str, elsewhere: str, storage: UnifiedStorage
) -> None:
    for name, call in (CONVERSATIONS if store == "conversations" else DOCUMENTS).items():
        check = _whole if _takes_part(store, name, set(elsewhere.split())) else _refused
        in_units(mode, storage.tenant(name))(functools.partial(check, call=call))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_media_is_refused_before_a_blob_is_written(mode: str, tmp_path: Path) -> None:
    """Its records are only ever exchanged, which cannot wait; a blob without one would stay until the next sweep."""
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/main.db", kv=f"sqlite:///{tmp_path}/other.db", blobs="memory://")
    blobs = storage._core.backend(Capability.BLOBS).blocking.blobs

    async def body(face: Any) -> None:
        url = await face.media.store(b"first", "a.bin")
        before = drive(blobs.list("", None, 10))
        async with face.transaction():
            with pytest.raises(errors.CapabilityMissing, match=r"'media\.store'"):
                await face.media.store(b"second", "b.bin")
            with pytest.raises(errors.CapabilityMissing, match=r"'media\.delete'"):
                await face.media.delete(url)
        assert drive(blobs.list("", None, 10)) == before
        assert await face.media.read(url) == b"first"

    in_units(mode, storage)(body)
    storage.close()
