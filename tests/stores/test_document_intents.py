"""Writers of documents that were interrupted or overtaken: what recovery makes of what they left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import (
    PartialFailure,
    Unavailable,
)
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
