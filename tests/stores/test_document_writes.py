"""Writers of the same documents at once, and what makes two documents the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import VersionConflict
from ambidex.stores import document_batches
from ambidex.stores.document_intents import Intents
from ambidex.stores.document_parts import Head
from ambidex.stores.document_writes import Writes
from tests.stores.document_support import check


def test_a_document_stored_before_is_known_by_content_whatever_the_order_of_its_metadata(tmp_path: Path) -> None:
    with UnifiedStorage(f"sqlite:///{tmp_path}/a.db") as storage:
        first = storage.documents.store("text", {"b": 1, "a": {"y": [1, {"d": 2, "c": 3}], "x": None}})
        again = storage.documents.store("text", {"a": {"x": None, "y": [1, {"c": 3, "d": 2}]}, "b": 1})
        assert again == first
        assert storage.documents.store("text", {"b": 1}) != first


def test_concurrent_writers_of_one_path_and_one_content(storage: UnifiedStorage) -> None:
    """Threads and tasks store versions of one path: every version once, one id, the index agrees with the last."""
    ids: list[str] = []
    same: list[str] = []

    def write(who: int) -> None:
        for n in range(4):
            ids.append(storage.sync.documents.store(f"{who}-{n} " * (40 * who + 1), {"path": "p", "tags": [f"{who}"]}))
            same.append(storage.sync.documents.store(f"the same {n}"))

    async def tasks() -> None:
        async def one(who: int) -> None:
            for n in range(4):
                ids.append(await storage.aio.documents.store(f"{who}-{n}", {"path": "p", "tags": [f"{who}"]}))
                same.append(await storage.aio.documents.store(f"the same {n}"))

        await asyncio.gather(*(one(who) for who in range(10, 13)))

    threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == len(same) == 24
    assert len(set(ids)) == 1
    assert len(set(same)) == 4
    versions = storage.sync.documents.versions(ids[0])
    assert [info.version for info in versions] == list(range(1, 25))
    assert len({info.content_hash for info in versions}) == 24
    assert storage.sync.documents.tags() == {versions[-1].tags[0]: 1}
    assert check(storage) == 5


def test_concurrent_updates_lose_none(storage: UnifiedStorage) -> None:
    id_ = storage.sync.documents.store("0", {"path": "counter"})

    def add() -> None:
        for _ in range(5):
            while True:
                have = storage.sync.documents.get(id_)
                assert have is not None
                try:
                    storage.sync.documents.update(id_, str(int(have.content) + 1), version=have.version)
                    break
                except VersionConflict:
                    continue

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    document = storage.sync.documents.get(id_)
    assert document is not None
    assert (document.content, document.version) == ("20", 21)
    assert check(storage) == 1


def test_deleting_while_storing_leaves_nothing_behind(storage: UnifiedStorage) -> None:
    stop = threading.Event()

    def delete() -> None:
        while not stop.is_set():
            for info in storage.sync.documents.list():
                storage.sync.documents.delete(info.id)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        for n in range(15):
            storage.sync.documents.store("otter " * (200 * (n % 3) + 1), {"path": "p", "n": n})
    finally:
        stop.set()
        thread.join()
    check(storage)
    storage.sync.documents.clear()
    assert storage.sync.index.count() == 0


def test_a_document_is_stored_among_constant_writers(storage: UnifiedStorage) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            storage.sync.kv.set("k", 1)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(5):
            storage.sync.documents.store(f"{n} otter", {"path": f"{n % 2}"})
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert check(storage) == 2


def test_a_writer_behind_an_intent_and_a_transaction_leave_no_label_of_what_was_replaced(
    postgres_url: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction's snapshot has the other's record, but not yet its labels; these come before it ends."""
    whole = UnifiedStorage(postgres_url)
    storage = whole.tenant(own)
    documents = storage.sync.documents
    documents.store("one", {"path": "p", "tags": ["a"]})
    settle, sync, put_all = Intents.settle, Intents.sync, Writes._put_all
    record_is_there, snapshot_is_taken, labels_are_there, over = (threading.Event() for _ in range(4))

    async def late(self: Intents, heads: list[Head]) -> None:
        record_is_there.set()
        assert snapshot_is_taken.wait(10)
        await settle(self, heads)

    async def later(self: Intents, ids: Sequence[str], stale: set[str]) -> None:
        labels_are_there.set()
        assert over.wait(10)
        await sync(self, ids, stale)

    async def held(self: Writes, plans: list[Any]) -> None:
        snapshot_is_taken.set()
        assert labels_are_there.wait(10)
        await put_all(self, plans)

    monkeypatch.setattr(Intents, "settle", late)
    monkeypatch.setattr(Intents, "sync", later)
    monkeypatch.setattr(Writes, "_put_all", held)
    monkeypatch.setattr(document_batches, "_TRANSACTIONS", 0)
    with ThreadPoolExecutor(2) as pool:
        behind_an_intent = pool.submit(documents.store, "two", {"path": "p", "tags": ["b"]})
        assert record_is_there.wait(10)
        monkeypatch.setattr(document_batches, "_TRANSACTIONS", 8)
        in_a_transaction = pool.submit(documents.store, "three", {"path": "p", "tags": ["c"]})
        in_a_transaction.result()
        over.set()
        behind_an_intent.result()
    assert documents.tags() == {"c": 1}
    assert check(storage) == 1
    whole.close()
