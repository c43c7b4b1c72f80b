"""Batches of documents: order, what a failure says was stored, the memory they need, and when no transaction ends."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.embedding import Embedder
from ambidex.errors import (
    Conflict,
    PartialFailure,
    Unavailable,
    UnsupportedValue,
)
from ambidex.stores import document_batches
from tests.stores.conftest import Port, Run
from tests.stores.document_support import LONG, check


def test_batches(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        assert await s.batch_store_documents([]) == []
        ids = await s.batch_store_documents(
            [{"content": f"number {n}", "metadata": {"n": n}} for n in range(450)] + [("pair", {"n": -1}), "bare"]
        )
        assert len(set(ids)) == 452
        for place in (0, 199, 200, 449):
            assert (await s.documents.get(ids[place])).content == f"number {place}"
        assert (await s.documents.get(ids[450])).metadata == {"n": -1}
        assert await s.batch_store_documents(({"content": x, "metadata": {"path": "p"}} for x in "ab"), False) != []
        assert [v.version for v in await s.documents.versions((await s.documents.get_by_path("p")).id)] == [1, 2]

    run(body)
    assert len(storage.sync.documents.list(10_000)) == 453


def test_what_is_stored_already_is_told_of_each(run: Run) -> None:
    async def body(s: Any) -> None:
        documents = s.documents
        given = ["bare", ("text", {"path": "p", "n": 1}), {"content": "apart", "metadata": {"path": "q"}}]
        assert await documents.already_stored(given) == [False] * 3
        assert await documents.already_stored([]) == []
        await documents.store_many(given[:2])
        await documents.store_many(given[2:], False)
        assert await documents.already_stored([*given, 7, "other"]) == [True, True, False, False, False]
        assert await documents.already_stored(given, False) == [True] * 3
        assert await documents.already_stored([("text", {"path": "p", "n": 2}), ("new", {"path": "q"})]) == [False] * 2
        many = [f"number {n}" for n in range(250)]
        await documents.store_many(many[1:], False)
        assert await documents.already_stored(many, False) == [False, *[True] * 249]
        with pytest.raises(UnsupportedValue, match="come as a list"):
            await documents.already_stored("text")

    run(body)


def test_a_batch_with_bad_items_names_each_and_stores_nothing(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        with pytest.raises(PartialFailure) as caught:
            await s.batch_store_documents(["good", {"metadata": {}}, 7, ("x", {"tags": "t"}), {"content": "a\0"}])
        error = caught.value
        assert sorted(error.errors) == [1, 2, 3, 4]
        assert error.ids == [None] * 5
        assert error.applied == "no"
        for place in (1, 2, 3, 4):
            assert f"item {place}: " in str(error)
        with pytest.raises(PartialFailure, match="item 1: a document has 'title', which belongs into its 'metadata'"):
            await s.batch_store_documents([{"content": "x"}, {"content": "y", "title": "T"}])
        for documents in (None, 7, "text", b"x", {"content": "x"}):
            with pytest.raises(UnsupportedValue, match="come as a list"):
                await s.batch_store_documents(documents)
        assert await s.documents.list() == []

    run(body)


def test_a_batch_that_fails_midway_says_what_was_stored(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = storage.sync.documents
    calls = 0
    records: Any = documents._records
    index = records.index._port.index

    async def failing(namespace: str, items: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("away")
        await index(namespace, items)

    monkeypatch.setattr(records.index, "_port", Port(records.index._port, index=failing))
    with pytest.raises(PartialFailure) as caught:
        documents.store_many([f"text {n}" for n in range(300)])
    assert all(caught.value.ids[:200])
    assert caught.value.ids[200:] == [None] * 100
    assert sorted(caught.value.errors) == list(range(200, 300))
    assert caught.value.applied == "unknown"
    monkeypatch.undo()
    documents.recover(force=True)
    assert check(storage) in (200, 300)
    ids = documents.store_many([f"text {n}" for n in range(300)])
    assert ids[:200] == caught.value.ids[:200]
    assert check(storage) == 300


def test_large_batches_need_memory_for_one_unit_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_batches, "_GROUP", 10)
    words = "the otter swims in the cold river near the mill and rests. "
    embedder = Embedder(lambda texts: [[1.0] * 256 for _ in texts], "ones", 256)

    def peak(count: int) -> int:
        documents = [f"{count} {n} {words * 300}" for n in range(count)]
        tracemalloc.start()
        try:
            storage.documents.store_many(documents)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with UnifiedStorage(f"sqlite:///{tmp_path}/a.db", embedder=embedder, timeout=120) as storage:
        peak(9)
        assert peak(80) < 1.3 * peak(20)


def test_where_no_transaction_ever_gets_through_documents_are_stored_all_the_same(storage: UnifiedStorage) -> None:
    """The memory backend refuses a transaction when anybody else has written meanwhile, anything at all."""
    documents: Any = storage.sync.documents
    unit = documents._batches._unit

    @asynccontextmanager
    async def always_too_late() -> AsyncIterator[None]:
        async with unit():
            yield
            raise Conflict("somebody else was faster")

    if unit is not None:  # elsewhere no transaction is ever tried
        documents._batches._unit = always_too_late
    id_ = documents.store(LONG, {"path": "p", "tags": ["t"]})
    assert documents.store("short", {"path": "p"}) == id_
    assert check(storage) == 1
    assert documents.delete(id_)
    assert check(storage) == 0
    assert documents.recover(force=True) == 0


def test_what_somebody_stores_while_vectors_are_made_is_the_same_document(tmp_path: Path) -> None:
    """What is known before the vectors are made is out of date by then."""
    url = f"sqlite:///{tmp_path}/a.db"
    others: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        if not others:
            others.extend(other.sync.batch_store_documents([("an otter", {"n": 1}), ("a mill", {"path": "mill"})]))
        return [[1.0, 2.0] for _ in texts]

    other = UnifiedStorage(url, embedder="none")
    storage = UnifiedStorage(url, embedder=Embedder(embed, "e", 2))
    texts = [("an otter", {"n": 1}), ("a river", {}), ("another mill", {"path": "mill"})]
    mine = storage.sync.batch_store_documents(texts)
    assert [mine[0], mine[2]] == others
    assert [info.version for info in storage.sync.documents.versions(mine[2])] == [1, 2]
    assert check(storage) == 3
    other.close()
    storage.close()
