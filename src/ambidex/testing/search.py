"""The contract of the search index: what is found, what is filtered out, what is refused; backends are tested with it.

The invariant: rankings differ between engines, so the tests assert what any engine must agree on: which items match,
what stands first when the texts leave no doubt, and that filters mean the same as the reference in ``core/query.py``.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from ambidex.core.ports import Capability, IndexItem
from ambidex.core.query import OPERATORS, matches, parse_filters
from ambidex.errors import AmbidexError, InvalidKey, InvalidQuery, UnsupportedValue
from ambidex.testing.contract import Contract, Subject
from ambidex.testing.names import HOSTILE

__all__ = ["SearchContract"]

_TEXTS = {
    "fox": ("Animals", "The quick brown fox jumps over the lazy dog."),
    "dog": ("Animals", "A dog sleeps; the dog dreams of another dog."),
    "sea": ("Nature", "The sea is deep and the sea is blue."),
    "empty": ("", ""),
    "unicode": ("Größe", "Der Fluß überquert die Brücke in Zürich, naïve café."),
}

_SYNTAX = (
    *('"', "'", '""', '"fox', 'fox"', "fox AND", "OR fox", "NOT fox", "fox NOT dog", "fox*", "^fox", "fox NEAR dog"),
    *("NEAR(fox dog)", "title:fox", "fox:dog", "{fox}", "(fox", "fox)", "fox + dog", "-fox", "fox -dog", "fox & dog"),
    *("fox | dog", "!fox", "fox <-> dog", "fox:*", "@fox", "~fox", "%fox%", "fox\\", "\\", "fox;--", "';DROP TABLE x"),
    *(
        "fox\x00dog",
        "\ud800 fox",
        "fox\n\n",
        "🦊 fox",
        "fox" + " x" * 5_000,
        "$fox",
        "[fox]",
        "fox?",
        "=>[KNN 1 @v $q]",
    ),
)
"""Query syntax of FTS5, PostgreSQL and RediSearch, and worse; each is only words."""

_METADATA: dict[str, dict[str, Any]] = {
    "none": {},
    "null": {"f": None},
    "int": {"f": 5},
    "negative": {"f": -5},
    "float": {"f": 5.5},
    "whole": {"f": 5.0},
    "true": {"f": True},
    "false": {"f": False},
    "text": {"f": "5"},
    "word": {"f": "Paris"},
    "lower": {"f": "paris"},
    "longer": {"f": "Paris, Texas"},
    "blank": {"f": ""},
    "percent": {"f": "100%_x"},
    "accent": {"f": "Zürich 🦊"},
    "big": {"f": 2**53},
    "other": {"g": 5, "a.b": 1},
}

_WANTED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("eq", "ne"), (5, 5.0, -5, 5.5, "5", "Paris", "paris", "", True, False, None, 2**53, "%", 0, 1)),
    **dict.fromkeys(("gt", "ge", "lt", "le"), (5, 5.25, -5, 0, "5", "Paris", "", "Z", 2**53, None)),
    **dict.fromkeys(("in", "not_in"), ([], [5], ["5"], ["Paris", "paris"], [5, "5", 5.5], [True], [None], [None, 5])),
    "contains": ("5", "aris", "%", "_", "🦊", "", "PARIS"),
    "startswith": ("5", "Par", "par", "%", "", "Zü", "100%"),
    "is_null": (True, False),
}


class SearchContract(Contract, needs=[Capability.SEARCH]):
    """Methods of ``storage.index``."""

    async def _fill(self, subject: Subject, namespace: str = "default") -> None:
        items = [IndexItem(id_, title, text, {"id": id_}) for id_, (title, text) in _TEXTS.items()]
        await subject.index.add_many(items, namespace=namespace)

    async def test_search_finds_words(self, subject: Subject) -> None:
        """In text and title, in any case; the best match first; scores fall."""
        await self._fill(subject)
        hits = await subject.index.search("dog")
        assert [hit.id for hit in hits] == ["dog", "fox"]
        assert hits[0].score > hits[1].score
        assert hits[0][2:] == ("Animals", _TEXTS["dog"][1], {"id": "dog"})
        assert {hit.id for hit in await subject.index.search("ANIMALS")} == {"fox", "dog"}
        assert {hit.id for hit in await subject.index.search("fox sea")} == {"fox", "sea"}, "one word is enough"
        assert [hit.id for hit in await subject.index.search("zürich")] == ["unicode"]
        assert await subject.index.search("absent") == []
        assert [hit.id for hit in await subject.index.search("dog", top_k=1)] == ["dog"]

    async def test_search_of_an_empty_index(self, subject: Subject) -> None:
        """Nothing is found, whatever is asked."""
        assert await subject.index.search("dog") == []
        assert await subject.index.search("dog", vector=[1.0]) == []
        assert await subject.index.count() == 0
        assert await subject.index.fetch(["x"]) == []
        assert await subject.index.remove("x") == 0
        assert await subject.index.remove() == 0
        assert await subject.index.reset() == 0
        await subject.index.add_many([])

    async def test_search_never_executes_a_query(self, subject: Subject) -> None:
        """Every character is allowed, and none is syntax."""
        await self._fill(subject)
        for query in _SYNTAX:
            hits = await subject.index.search(query)
            assert ("fox" in query) == ("fox" in {hit.id for hit in hits}), query
        for query in ("", " ", "\n", "\u3000"):
            assert await subject.index.search(query) == []

    async def test_search_bears_huge_queries(self, subject: Subject) -> None:
        """A megabyte gives a right answer or a typed error: one word, the same word often, words all different."""
        await self._fill(subject)
        assert await subject.index.search("x" * 1_000_000) == []
        for query in ("fox " * 250_000, "fox " + " ".join(f"w{number}" for number in range(140_000))):
            try:
                hits = await subject.index.search(query)
            except AmbidexError:
                continue
            assert "fox" in {hit.id for hit in hits}
        assert "fox" in {hit.id for hit in await subject.index.search("fox")}

    async def test_search_by_a_vector_of_another_size_finds_words_alone(self, subject: Subject) -> None:
        """Such a vector is nobody's neighbour, and does not keep words from being found."""
        await subject.index.add_many([IndexItem("2d", "", "a fox", {}, [1.0, 0.0]), IndexItem("no", "", "a dog", {})])
        for vector in ([1.0], [1.0, 0.0, 0.0], [0.5] * 2_000):
            assert await subject.index.search("", vector=vector) == []
            assert [hit.id for hit in await subject.index.search("fox", vector=vector)] == ["2d"]
        await subject.index.add("2d", "a fox", vector=[0.0, 1.0, 0.0])  # it changes its size, and is found by the new
        assert await subject.index.search("", vector=[1.0, 0.0]) == []
        assert [hit.id for hit in await subject.index.search("", vector=[0.0, 1.0, 0.0])] == ["2d"]

    async def test_search_scores_are_normalised(self, subject: Subject) -> None:
        """Between 0 and 1, so that a minimum can be asked for."""
        await self._fill(subject)
        hits = await subject.index.search("dog fox sea")
        assert all(0.0 <= hit.score <= 1.0 for hit in hits)
        assert hits == sorted(hits, key=lambda hit: -hit.score)
        best = await subject.index.search("dog fox sea", min_score=hits[0].score)
        assert hits[0].id in {hit.id for hit in best}
        assert all(hit.score >= hits[0].score for hit in best)
        assert await subject.index.search("dog", min_score=1.1) == []

    async def test_search_replaces_by_id(self, subject: Subject) -> None:
        """An item added again is found by its new words only."""
        await subject.index.add("x", "old words", {"v": 1}, title="early")
        await subject.index.add("x", "new text", {"v": 2})
        assert await subject.index.count() == 1
        assert await subject.index.search("old early words") == []
        assert [hit.metadata for hit in await subject.index.search("new")] == [{"v": 2}]
        (item,) = await subject.index.fetch(["x"])
        assert item == IndexItem("x", "", "new text", {"v": 2}, None)
        await subject.index.add_many([IndexItem("y", "", "first", {}), IndexItem("y", "", "second", {})])
        assert [item.text for item in await subject.index.fetch(["y"])] == ["second"], "the last of equal ids wins"

    async def test_search_remove_fetch_and_count(self, subject: Subject) -> None:
        """What is removed is not found, fetched or counted any more."""
        await self._fill(subject)
        assert await subject.index.count() == 5
        assert [item.id for item in await subject.index.fetch(["sea", "absent", "dog"])] == ["sea", "dog"]
        assert await subject.index.remove("dog", "absent", "sea") == 2
        assert await subject.index.remove("dog") == 0
        assert [hit.id for hit in await subject.index.search("dog sea")] == ["fox"]
        assert await subject.index.count() == 3
        assert await subject.index.reset() == 3
        assert await subject.index.count() == 0
        assert await subject.index.search("fox") == []

    async def test_search_namespaces_and_tenants(self, subject: Subject) -> None:
        """Hostile names included, a query sees its own namespace of its own tenant only."""
        other = subject.of_tenant(subject.tenant + ":ix")
        for namespace in HOSTILE:
            await subject.index.add("same", f"shared word {namespace}", {"in": namespace}, namespace=namespace)
        await other.index.add("same", "shared foreign", namespace="a")
        for namespace in HOSTILE:
            (hit,) = await subject.index.search("shared", namespace=namespace)
            assert hit.metadata == {"in": namespace}
            assert await subject.index.count(namespace=namespace) == 1
        assert await subject.index.search("shared") == []
        assert await subject.index.search("foreign", namespace="a") == []
        assert await subject.index.reset(namespace="a") == 1
        assert await subject.index.count(namespace="a:b") == 1
        assert await other.index.count(namespace="a") == 1
        for bad in ("a\x00", "\ud800", 5, None):
            with pytest.raises(InvalidKey):
                await subject.index.search("x", namespace=bad)  # type: ignore[arg-type]

    async def test_search_filters_mean_what_the_reference_says(self, subject: Subject) -> None:
        """Every operator, on every type, against missing fields as well."""
        items = [IndexItem(id_, "", "word", metadata) for id_, metadata in _METADATA.items()]
        await subject.index.add_many(items)
        assert set(_WANTED) == set(OPERATORS)
        wrong: list[str] = []
        for op, values in _WANTED.items():
            for value in values:
                filters = {f"f__{op}": value}
                conditions = parse_filters(filters)
                expected = {item.id for item in items if matches(conditions, item.metadata)}
                found = {hit.id for hit in await subject.index.search("word", top_k=100, filters=filters)}
                if found != expected:
                    wrong.append(f"{filters}: too many {found - expected}, missing {expected - found}")
        assert not wrong, "\n".join(wrong)

    async def test_search_filters_combine(self, subject: Subject) -> None:
        """All conditions must hold, and a filter never costs results."""
        items = [IndexItem(f"i{n:03}", "", "word " * (1 + n % 7), {"n": n, "even": n % 2 == 0}) for n in range(300)]
        await subject.index.add_many(items)
        hits = await subject.index.search("word", top_k=5, filters={"n__ge": 295, "even": True})
        assert {hit.id for hit in hits} == {"i296", "i298"}
        assert len(await subject.index.search("word", top_k=300)) == 300
        hits = await subject.index.search("word", filters={"n": 7})
        assert [hit.id for hit in hits] == ["i007"]

    async def test_search_filters_that_are_refused(self, subject: Subject) -> None:
        """Unknown operators, names that are none, and values that cannot be compared, before any I/O."""
        await subject.index.add("x", "word", {"f": 1})
        bad: tuple[dict[str, Any], ...] = (
            {"f__like": "x"},
            {"f__": 1},
            {"a b": 1},
            {"f'--": 1},
            {"": 1},
            {"f__in": "text"},
            {"f__in": 5},
            {"f__startswith": 5},
            {"f": [1]},
            {"f": {"a": 1}},
            {"f": object()},
            {"f": math.nan},
            {"f": 2**70},
            {"f": "\ud800"},
            {"f": "a\x00"},
            {"f__gt": [1]},
            {"f__in": [[1]]},
            {"f__in": [math.inf]},
            {"f__contains": 5},
        )
        for filters in bad:
            with pytest.raises((InvalidQuery, UnsupportedValue)):
                await subject.index.search("word", filters=filters)
                pytest.fail(f"{filters} was accepted")

    async def test_search_refuses_bad_arguments(self, subject: Subject) -> None:
        """Before any I/O, with nothing of a batch stored."""
        index = subject.index
        for top_k in (0, -1, 1001, True, 1.5, None):
            with pytest.raises(InvalidQuery):
                await index.search("x", top_k=top_k)  # type: ignore[arg-type]
        for query in (None, 5, b"x", ["x"]):
            with pytest.raises(InvalidQuery):
                await index.search(query)  # type: ignore[arg-type]
        for vector in ([], [math.nan], [math.inf, 1.0]):
            with pytest.raises(InvalidQuery):
                await index.search("x", vector=vector)
            with pytest.raises(InvalidQuery):
                await index.add("x", "text", vector=vector)
        for id_, text, metadata in (
            ("a\x00", "text", {}),
            ("\ud800", "text", {}),
            (5, "text", {}),
            ("x", "a\x00", {}),
            ("x", "\ud800", {}),
            ("x", None, {}),
            ("x", "text", {"k": [1]}),
            ("x", "text", {"k": math.nan}),
            ("x", "text", {"k": 2**70}),
            ("x", "text", {"k": "\ud800"}),
            ("x", "text", {1: "k"}),
            ("y" * 5_000, "text", {}),
        ):
            good = IndexItem("good", "", "text", {})
            with pytest.raises((UnsupportedValue, InvalidKey)):
                await index.add_many([good, IndexItem(id_, "", text, metadata)])  # type: ignore[arg-type]
                pytest.fail(f"{id_!r:.20}, {text!r}, {metadata!r} was accepted")
        assert await index.count() == 0

    async def test_search_ids(self, subject: Subject) -> None:
        """Any text is an id."""
        await subject.index.add_many([IndexItem(id_, "", "word", {"is": id_}) for id_ in HOSTILE])
        assert [item.id for item in await subject.index.fetch(HOSTILE)] == list(HOSTILE)
        assert {hit.id for hit in await subject.index.search("word", top_k=1000)} == set(HOSTILE)
        for id_ in HOSTILE:
            assert await subject.index.remove(id_) == 1, id_

    async def test_search_by_vector(self, subject: Subject) -> None:
        """The nearest direction first, whatever the lengths; items without a vector or of another size are left out."""
        vectors = {"east": [10.0, 0.0], "north": [0.0, 0.1], "north-east": [1.0, 1.0], "west": [-1.0, 0.0]}
        items = [IndexItem(id_, "", "place", {}, vector) for id_, vector in vectors.items()]
        await subject.index.add_many(
            [*items, IndexItem("3d", "", "x", {}, [1.0, 0.0, 0.0]), IndexItem("no", "", "x", {})]
        )
        hits = await subject.index.search("", vector=[1.0, 0.1])
        assert [hit.id for hit in hits] == ["east", "north-east", "north", "west"]
        assert hits[0].score == pytest.approx(1.0)
        assert [hit.id for hit in await subject.index.search("", vector=[0.0, 1.0], top_k=1)] == ["north"]
        fetched = await subject.index.fetch(["east", "no"])
        assert fetched[0].vector is not None
        assert list(fetched[0].vector) == [10.0, 0.0]
        assert fetched[1].vector is None

    async def test_search_pages(self, subject: Subject) -> None:
        """Every item once, in the order of the ids, with or without filters."""
        items = [IndexItem(f"i{n:02}", "", "word", {"even": n % 2 == 0}, [float(n)]) for n in range(25)]
        await subject.index.add_many(reversed(items))
        after: str | None = None
        listed: list[IndexItem] = []
        while page := await subject.index.list(10, after=after):
            listed += page
            after = page[-1].id
        assert listed == items
        assert [item.id for item in await subject.index.list(3, after="i04", filters={"even": True})] == [
            "i06",
            "i08",
            "i10",
        ]
        await subject.index.add_many([IndexItem(id_, "", "word", {}) for id_ in HOSTILE], namespace="n")
        assert [item.id for item in await subject.index.list(namespace="n")] == sorted(HOSTILE)

    async def test_search_metadata_can_change_alone(self, subject: Subject) -> None:
        """A patch merges and None removes; else it replaces; filters follow, texts and vectors stay."""
        index = subject.index
        await index.add("a", "word", {"x": 1, "y": "old"}, vector=[1.0, 2.0])
        await index.add("b", "word", {"x": 1})
        assert await index.update_metadata(["a", "absent", "a"], {"x": 2, "y": None, "z": True}) == 1
        assert await index.update_metadata("b", {"only": 1.5}, patch=False) == 1
        assert await index.update_metadata([], {"x": 9}) == 0
        assert await index.fetch(["a", "b"]) == [
            IndexItem("a", "", "word", {"x": 2, "z": True}, [1.0, 2.0]),
            IndexItem("b", "", "word", {"only": 1.5}, None),
        ]
        assert [hit.id for hit in await index.search("word", filters={"x": 2})] == ["a"]
        assert await index.search("word", filters={"x": 1}) == []

    async def test_search_answers_end_with_a_write(self, subject: Subject) -> None:
        """What was found before a write, of any kind, is not found after it."""
        await self._fill(subject)
        assert len(await subject.index.search("dog", filters={"id": "dog"})) == 1
        await subject.index.update_metadata("dog", {"id": "other"})
        assert await subject.index.search("dog", filters={"id": "dog"}) == []
        assert len(await subject.index.search("dog")) == 2
        await subject.index.remove("fox")
        assert len(await subject.index.search("dog")) == 1
        await subject.index.reset()
        assert await subject.index.search("dog") == []

    async def test_search_remembers_an_embedder(self, subject: Subject) -> None:
        """The first one stays until it is replaced on purpose or the namespace is emptied; stamps never repeat."""
        port, space = subject.index._port, subject.index._space("claimed")
        stamps = {(await port.state(space)).stamp}
        assert await port.claim(space, "one:2") == "one:2"
        assert await port.claim(space, "two:3") == "one:2"
        stamps.add((await port.state(space)).stamp)
        assert await port.claim(space, "two:3", replace=True) == "two:3"
        assert (await port.state(space)).embedder == "two:3"
        await subject.index.add("x", "word", namespace="claimed")
        stamps.add((await port.state(space)).stamp)
        await subject.index.reset(namespace="claimed")
        state = await port.state(space)
        assert state.embedder == ""
        assert len(stamps | {state.stamp}) == 4

    async def test_search_by_both(self, subject: Subject) -> None:
        """Words and vector together find what either finds; what both favour is first."""
        await subject.index.add_many(
            [
                IndexItem("both", "", "dog dog", {}, [1.0, 0.0]),
                IndexItem("words", "", "a dog and much else besides", {}, [-1.0, 0.0]),
                IndexItem("vector", "", "nothing", {}, [0.9, 0.1]),
            ]
        )
        hits = await subject.index.search("dog", vector=[1.0, 0.0])
        assert hits[0].id == "both"
        assert {hit.id for hit in hits} == {"both", "words", "vector"}

    async def test_search_texts_are_kept_whole(self, subject: Subject) -> None:
        """Long and odd texts come back as they were."""
        long = "word " * 50_000 + "needle 🦊"
        await subject.index.add("long", long, title="'; DROP TABLE ambidex_items; --")
        (hit,) = await subject.index.search("needle")
        assert hit.text == long
        assert hit.title == "'; DROP TABLE ambidex_items; --"
