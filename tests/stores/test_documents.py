"""Documents: versions, dedupe, labels, search by best chunk, races, interrupted writers; in both modes everywhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import (
    AlreadyExists,
    CapabilityMissing,
    Conflict,
    InvalidKey,
    InvalidQuery,
    NotFound,
    PartialFailure,
    Unavailable,
    UnsupportedValue,
    VersionConflict,
)
from tests.stores.conftest import Port, Run

LONG = "The otter swims in the cold river near the mill. " * 60


def check(storage: UnifiedStorage) -> int:
    """Assert that documents and index agree; return how many documents there are."""
    documents, index = storage.sync.documents, storage.sync.index
    expected: set[str] = set()
    for info in documents.iterate():
        document = documents.get(info.id)
        assert document is not None
        base = document.path or document.id
        names = [f"{base}#chunk_{n}" for n in range(info.chunks)]
        items = index.fetch(names)
        assert [item.id for item in items] == names
        for item in items:
            assert item.metadata["doc_id"] == document.id
            assert item.metadata["version"] == document.version
            assert document.content[item.metadata["start"] : item.metadata["end"]] == item.text
        expected.update(names)
    assert index.count() == len(expected)
    return len(list(documents.iterate()))


def test_a_document_comes_back_with_what_is_known_of_it(run: Run, storage: UnifiedStorage) -> None:
    metadata = {"title": "T", "path": "a/../b.md", "tags": ["x", "y", "x"], "category": "k", "n": 3, "deep": {"a": [1]}}
    before = repr(metadata)

    async def body(s: Any) -> None:
        id_ = await s.store_document(LONG, metadata)
        document = await s.documents.get(id_)
        assert document.content == LONG
        assert document.metadata == metadata
        assert (document.title, document.path, document.category, document.tags) == ("T", "a/../b.md", "k", ["x", "y"])
        assert (document.version, document.length, document.chunks) == (1, len(LONG), 4)
        assert len(document.content_hash) == 64
        assert document.created_at == document.updated_at
        assert await s.documents.get_by_path("a/../b.md") == document
        assert (await s.documents.info(id_)).id == id_
        assert await s.documents.get("none") is None
        assert await s.documents.get_by_path("none") is None
        assert await s.documents.info("none") is None
        assert await s.documents.versions("none") == []
        hit = (await s.search("otter"))[0]
        assert hit.metadata["doc_id"] == id_
        assert hit.metadata["indexed_from"] == "unified_storage"
        assert hit.metadata["n"] == 3
        assert hit.id.startswith("a/../b.md#chunk_")
        assert hit.title == "T"

    run(body)
    assert repr(metadata) == before
    assert check(storage) == 1


def test_without_indexing_it_is_only_stored(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        id_ = await s.store_document("zebra", index_for_search=False)
        assert await s.search("zebra") == []
        assert (await s.documents.get(id_)).content == "zebra"
        assert await s.store_document("zebra") == id_
        assert [found.document.id for found in await s.documents.find("zebra")] == [id_]

    run(body)
    assert check(storage) == 1


def test_the_same_content_and_metadata_are_one_document(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        first = await s.store_document("same", {"a": 1, "b": 2})
        assert await s.store_document("same", {"b": 2, "a": 1}) == first
        assert await s.store_document("same", {"a": 2}) != first
        assert await s.batch_store_documents([{"content": "same", "metadata": {"a": 1, "b": 2}}] * 3) == [first] * 3

    run(body)
    assert check(storage) == 2


def test_a_known_path_makes_the_next_version(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        id_ = await s.store_document(LONG, {"path": "p", "tags": ["old", "both"], "category": "one"})
        assert await s.store_document(LONG, {"path": "p", "tags": ["old", "both"], "category": "one"}) == id_
        assert (await s.documents.info(id_)).version == 1
        assert await s.store_document("short", {"path": "p", "tags": ["new", "both"], "category": "two"}) == id_
        assert [(v.version, v.length) for v in await s.documents.versions(id_)] == [(1, len(LONG)), (2, 5)]
        assert (await s.documents.get(id_)).content == "short"
        assert (await s.documents.get(id_, 1)).content == LONG
        assert (await s.documents.get_by_path("p", 2)).content == "short"
        for version in (0, 3, -1):
            assert await s.documents.get(id_, version) is None
        assert await s.documents.tags() == {"both": 1, "new": 1}
        assert await s.documents.categories() == {"two": 1}
        assert await s.search("otter") == []

    run(body)
    assert check(storage) == 1


def test_update(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        id_ = await s.store_document("one", {"path": "p", "title": "T"})
        other = await s.store_document("other", {"path": "q"})
        info = await s.documents.update(id_, "two")
        assert (info.version, info.title) == (2, "T")
        assert (await s.documents.update(id_, metadata={"path": "r", "title": "U"})).version == 3
        assert (await s.documents.get(id_)).content == "two"
        assert await s.documents.get_by_path("p") is None
        assert (await s.documents.get_by_path("r")).id == id_
        assert (await s.documents.update(id_)).version == 3
        with pytest.raises(VersionConflict):
            await s.documents.update(id_, "x", version=2)
        with pytest.raises(AlreadyExists):
            await s.documents.update(id_, metadata={"path": "q"})
        with pytest.raises(NotFound):
            await s.documents.update("none", "x")
        assert (await s.documents.get(other)).version == 1
        assert await s.store_document("again", {"path": "p"}) not in (id_, other)

    run(body)
    assert check(storage) == 3


def test_updating_to_the_content_of_another_document_keeps_both(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        one, two = await s.batch_store_documents(["one", "two"])
        await s.documents.update(one, "two")
        assert (await s.documents.get(one)).content == (await s.documents.get(two)).content == "two"
        assert await s.store_document("two") == two
        await s.documents.delete(one)
        assert await s.store_document("two") == two
        assert await s.store_document("one") != one

    run(body)
    assert check(storage) == 2


def test_delete_takes_everything_along(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        id_ = await s.store_document(LONG, {"path": "p", "tags": ["t"], "category": "c"})
        await s.documents.update(id_, LONG + LONG)
        await s.documents.update(id_, "short")
        assert await s.documents.delete(id_)
        assert not await s.documents.delete(id_)
        assert await s.documents.get(id_) is None
        assert await s.documents.get(id_, 1) is None
        assert await s.documents.get_by_path("p") is None
        assert await s.documents.list() == []
        assert await s.documents.tags() == {}
        assert await s.documents.categories() == {}
        assert await s.index.count() == 0
        assert await s.store_document("again", {"path": "p"}) != id_
        assert await s.documents.clear() == 1
        assert await s.documents.list() == []

    run(body)
    assert check(storage) == 0
    if storage.settings.url.backend == "memory":
        records: Any = storage.sync.documents._records
        assert [key for key in records._kv._data._tables.values if not key.startswith("ixg:")] == []


def test_lists_by_label_and_path(run: Run) -> None:
    async def body(s: Any) -> None:
        ids = await s.batch_store_documents(
            [{"content": str(n), "metadata": {"path": f"d{n % 2}/{n:02}", "tags": [f"t{n % 3}"], "category": "k"}}
             for n in range(12)]
        )  # fmt: skip
        every = await s.documents.list()
        assert sorted(info.id for info in every) == sorted(ids)
        assert sorted(i.path for i in await s.documents.list(tag="t1")) == ["d0/04", "d0/10", "d1/01", "d1/07"]
        assert len(await s.documents.list(category="k", limit=5)) == 5
        assert sorted(i.path for i in await s.documents.list(path="d1/")) == [f"d1/{n:02}" for n in range(1, 12, 2)]
        assert {i.path for i in await s.documents.list(path="d1/", tag="t1", category="k")} == {"d1/01", "d1/07"}
        assert await s.documents.list(tag="t1", category="other") == []
        assert await s.documents.list(tag="nothing") == []
        assert sorted([info.id async for info in s.documents.iterate()]) == sorted(ids)
        assert await s.documents.tags() == {"t0": 4, "t1": 4, "t2": 4}
        for limit in (0, -1, 10**6, "3"):
            with pytest.raises(InvalidQuery):
                await s.documents.list(limit)

    run(body)


def test_find_gives_whole_documents_by_their_best_chunk(run: Run) -> None:
    async def body(s: Any) -> None:
        long = "Nothing of interest is said here at all, again and again. " * 40
        best = await s.store_document(
            long + "The platypus lays eggs. " + long, {"path": "best", "year": 2020, "tags": ["a", "b"]}
        )
        title = await s.store_document("Something else.", {"title": "Platypus", "year": 2010, "category": "k"})
        await s.save_conversation("c", [{"role": "user", "content": "?"}, {"role": "assistant", "content": "platypus"}])
        found = await s.documents.find("platypus")
        assert {one.document.id for one in found} == {best, title}
        assert found[0].score >= found[1].score
        whole = next(one for one in found if one.document.id == best)
        assert whole.document.content.count("platypus") == 1
        assert ["platypus" in hit.text for hit in whole.chunks] == [True]
        assert [f.document.id for f in await s.documents.find("platypus", filters={"year__ge": 2015})] == [best]
        assert [f.document.id for f in await s.documents.find("platypus", tags=["b"])] == [best]
        assert [f.document.id for f in await s.documents.find("platypus", tags=["a", "b"])] == [best]
        assert await s.documents.find("platypus", tags=["a", "c"]) == []
        assert [f.document.id for f in await s.documents.find("platypus", category="k")] == [title]
        assert len(await s.documents.find("platypus", 1)) == 1
        assert await s.documents.find("") == []

    run(body)


def test_one_document_with_many_matching_chunks_does_not_hide_the_others(run: Run) -> None:
    async def body(s: Any) -> None:
        await s.store_document("newt newt newt. " * 2000, {"path": "big"})
        small = await s.batch_store_documents([f"a newt and {n} other words to dilute it" for n in range(4)])
        found = await s.documents.find("newt", 5)
        assert {one.document.id for one in found} >= set(small)

    run(body)


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
    together = records._unit is not None
    assert (caught.value.applied, caught.value.retryable) == (("no", True) if together else ("unknown", False))
    documents.recover(force=True)
    assert check(storage) == (0 if together else 1)
    assert (documents.get_by_path("p") is None) == together


BAD: list[tuple[Any, Any, type[Exception]]] = [
    (b"bytes", None, UnsupportedValue),
    (None, None, UnsupportedValue),
    ("a\0b", None, UnsupportedValue),
    ("\ud800", None, UnsupportedValue),
    ("x", "metadata", UnsupportedValue),
    ("x", {"n": float("nan")}, UnsupportedValue),
    ("x", {"n": 2**70}, UnsupportedValue),
    ("x", {1: 2}, UnsupportedValue),
    ("x", {"title": 7}, UnsupportedValue),
    ("x", {"path": 7}, UnsupportedValue),
    ("x", {"path": "a\0"}, UnsupportedValue),
    ("x", {"path": "x" * 2500}, InvalidKey),
    ("x", {"path": "01a1fb83-e82b-75b1-bb27-eaff78033523"}, InvalidKey),
    ("x", {"category": "x" * 501}, InvalidKey),
    ("x", {"tags": "text"}, UnsupportedValue),
    ("x", {"tags": [1]}, UnsupportedValue),
    ("x", {"tags": [""]}, UnsupportedValue),
    ("x", {"tags": ["x" * 501]}, InvalidKey),
]


@pytest.mark.parametrize(("content", "metadata", "error"), BAD)
def test_bad_documents_are_refused_and_leave_nothing(run: Run, content: Any, metadata: Any, error: Any) -> None:
    async def body(s: Any) -> None:
        with pytest.raises(error):
            await s.store_document(content, metadata)
        assert await s.documents.list() == []
        assert await s.index.count() == 0

    run(body)


NAMES = [
    "../../etc/passwd",
    "/abs",
    "C:\\x",
    "a#chunk_0",
    "a",
    "%2e%2e/",
    "*",
    "?",
    "né/ö🙂",
    ".",
    "a:b",
    "'; DROP",
    " ",
]


def test_hostile_paths_are_only_names(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        ids = [await s.store_document(f"about {n}", {"path": path}) for n, path in enumerate(NAMES)]
        for n, path in enumerate(NAMES):
            assert (await s.documents.get_by_path(path)).id == ids[n]
            assert [i.id for i in await s.documents.list(path=path) if i.path == path] == [ids[n]]

    run(body)
    assert check(storage) == len(NAMES)


LABELS = ["a:b", "a", "b", "%3A", "a%3Ab", "*", "?", "|", ",", "n\u00e9\U0001f642", "'; DROP", " ", "t:", "\n", '"x"']


def test_hostile_labels_are_only_names(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        documents = [
            {"content": f"otter {n}", "metadata": {"path": str(n), "tags": [label, "every"], "category": label}}
            for n, label in enumerate(LABELS)
        ]
        ids = await s.batch_store_documents(documents)
        assert await s.documents.tags() == {**dict.fromkeys(LABELS, 1), "every": len(LABELS)}
        assert await s.documents.categories() == dict.fromkeys(LABELS, 1)
        for id_, label in zip(ids, LABELS, strict=True):
            assert [info.id for info in await s.documents.list(tag=label)] == [id_]
            assert [info.id for info in await s.documents.list(category=label)] == [id_]
            assert [found.document.id for found in await s.documents.find("otter", tags=[label])] == [id_]
            assert [found.document.id for found in await s.documents.find("otter", category=label)] == [id_]

    run(body)
    assert check(storage) == len(LABELS)


ODD = [
    "\r\n\t\x01\x7f",
    "\u202e\ufeff e\u0301 \U0001f642",
    "<script>alert(1)</script> {{7*7}} $1 ? :x %s",
    "'; DROP TABLE ambidex_values; --",
    "x" * 20_000,
    " " * 5_000,
    "# \n## \n```\n" * 200,
]


def test_hostile_content_comes_back_as_it_is(run: Run, storage: UnifiedStorage) -> None:
    deep: Any = {"'; --": [{"": [None, 2**63 - 1, -0.5]}], "$ne": 1, "__class__": "x", "doc_id": "forged"}

    async def body(s: Any) -> None:
        ids = await s.batch_store_documents([{"content": text, "metadata": deep} for text in ODD])
        for id_, text in zip(ids, ODD, strict=True):
            document = await s.documents.get(id_)
            assert (document.content, document.metadata) == (text, deep)
        assert {found.document.id for found in await s.documents.find("drop table script")} == {ids[2], ids[3]}

    run(body)
    assert check(storage) == len(ODD)


QUERIES = [
    '"',
    "'",
    "a AND",
    "NEAR(",
    "*",
    "col:x",
    "(",
    "-",
    "^x",
    "\\",
    "{}",
    "%",
    "\U0001f642",
    "a\nb",
    "NOT x OR",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_a_query_is_never_syntax(run: Run, query: Any) -> None:
    async def body(s: Any) -> None:
        id_ = await s.store_document("the zebra")
        await s.documents.find(query)
        assert [f.document.id for f in await s.documents.find(f"{query[:2000]} zebra")] == [id_]

    run(body)


def test_empty_and_huge_documents(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        empty = await s.store_document("", {"title": "Emptiness"})
        assert (await s.documents.get(empty)).content == ""
        assert [f.document.id for f in await s.documents.find("emptiness")] == [empty]
        huge = await s.store_document("word after word. " * 62_000)
        assert (await s.documents.get(huge)).chunks > 1_250

    run(body)
    assert check(storage) == 2


def test_namespaces_are_apart(run: Run) -> None:
    async def body(s: Any) -> None:
        one = await s.documents.namespace("one").store("zebra", {"path": "p", "tags": ["t"]})
        two = await s.documents.namespace("two").store("zebra", {"path": "p"})
        assert one != two
        assert [f.document.id for f in await s.documents.namespace("one").find("zebra")] == [one]
        assert await s.documents.get(one) is None
        assert await s.documents.namespace("two").tags() == {}
        await s.documents.namespace("one").clear()
        assert (await s.documents.namespace("two").get(two)).content == "zebra"

    run(body)


def test_tenants_are_apart(run_unbound: Run, own: str) -> None:
    async def body(s: Any) -> None:
        id_ = await s.tenant(f"{own}a").store_document("zebra", {"path": "p"})
        other = s.tenant(f"{own}b")
        assert await other.documents.find("zebra") == []
        assert await other.search("zebra") == []
        assert await other.documents.get(id_) is None
        assert await other.documents.get_by_path("p") is None
        assert await other.documents.list() == []
        assert await s.tenant(own).documents.get(id_) is None

    run_unbound(body)


def test_other_chunks(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        small = s.documents.chunked(100, 20)
        id_ = await small.store(LONG)
        assert (await s.documents.info(id_)).chunks > 30
        with pytest.raises(InvalidQuery):
            s.documents.chunked(5)

    run(body)
    assert check(storage) == 1


def test_reindexing_brings_entries_back(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        ids = await s.batch_store_documents([f"zebra {n}" for n in range(5)])
        await s.index.reset()
        assert await s.documents.find("zebra") == []
        assert sorted([id_ async for id_ in s.documents.reindex(page=2)]) == sorted(ids)
        assert len(await s.documents.find("zebra")) == 5

    run(body)
    assert check(storage) == 5


def test_reindexing_goes_on_where_it_was_interrupted(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        ids = await s.batch_store_documents([f"zebra {n}" for n in range(7)])
        await s.index.reset()
        done = []
        async for id_ in s.documents.reindex(page=2):
            done.append(id_)
            if len(done) == 4:
                break
        assert len(await s.documents.find("zebra", top_k=10)) == 4
        rest = [id_ async for id_ in s.documents.reindex(page=2, after=done[-1])]
        assert sorted(done + rest) == sorted(ids)
        assert [id_ async for id_ in s.documents.reindex(after=rest[-1])] == []

    run(body)
    assert check(storage) == 7


def test_without_search_documents_are_only_kept(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/a.db").sync
    documents = type(storage.documents)(storage._documents._bound[0], None)
    with pytest.raises(CapabilityMissing, match="index_for_search=False"):
        documents.store("x")
    id_ = documents.store("x", index_for_search=False)
    document = documents.get(id_)
    assert document is not None
    assert document.content == "x"
    with pytest.raises(CapabilityMissing):
        documents.find("x")
    storage.close()


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
    owner, attribute = (records.index, "_port") if step in ("index", "remove") else (records, "_kv")
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


def test_the_detecting_room_answers_by_mode(storage: UnifiedStorage) -> None:
    id_ = storage.documents.namespace("n").store("from sync")

    async def later() -> Any:
        return await storage.documents.chunked(100).namespace("n").get(id_)

    assert asyncio.run(later()).content == "from sync"
    assert storage.store_document("x") == asyncio.run(_store(storage))


async def _store(storage: UnifiedStorage) -> Any:
    return await storage.store_document("x")


def test_where_no_transaction_ever_gets_through_documents_are_stored_all_the_same(storage: UnifiedStorage) -> None:
    """The memory backend refuses a transaction when anybody else has written meanwhile, anything at all."""
    documents: Any = storage.sync.documents
    unit = documents._records._unit

    @asynccontextmanager
    async def always_too_late() -> AsyncIterator[None]:
        async with unit():
            yield
            raise Conflict("somebody else was faster")

    if unit is not None:  # elsewhere no transaction is ever tried
        documents._records._unit = always_too_late
    id_ = documents.store(LONG, {"path": "p", "tags": ["t"]})
    assert documents.store("short", {"path": "p"}) == id_
    assert check(storage) == 1
    assert documents.delete(id_)
    assert check(storage) == 0
    assert documents.recover(force=True) == 0


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
