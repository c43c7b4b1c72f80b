"""The index with embedders: who is asked for vectors, what a namespace remembers, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage, deadline
from ambidex.core.embedding import Embedder
from ambidex.core.ports import IndexItem
from ambidex.embedders import embedder_for
from ambidex.errors import ConfigurationError, DeadlineExceeded, InvalidKey, InvalidQuery, UnsupportedValue

WORDS = ("swan goose duck", "car lorry train", "bread butter cheese")


def topics(texts: list[str]) -> list[list[float]]:
    """Embed by topic, so that a text is near another without sharing a word with it."""
    return [[0.01, *(float(sum(word in text for word in words.split())) for words in WORDS)] for text in texts]


def shorter(texts: list[str]) -> list[list[float]]:
    return [vector[:2] for vector in topics(texts)]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., UnifiedStorage]]:
    made: list[UnifiedStorage] = []

    def storage(**options: Any) -> UnifiedStorage:
        url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"
        made.append(UnifiedStorage(url, **options))
        return made[-1]

    yield storage
    for one in made:
        one.close()


def fill(storage: UnifiedStorage) -> None:
    storage.sync.index.add_many(
        [
            IndexItem("birds", "", "a goose on the water", {}),
            IndexItem("wheels", "", "the lorry is late", {}),
            IndexItem("food", "", "cheese for lunch", {}),
        ]
    )


@pytest.mark.parametrize(("words", "top_k", "depth"), [("", 10, 100), ("", 80, 160), ("", 300, 300), ("item", 10, 200)])
def test_a_vector_alone_is_looked_for_less_deep(
    make: Callable[..., UnifiedStorage], words: str, top_k: int, depth: int
) -> None:
    storage = make(embedder="none")
    cosines = [1 - n / 1000 for n in range(400)]
    vectors = [[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines]
    storage.sync.index.add_many([IndexItem(f"{n:03}", "", "an item", {}, vector) for n, vector in enumerate(vectors)])
    third = storage.sync.search(words, vector=[1.0, 0.0], top_k=top_k)[2]
    by_vector = (cosines[2] - cosines[depth - 1]) / (cosines[0] - cosines[depth - 1])
    assert third.id == "002"
    assert third.score == pytest.approx(0.7 + 0.3 * by_vector if words else by_vector, abs=1e-3)


def test_texts_are_found_by_meaning(make: Callable[..., UnifiedStorage]) -> None:
    storage = make(embedder=topics)
    fill(storage)
    assert storage.sync.search("swan")[0].id == "birds"

    async def inside_a_loop() -> str:
        await storage.aio.index.add("more", "a train at noon")
        return (await storage.aio.search("car"))[0].id

    assert asyncio.run(inside_a_loop()) in {"wheels", "more"}
    (item,) = storage.sync.index.fetch(["food"])
    assert item.vector == pytest.approx([0.01, 0.0, 0.0, 1.0], abs=1e-6)
    assert storage.sync.index.search("swan", fusion="ranks")[0].id == "birds"
    assert storage.sync.index.search("lunch", vector=[0.0, 1.0, 0.0, 0.0])[0].id in {"birds", "food"}


def test_another_embedder_is_refused_until_the_vectors_are_made_anew(make: Callable[..., UnifiedStorage]) -> None:
    storage = make(embedder=topics)
    fill(storage)
    other = storage.sync.index.embedded_by(shorter)
    for call in (lambda: other.search("swan"), lambda: other.add("x", "a duck")):
        with pytest.raises(ConfigurationError, match=r"topics:4.*shorter.*reindex"):
            call()
    assert storage.sync.index.count() == 3
    assert sorted(other.reindex(page=2)) == ["birds", "food", "wheels"]
    assert other.search("swan")[0].id == "birds"
    with pytest.raises(ConfigurationError, match="shorter:2"):
        storage.sync.index.search("swan")
    assert list(other.reindex(after="birds")) == ["food", "wheels"]
    with pytest.raises(InvalidKey):
        list(other.reindex(after="a\x00b"))
    other.reset()
    fill(storage)
    assert storage.sync.index.search("swan")[0].id == "birds"


def test_an_embedder_that_changes_its_dimension_is_refused(make: Callable[..., UnifiedStorage]) -> None:
    storage = make(embedder=Embedder(topics, "model"))
    fill(storage)
    changed = storage.sync.index.embedded_by(Embedder(shorter, "model"))
    for call in (lambda: changed.search("swan"), lambda: changed.add("x", "a duck")):
        with pytest.raises(ConfigurationError, match="model:4"):
            call()


def test_without_an_embedder_words_alone_are_found(make: Callable[..., UnifiedStorage]) -> None:
    storage = make(embedder=topics)
    fill(storage)
    plain = storage.sync.index.embedded_by("none")
    assert plain.search("swan") == []
    assert [hit.id for hit in plain.search("lorry")] == ["wheels"]
    plain.add("late", "a duck without a vector")
    assert "late" in {hit.id for hit in storage.sync.index.search("duck")}
    with pytest.raises(ConfigurationError, match="embedded_by"):
        list(plain.reindex())


async def _served(texts: list[str]) -> list[list[float]]:
    """As a client of a service does it: it needs a loop to wait on."""
    await asyncio.sleep(0)
    assert asyncio.get_running_loop().is_running()
    return topics(texts)


class Served:
    name = "served"

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        return await _served(texts)


@pytest.mark.parametrize("embed", [_served, Served(), Embedder(lambda texts: _served(texts), "lambda")], ids=range(3))  # noqa: PLW0108
def test_an_asynchronous_embedder_serves_both_modes(make: Callable[..., UnifiedStorage], embed: Any) -> None:
    storage = make(embedder=embed)
    storage.sync.store_document("a goose on the water")
    storage.sync.store_document("the lorry is late")
    assert storage.sync.search("swan")[0].text == "a goose on the water"

    async def inside_a_loop() -> str:
        await storage.aio.store_document("cheese for lunch")
        return (await storage.aio.search("bread"))[0].text

    assert asyncio.run(inside_a_loop()) == "cheese for lunch"
    assert storage.sync.search("bread")[0].text == "cheese for lunch"


def test_a_deadline_ends_an_asynchronous_embedder_of_a_synchronous_caller(make: Callable[..., UnifiedStorage]) -> None:
    async def endless(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(60)
        return topics(texts)

    storage = make(embedder=Embedder(endless, "endless"))
    with deadline(0.2), pytest.raises(DeadlineExceeded):
        storage.sync.index.add("x", "a duck")
    assert storage.sync.index.count() == 0


def test_a_broken_embedder_stores_nothing(make: Callable[..., UnifiedStorage]) -> None:
    def broken(texts: list[str]) -> list[list[float]]:
        return [[float("nan")] for _ in texts]

    storage = make(embedder=Embedder(broken, "broken"))
    with pytest.raises(ConfigurationError, match="broken"):
        storage.sync.index.add("x", "text")
    assert storage.sync.index.count() == 0


def test_documents_are_embedded_before_their_transaction(make: Callable[..., UnifiedStorage]) -> None:
    inside: list[bool] = []

    def embed(texts: list[str]) -> list[list[float]]:
        inside.append(storage.sync.index._port._leaf.in_transaction())  # type: ignore[attr-defined]
        return topics(texts)

    storage = make(embedder=Embedder(embed, "spy"))
    if storage.settings.url.backend != "sqlite":
        inside.append(False)
        storage = make(embedder=topics)
    id_ = storage.sync.store_document("the goose is here", {"title": "Water"})
    storage.sync.store_document("the lorry is here")
    assert [found.document.id for found in storage.sync.documents.find("swan", top_k=1)] == [id_]
    assert inside
    assert not any(inside)


def test_metadata_is_changed_in_place(make: Callable[..., UnifiedStorage]) -> None:
    index = make().sync.index
    index.add_many([IndexItem(str(n), "", "word", {"n": n, "old": True}) for n in range(5)])
    assert [hit.id for hit in index.search("word", filters={"n": 3})] == ["3"]
    assert index.update_metadata(["3", "4", "absent"], {"n": 7, "old": None}) == 2
    assert {hit.id for hit in index.search("word", filters={"n": 7})} == {"3", "4"}
    assert index.search("word", filters={"n": 3}) == []
    assert index.update_metadata("4", {"new": "x"}, patch=False) == 1
    assert [item.metadata for item in index.fetch(["3", "4"])] == [{"n": 7}, {"new": "x"}]
    assert [item.id for item in index.list(2)] == ["0", "1"]
    assert [item.id for item in index.list(2, after="1", filters={"new": None})] == ["2", "3"]
    for bad in ({"k": [1]}, {1: "k"}, {"k": float("nan")}, "text"):
        with pytest.raises(UnsupportedValue):
            index.update_metadata("4", bad)  # type: ignore[arg-type]
    for limit in (0, 1001, True, None):
        with pytest.raises(InvalidQuery):
            index.list(limit)  # type: ignore[arg-type]


def test_hostile_queries(make: Callable[..., UnifiedStorage]) -> None:
    index = make(embedder=topics).sync.index
    index.add("x", "a duck")
    for query in ("duck " * 200_000, "\ud800 duck", "duck\x00", '"duck" AND (', "duck OR NOT *"):
        assert [hit.id for hit in index.search(query)] == ["x"]
    for query in ("", " \n"):
        assert index.search(query) == []
    for options in ({"fusion": "best"}, {"min_score": "1"}, {"min_score": float("nan")}, {"vector": [float("nan")]}):
        with pytest.raises(InvalidQuery):
            index.search("duck", **options)
    wrong: list[Any] = ["year", [("year", 1)], {5: 1}]
    for filters in wrong:
        with pytest.raises(InvalidQuery):
            index.search("duck", filters=filters)
    for field in ("a b", "a'--", "$.a", "", "a" * 100):
        with pytest.raises(InvalidQuery):
            index.search("duck", filters={field: 1})


def test_vectors_of_another_size_than_the_embedders_are_refused(make: Callable[..., UnifiedStorage]) -> None:
    index = make(embedder=Embedder(topics, "model")).sync.index
    assert index.search("", vector=[1.0]) == [], "nothing is there yet to fit"
    index.add("x", "a duck")
    for wrong in ([1.0], [1.0] * 5):
        with pytest.raises(InvalidQuery, match="have 4, from 'model'"):
            index.search("duck", vector=wrong)
        with pytest.raises(InvalidQuery, match="have 4, from 'model'"):
            index.add_many([{"id": "y", "text": "a goose"}, {"id": "z", "text": "a swan", "vector": wrong}])
        with pytest.raises(InvalidQuery):
            index.embedded_by("none").add("z", "a swan", vector=wrong)
    assert index.count() == 1
    index.add("y", "a goose", vector=[0.0, 1.0, 0.0, 0.0])
    assert {hit.id for hit in index.search("", vector=[0.0, 1.0, 0.0, 0.0])} == {"x", "y"}


def test_a_query_that_is_no_proper_text_reaches_no_embedder(make: Callable[..., UnifiedStorage]) -> None:
    def strict(texts: list[str]) -> list[list[float]]:
        return topics([text.encode().decode() for text in texts])

    storage = make(embedder=Embedder(strict, "strict"))
    storage.sync.index.add("x", "a duck")
    assert [hit.id for hit in storage.sync.search("\ud800 duck")] == ["x"]
    assert [hit["id"] for hit in storage.sync.search_context("\udcff duck")["vector_results"]] == ["x"]


def test_items_may_be_dictionaries(make: Callable[..., UnifiedStorage]) -> None:
    index = make().sync.index
    index.add_many([{"id": "1", "text": "a duck"}, {"id": "2", "text": "a swan", "title": "T", "metadata": {"n": 1}}])
    assert [(item.title, item.metadata) for item in index.fetch(["1", "2"])] == [("", {}), ("T", {"n": 1})]
    wrong: list[Any] = [None, 5, "x", {"id": "3", "text": "x"}, [1], [("3", "", "x", {})], [{"id": "3"}]]
    for items in (*wrong, [{"text": "x"}], [{"id": "3", "text": "x", "year": 1}], [{"id": "3", "text": "x", 5: 1}]):
        with pytest.raises(UnsupportedValue):
            index.add_many(items)
    assert index.count() == 2


def test_the_flat_search_takes_what_the_index_takes(make: Callable[..., UnifiedStorage]) -> None:
    storage = make()
    storage.sync.index.add("x", "a duck")
    assert [hit.id for hit in storage.sync.search("duck", fusion="ranks")] == ["x"]
    with pytest.raises(InvalidQuery, match="fusion"):
        storage.sync.search("duck", fusion="best")
    for pattern in (5, b"search:*"):
        with pytest.raises(InvalidQuery, match="pattern"):
            storage.sync.invalidate_cache(pattern)  # type: ignore[arg-type]


def test_names_of_embedders() -> None:
    assert embedder_for("none") is None
    for wrong in ("gpt", 5, ["x"]):
        with pytest.raises(ConfigurationError, match="embedder"):
            UnifiedStorage("memory://", embedder=wrong)


def test_the_built_in_embedder_reads_its_package_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wordllama")
    monkeypatch.setattr("socket.socket.connect", lambda *_args: pytest.fail("it opened a connection"))
    before, handlers = set(sys.modules), list(logging.getLogger().handlers)
    storage = UnifiedStorage("memory://", embedder="wordllama")
    fill(storage)
    storage.sync.index.add("none", "")
    assert storage.sync.search("birds that swim")[0].id == "birds"
    assert "requests" not in set(sys.modules) - before
    assert logging.getLogger().handlers == handlers
    (item,) = storage.sync.index.fetch(["none"])
    assert item.vector is not None
    assert len(item.vector) == 256
