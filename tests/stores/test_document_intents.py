"""Writers of documents that were interrupted or overtaken: what recovery makes of what they left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core import runtime
from ambidex.core.codec import encode
from ambidex.core.dual import drive
from ambidex.core.ports import When
from ambidex.errors import Corrupted, DeadlineExceeded, PartialFailure, Unavailable
from tests.stores.conftest import Port
from tests.stores.document_support import LONG, check


def test_a_document_that_its_intent_will_finish_is_not_said_to_be_not_stored(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one transaction holds record and index it is undone; elsewhere it is stored, and indexed later."""
    documents = storage.sync.documents
    records: Any = documents._records

    async def failing(*_args: Any) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(records.index, "_port", Port(records.index._port, index=failing))
    with pytest.raises(Unavailable) as caught:
        documents.store("an otter", {"path": "p"})
    monkeypatch.undo()
    together = storage.sync.documents._batches._unit is not None
    assert (caught.value.applied, caught.value.retryable) == (("no", True) if together else ("unknown", False))
    documents.recover(force=True)
    assert check(storage) == (0 if together else 1)
    assert (documents.get_by_path("p") is None) == together


STEPS = ["put", "put_many", "swap", "touch", "delete_many", "index", "remove"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_writer_interrupted_anywhere_leaves_what_can_be_finished(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch, step: Any, nth: Any
) -> None:
    """Whichever call of a write fails, afterwards documents and index agree and the write can be repeated."""
    documents = storage.sync.documents
    kept = documents.store(LONG, {"path": "kept", "tags": ["a"]})
    gone = documents.store(LONG, {"path": "gone"})
    records: Any = documents._records
    owner, attribute = (records.index, "_port") if step in ("index", "remove") else (records, "kv")
    port = getattr(owner, attribute)
    original = getattr(port, step)
    calls = 0

    async def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= nth:
            raise Unavailable("killed here")
        return await original(*args)

    for write in (
        lambda: documents.store("short", {"path": "kept", "tags": ["b"]}),
        lambda: documents.store_many([{"content": LONG + str(n), "metadata": {"path": f"new{n}"}} for n in range(3)]),
        lambda: documents.delete(gone),
    ):
        calls = 0
        monkeypatch.setattr(owner, attribute, Port(port, **{step: failing}))
        try:
            write()
        except (Unavailable, PartialFailure):
            pass
        monkeypatch.undo()
        documents.recover(force=True)
        check(storage)
        write()
        check(storage)
    assert documents.get_by_path("gone") is None
    assert [info.version for info in documents.versions(kept)] == [1, 2]
    assert check(storage) == 4
    assert documents.recover(force=True) == 0


def test_a_writer_that_is_overtaken_does_not_index_what_is_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version is stored whole between a writer's record and its entries of the index."""
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/records.db", search=f"sqlite:///{tmp_path}/index.db")
    documents: Any = storage.sync.documents
    room = documents._records.index
    index = room._port.index
    overtaken = False

    async def late(*args: Any) -> None:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            documents.store("the newest", {"path": "p"})
        await index(*args)

    monkeypatch.setattr(room, "_port", Port(room._port, index=late))
    id_ = documents.store(LONG, {"path": "p"})
    assert overtaken
    assert documents.get(id_).content == "the newest"
    assert check(storage) == 1
    storage.close()


# Where no transaction holds records and index, and somebody else recovers while a writer is stopped for long.


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[UnifiedStorage]:
    with closing(another(tmp_path)) as storage:
        yield storage


def another(folder: Path) -> UnifiedStorage:
    """Another process, as it were."""
    return UnifiedStorage(
        f"sqlite:///{folder}/records.db",
        search=f"sqlite:///{folder}/index.db",
        timeout=120,
        durability="relaxed",
        embedder="none",
    )


def stopped_before(storage: UnifiedStorage, method: str, meanwhile: Any, where: str) -> None:
    """Have something done by others before a writer's first call of a method for such a key."""
    records: Any = storage.sync.documents._records
    call, done = getattr(records.kv, method), False

    async def late(keys: Any, *args: Any) -> Any:
        nonlocal done
        first = keys if isinstance(keys, str) else keys[0] if isinstance(keys[0], str) else keys[0].key
        if not done and where in first:
            done = True
            meanwhile()
        return await call(keys, *args)

    records.kv = Port(records.kv, **{method: late})


def recovered(folder: Path) -> int:
    with closing(another(folder)) as other:
        return other.sync.documents.recover(force=True)


@pytest.mark.parametrize("again", [False, True], ids=["first version", "next version"])
def test_a_writer_that_was_stopped_for_longer_than_its_lease_writes_no_head(
    apart: UnifiedStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Others have thrown away its content: a head would be a document that nobody can read."""
    if again:
        apart.sync.documents.store("older", {"path": "p"})
    clock = SimpleNamespace(monotonic=time.monotonic)
    monkeypatch.setattr(runtime, "time", clock)

    def long() -> None:
        recovered(tmp_path)
        clock.monotonic = lambda: time.monotonic() + 40

    stopped_before(apart, "swap" if again else "put_many", long, ":d:")
    with pytest.raises(DeadlineExceeded):
        apart.sync.documents.store("newer", {"path": "p"})
    clock.monotonic = time.monotonic
    with closing(another(tmp_path)) as other:
        document = other.sync.documents.get_by_path("p")
        assert (document.content if document else None) == ("older" if again else None)
        assert check(other) == again
        other.sync.documents.store("newest", {"path": "p"})
        assert check(other) == 1


def test_a_deletion_that_was_overtaken_by_recovery_and_killed_leaves_no_entries(
    apart: UnifiedStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its intent was taken for done; so it begins anew before it deletes anything."""
    id_ = apart.sync.documents.store(LONG, {"path": "p"})
    records: Any = apart.sync.documents._records

    async def killed(*_: Any) -> None:
        raise Unavailable("killed here")

    begin = type(apart.sync.documents._batches._writes._intents).begin
    overtaken = False

    async def slow(self: Any, heads: Any) -> Any:
        nonlocal overtaken
        intent = await begin(self, heads)
        if not overtaken:
            overtaken = True
            assert recovered(tmp_path) == 1
        return intent

    monkeypatch.setattr(type(apart.sync.documents._batches._writes._intents), "begin", slow)
    monkeypatch.setattr(records.index, "_port", Port(records.index._port, remove=killed))
    with pytest.raises(Unavailable):
        apart.sync.documents.delete(id_)
    assert overtaken
    monkeypatch.undo()
    assert recovered(tmp_path) == 1
    with closing(another(tmp_path)) as other:
        assert check(other) == 0
        assert other.sync.index.count() == 0
        other.sync.documents.store("again", {"path": "p"})
        assert check(other) == 1


def test_who_recovers_does_not_take_the_path_that_a_document_has_come_back_to(
    apart: UnifiedStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read an older record, was stopped before it dropped the old path's claim, and another writer was faster."""
    documents = apart.sync.documents
    id_ = documents.store("first", {"path": "home"})
    records: Any = documents._records

    async def killed(*_: Any) -> None:
        raise Unavailable("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(records.index, "_port", Port(records.index._port, index=killed))
        patch.setattr(records, "kv", Port(records.kv, delete_many=killed))
        with pytest.raises(Unavailable):
            documents.update(id_, "second", {"path": "away"})

    def back() -> None:
        with closing(another(tmp_path)) as other:
            other.sync.documents.update(id_, "third", {"path": "home"})

    stopped_before(apart, "delete_many", back, ":p:")
    assert documents.recover(force=True) == 1
    with closing(another(tmp_path)) as other:
        found = other.sync.documents.get_by_path("home")
        assert found is not None and (found.id, found.content) == (id_, "third")
        assert other.sync.documents.store("fourth", {"path": "home"}) == id_
        assert check(other) == 1


def test_an_intent_that_nobody_can_finish_holds_up_no_other(
    apart: UnifiedStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged, or from another version: who stores and finds is not told of it, who recovers is."""
    documents = apart.sync.documents
    records: Any = documents._records

    async def killed(*_: Any) -> None:
        raise Unavailable("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(records.index, "_port", Port(records.index._port, index=killed))
        with pytest.raises(Unavailable):
            documents.store("an otter", {"path": "p"})
    for name, damaged in (("0", encode([{"id": "x", "colour": "red"}])), ("1", b"\x07?")):
        drive(records.kv.put(f"{records.prefix}o:{name}", damaged, None, When.ALWAYS))
    caplog.set_level(logging.WARNING, "ambidex")
    with closing(another(tmp_path)) as other:
        other.sync.documents.store("a swan", {"path": "q"})
        assert [found.document.path for found in other.sync.documents.find("swan")] == ["q"]
        assert "could not be finished" in caplog.text
        with pytest.raises(Corrupted):
            other.sync.documents.recover(force=True)
        assert [found.document.path for found in other.sync.documents.find("otter")] == ["p"]
        assert check(other) == 2
