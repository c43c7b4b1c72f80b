"""What is refused before it is stored as a document, and what looks dangerous and is kept as it is."""

from __future__ import annotations

from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import (
    InvalidKey,
    UnsupportedValue,
)
from tests.stores.conftest import Run
from tests.stores.document_support import check

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
