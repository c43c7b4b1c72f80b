"""Documents: versions, dedupe, updates, search by best chunk, spaces and tenants; in both modes everywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import (
    AlreadyExists,
    CapabilityMissing,
    InvalidQuery,
    NotFound,
    VersionConflict,
)
from tests.stores.conftest import Run
from tests.stores.document_support import LONG, check


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
        for version in ("1", 1.0, True):
            with pytest.raises(InvalidQuery):
                await s.documents.get(id_, version)
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
        assert [key for key in records.kv._data._tables.values if not key.startswith("ixg:")] == []


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


def test_all_tags_are_asked_for_in_the_index(tmp_path: Path) -> None:
    for url in ("memory://", f"sqlite:///{tmp_path}/a.db"):
        with UnifiedStorage(url, embedder="none") as storage:
            storage.documents.chunked(20).store(
                "newt. " * 4_000, {"tags": ["a"]}
            )  # more entries than are ever asked for
            both = storage.documents.store("newt and many other words to dilute it", {"tags": ["b", "a"], "n": 7})
            assert [found.document.id for found in storage.documents.find("newt", tags=["a", "b"])] == [both]
            found = storage.documents.find("newt", filters={"tags__contains": "b", "n": 7}, tags=["a"])
            assert [one.document.id for one in found] == [both]
            for tags in ("a", b"a", 5, None):
                with pytest.raises(InvalidQuery):
                    storage.documents.find("newt", tags=tags)  # type: ignore[arg-type]


def test_a_document_of_many_chunks_hides_no_other(tmp_path: Path) -> None:
    for url in ("memory://", f"sqlite:///{tmp_path}/a.db"):
        with UnifiedStorage(url, embedder="none") as storage:
            documents = storage.documents
            many = [documents.chunked(16).store(f"newt {n} " * 2_400, {"n": n}) for n in range(2)]
            diluted = [documents.store("newt " + f"word{n} " * 20 * (n + 1), {"n": n}) for n in range(3)]
            found = documents.find("newt", top_k=5)
            assert {one.document.id for one in found[:2]} == set(many)
            assert [one.document.id for one in found[2:]] == diluted
            scores = [one.score for one in found]
            assert scores == sorted(scores, reverse=True)
            assert all(one.score == one.chunks[0].score for one in found)
            assert [one.document.id for one in documents.find("newt", top_k=4)] == [
                one.document.id for one in found[:4]
            ]
            assert len(documents.find("newt", top_k=9)) == 5
            some = documents.find("newt", top_k=5, filters={"n__in": [0, 1]})
            assert {one.document.id for one in some} == {*many, *diluted[:2]}
            assert all(one.score >= 0.5 for one in documents.find("newt", top_k=5, min_score=0.5))


def test_hits_show_tags_as_they_were_given(run: Run) -> None:
    async def body(s: Any) -> None:
        tags = ["birds", "a|b", "||", "%7C", "é ü", "water"]
        await s.store_document("a newt", {"path": "many", "tags": tags})
        await s.store_document("a toad", {"path": "none"})
        await s.index.add("own", "a frog", {"tags": "|x||y|"})
        await s.index.add("odd", "an adder", {"tags": "x|y", "indexed_from": "unified_storage"})
        for _ in range(2):  # the second time, from the cache
            (hit,) = await s.search("newt")
            assert hit.metadata["tags"] == tags
            hit.metadata["tags"].append("changed by a caller")
        (found,) = await s.documents.find("newt", tags=["a|b", "||"])
        assert found.chunks[0].metadata["tags"] == found.document.tags == tags
        assert (await s.search_context("newt"))["vector_results"][0]["metadata"]["tags"] == tags
        assert [hit.metadata["tags"] for hit in await s.search("toad")] == [[]]
        assert [hit.metadata["tags"] for hit in await s.search("frog")] == ["|x||y|"]
        assert [hit.metadata["tags"] for hit in await s.search("adder")] == ["x|y"]

    run(body)


def test_metadata_of_the_callers_is_filtered_by_whatever_its_names(run: Run) -> None:
    async def body(s: Any) -> None:
        mine = {
            "version": "2.1",
            "start": "2026-01-01",
            "end": "2026-02-01",
            "chunk": True,
            "doc_id": "x",
            "tags": ["t"],
        }
        id_ = await s.store_document("the newt", mine)
        await s.store_document("another newt")
        for filters in ({"version": "2.1"}, {"start__ge": "2026-01-01"}, {"end__lt": "2027"}, {"chunk": True}):
            assert [f.document.id for f in await s.documents.find("newt", filters=filters)] == [id_]
        assert [hit.metadata["doc_id"] for hit in await s.search("newt", filters={"version": "2.1"})] == [id_]

    run(body)


def test_one_document_with_many_matching_chunks_does_not_hide_the_others(run: Run) -> None:
    async def body(s: Any) -> None:
        await s.store_document("newt newt newt. " * 2000, {"path": "big"})
        small = await s.batch_store_documents([f"a newt and {n} other words to dilute it" for n in range(4)])
        found = await s.documents.find("newt", 5)
        assert {one.document.id for one in found} >= set(small)

    run(body)


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


def test_the_detecting_room_answers_by_mode(storage: UnifiedStorage) -> None:
    id_ = storage.documents.namespace("n").store("from sync")

    async def later() -> Any:
        return await storage.documents.chunked(100).namespace("n").get(id_)

    assert asyncio.run(later()).content == "from sync"
    assert storage.store_document("x") == asyncio.run(_store(storage))


async def _store(storage: UnifiedStorage) -> Any:
    return await storage.store_document("x")
