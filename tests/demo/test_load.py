"""Storing texts in batches and making vectors anew: bounded, and to be gone on with."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ambidex import UnifiedStorage
from ambidex.core.embedding import Embedder
from ambidex.demo.load import make_vectors, store_texts
from ambidex.demo.texts import LeftOut, Text
from ambidex.errors import ConfigurationError, PartialFailure, Unavailable


def terminal(*, is_one: bool) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=is_one, width=100), written


def test_batches_are_bounded_by_number_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = UnifiedStorage("memory://").sync
    batches: list[list[int]] = []
    store = storage.batch_store_documents

    def spy(documents: Any) -> list[str]:
        batches.append([len(document["content"]) for document in documents])
        return store(documents)

    monkeypatch.setattr(storage, "batch_store_documents", spy)
    texts = [
        Text(f"{number}.md", "", "x" * length) for number, length in enumerate([1] * 70 + [60_000] * 3 + [300_000])
    ]
    console, written = terminal(is_one=False)
    assert store_texts(storage, texts, console, len(texts)) == (74, 0, [])
    assert batches == [[1] * 64, [1] * 6 + [60_000], [60_000], [60_000], [300_000]]
    assert written.getvalue() == "", "no terminal, no bar"
    assert len(list(storage.documents.iterate())) == 74


def test_a_bar_is_shown_on_a_terminal() -> None:
    storage = UnifiedStorage("memory://").sync
    console, written = terminal(is_one=True)
    store_texts(storage, [Text(f"{number}.md", "", "a swan") for number in range(3)], console, 3)
    assert "storing" in written.getvalue()
    assert "3/3" in written.getvalue()


def test_a_text_that_cannot_be_stored_is_named_and_the_others_are_stored() -> None:
    storage = UnifiedStorage("memory://").sync
    name = "0190b3a4-5b6c-7d8e-9f00-112233445566"
    given: list[Text | LeftOut] = [
        Text("a.md", "", "a"),
        Text(name, "", "b"),
        LeftOut("photo.jpg", "binary"),
        Text("long/" * 500, "", "c"),
    ]
    console, written = terminal(is_one=True)
    stored, unchanged, left_out = store_texts(storage, iter(given), console, len(given))
    assert (stored, unchanged) == (1, 0)
    assert [one.path for one in left_out] == ["photo.jpg", name, "long/" * 500]
    assert left_out[0].why == "binary"
    assert "reads like a document's id" in left_out[1].why
    assert "4/4" in written.getvalue()
    assert [info.path for info in storage.documents.iterate()] == ["a.md"]


def test_texts_that_are_there_already_are_counted_apart() -> None:
    storage = UnifiedStorage("memory://").sync
    console, _ = terminal(is_one=False)
    given = [Text("a.md", "A", "a"), Text("b.md", "B", "b"), Text("c.md", "C", "c")]
    assert store_texts(storage, given, console, 3) == (3, 0, [])
    assert store_texts(storage, given, console, 3) == (0, 3, [])
    name = "0190b3a4-5b6c-7d8e-9f00-112233445566"
    changed = [given[0], Text("b.md", "B", "another"), Text(name, "", "d"), Text("c.md", "Another", "c")]
    stored, unchanged, left_out = store_texts(storage, changed, console, 4)
    assert (stored, unchanged, [one.path for one in left_out]) == (2, 1, [name])
    assert {info.path: info.version for info in storage.documents.iterate()} == {"a.md": 1, "b.md": 2, "c.md": 2}


def test_a_storage_that_fails_is_no_reason_to_leave_texts_out(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = UnifiedStorage("memory://").sync

    def fail(_documents: Any) -> list[str]:
        raise PartialFailure("the storage failed", {0: Unavailable("down")}, [None])

    monkeypatch.setattr(storage, "batch_store_documents", fail)
    with pytest.raises(PartialFailure, match="down"):
        store_texts(storage, [Text("a.md", "", "a")], terminal(is_one=False)[0], 1)


def test_an_interrupted_run_says_how_to_go_on() -> None:
    calls = []

    def failing(texts: list[str]) -> list[list[float]]:
        calls.append(len(texts))
        if len(calls) == 3:
            raise ConfigurationError("the model is gone")
        return [[float(len(text)), 1.0] for text in texts]

    storage = UnifiedStorage("memory://", embedder=Embedder(failing, "lengths"))
    storage.sync.index.embedded_by("none").add_many([_item(number) for number in range(450)])
    console, written = terminal(is_one=False)
    with pytest.raises(ConfigurationError, match="the model is gone"):
        make_vectors(storage.sync, "default", None, console)
    assert written.getvalue() == "to go on: --after 399\n"
    assert make_vectors(storage.sync, "default", "399", console) == (50, "449")
    assert calls == [200, 200, 50, 50]
    assert make_vectors(storage.sync, "other", None, console) == (0, None)


def _item(number: int) -> Any:
    from ambidex.core.ports import IndexItem

    return IndexItem(f"{number:03}", "", f"word {number}", {})
