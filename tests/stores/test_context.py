"""What belongs to a question: its three parts, the last messages, and what a failing storage gives."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import InvalidQuery, Unavailable
from tests.stores.conftest import Port, Run

EMPTY = {"vector_results": [], "conversation_context": [], "combined_relevance": 0.0}


def say(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def test_the_three_parts(run: Run) -> None:
    messages = [
        say("system", "S"),
        *(say("user", str(n)) for n in range(4)),
        say("tool", "T"),
        say("assistant", "zebra"),
    ]

    async def body(s: Any) -> None:
        ids = await s.batch_store_documents(["a zebra", "zebra zebra", "nothing"])
        await s.conversations.append("c", *messages)
        found = await s.search_context("zebra", "c")
        assert list(found) == ["vector_results", "conversation_context", "combined_relevance"]
        assert {one["metadata"]["doc_id"] for one in found["vector_results"]} == set(ids[:2])
        assert set(found["vector_results"][0]) == {"id", "score", "title", "text", "metadata"}
        scores = [one["score"] for one in found["vector_results"]]
        assert scores == sorted(scores, reverse=True)
        assert found["combined_relevance"] == sum(scores) / 2
        assert [m["content"] for m in found["conversation_context"]] == ["0", "1", "2", "3", "zebra"]

    run(body)


def test_what_is_left_out(run: Run) -> None:
    async def body(s: Any) -> None:
        await s.batch_store_documents([f"zebra {n}" for n in range(9)])
        await s.conversations.append("c", *[say("user", str(n)) for n in range(9)])
        assert len((await s.search_context("zebra"))["vector_results"]) == 5
        assert len((await s.search_context("zebra", top_k=3))["vector_results"]) == 3
        assert (await s.search_context("zebra"))["conversation_context"] == []
        assert (await s.search_context("zebra", "c", False))["conversation_context"] == []
        assert (await s.search_context("zebra", "none"))["conversation_context"] == []
        last = await s.search_context("zzz", "c", top_k=1)
        assert [m["content"] for m in last["conversation_context"]] == ["4", "5", "6", "7", "8"]
        assert last["vector_results"] == []
        assert last["combined_relevance"] == 0.0
        assert await s.search_context("") == EMPTY

    run(body)


@pytest.mark.parametrize("part", ["search", "log"])
def test_a_failure_gives_the_empty_result_and_a_line(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: Any
) -> None:
    async def broken(*_args: Any) -> None:
        raise Unavailable("the server is away")

    for face in (storage.sync, storage.aio):
        if part == "search":
            monkeypatch.setattr(face._index, "_port", Port(face._index._port, query=broken))
        else:
            streams = face._conversations._streams
            monkeypatch.setattr(streams, "log", Port(streams.log, tail=broken))

    async def body(s: Any) -> None:
        await s.store_document("zebra")
        assert await s.search_context("zebra", "c") == EMPTY

    with caplog.at_level(logging.WARNING, "ambidex"):
        run(body)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "the server is away" in caplog.text


@pytest.mark.parametrize(("query", "top_k"), [(None, 5), (7, 5), ("x", 0), ("x", 2.5), ("x", 10**6)])
def test_what_cannot_be_asked_is_an_error(run: Run, query: Any, top_k: Any) -> None:
    async def body(s: Any) -> None:
        with pytest.raises(InvalidQuery):
            await s.search_context(query, top_k=top_k)

    run(body)


def test_the_detecting_face_answers_by_mode(storage: UnifiedStorage) -> None:
    async def later() -> Any:
        return await storage.search_context("zebra")

    assert storage.search_context("zebra") == asyncio.run(later()) == EMPTY
