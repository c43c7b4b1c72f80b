"""Conversations: saves, appends, forks, metadata, refusals, failures; in both modes on every placing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from ambidex import UnifiedStorage
from ambidex.core.ports import Event
from ambidex.errors import (
    AlreadyExists,
    InvalidKey,
    InvalidQuery,
    NotFound,
    Unavailable,
    UnsupportedValue,
    ValueTooLarge,
)
from tests.stores.chat_messages import SYSTEM, texts, user
from tests.stores.conftest import Port, Run


def test_what_was_saved_comes_back_whole(run: Run) -> None:
    messages = [SYSTEM, user("hi", name="Ann", parts=[1, {"a": None}]), {"role": "tool", "content": None, "id": 7}]

    async def body(s: Any) -> None:
        await s.save_conversation("c", messages)
        assert await s.get_conversation("c") == messages
        assert await s.conversations.history("c") == messages
        assert await s.get_conversation("other") is None
        assert await s.conversations.history("other") == []
        assert await s.conversations.exists("c")
        assert not await s.conversations.exists("other")

    run(body)


def test_a_save_replaces_what_was_there(run: Run) -> None:
    async def body(s: Any) -> None:
        for turn in range(5):
            await s.save_conversation("c", [{"role": "system", "content": f"v{turn}"}, *(user(str(turn)),) * 30])
            await s.conversations.append("c", user("more"))
            assert texts(await s.get_conversation("c")) == [f"v{turn}", *[str(turn)] * 19, "more"]
            assert len(await s.conversations.history("c")) == 32
        await s.save_conversation("c", [])
        assert await s.get_conversation("c") == []

    run(body)


def test_the_time_to_live_is_kept_extended_and_ends_everything(run: Run, storage: UnifiedStorage) -> None:
    async def body(s: Any) -> None:
        await s.save_conversation("c", [user("hi")], ttl_hours=0.5 / 3600)
        await s.save_conversation("d", [SYSTEM, user("hi")], ttl_hours=0.5 / 3600)
        await s.save_conversation("e", [user("hi")], ttl_hours=None)
        assert await s.conversations.extend("d", 24)
        assert not await s.conversations.extend("none", 24)
        await _gone(lambda: s.get_conversation("c"))
        assert len(await s.get_conversation("d")) == 2
        assert len(await s.get_conversation("e")) == 1
        assert await s.conversations.list_active() == ["d", "e"]
        await s.conversations.append("c", user("again"))
        assert texts(await s.get_conversation("c")) == ["again"]
        assert texts(await s.conversations.history("c")) == ["again"]

    run(body)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _gone(call: Any) -> None:
    """Wait until a conversation has expired."""
    for _ in range(200):
        if await call() is None:
            return
        if _in_loop():
            await asyncio.sleep(0.05)
        else:
            threading.Event().wait(0.05)
    raise AssertionError("it never expired")


def test_fork_copies_up_to_a_message(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        await chat.save("c", [SYSTEM, *(user(str(n)) for n in range(5))])
        assert await chat.fork("c", 2, "d") == "d"
        assert texts(await chat.history("d")) == ["be kind", "0", "1"]
        assert await chat.metadata("d") == {"forked_from": "c", "forked_at": 2}
        whole = await chat.fork("c")
        assert await chat.history(whole) == await chat.history("c")
        await chat.append("d", user("other"))
        assert len(await chat.history("c")) == 6
        for place in (6, -7):
            with pytest.raises(NotFound):
                await chat.fork("c", place)
        with pytest.raises(NotFound):
            await chat.fork("none")

    run(body)


def test_a_fork_never_replaces_a_conversation(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        await chat.append("c", user("1"), user("2"))
        await chat.append("d", user("other"))
        for name in ("d", "c"):
            with pytest.raises(AlreadyExists, match=f"'{name}' already"):
                await chat.fork("c", 0, name)
        assert texts(await chat.history("c")) == ["1", "2"]
        assert texts(await chat.history("d")) == ["other"]
        await chat.delete("d")
        assert texts(await chat.history(await chat.fork("c", 0, "d"))) == ["1"]

    run(body)


@dataclass
class Turn:
    role: str
    content: str | None = None
    tool_calls: list[Call] | None = None
    refusal: str | None = None


class Call(BaseModel):
    id: str
    arguments: dict[str, int]


class Said(BaseModel):
    role: str
    content: str | None
    tool_calls: list[Call] | None = None


def test_models_are_kept_as_the_dictionaries_of_what_they_hold(run: Run) -> None:
    asks: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "arguments": {"n": 2}}]}

    async def body(s: Any) -> None:
        call = Call(id="1", arguments={"n": 2})
        await s.save_conversation("c", [Turn("user", "hi"), Said(role="assistant", content=None, tool_calls=[call])])
        await s.conversations.append("c", Turn("assistant", None, [call]), Said(role="assistant", content="done"))
        assert await s.get_conversation("c") == [user("hi"), asks, asks, {"role": "assistant", "content": "done"}]
        with pytest.raises(UnsupportedValue, match="message 1 has the role None"):
            await s.conversations.append("c", user("x"), call)

    run(body)


def test_content_may_be_left_out_beside_tool_calls(run: Run) -> None:
    asks = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}

    async def body(s: Any) -> None:
        await s.save_conversation("c", [user("hi"), asks])
        assert await s.get_conversation("c") == [user("hi"), asks]
        assert (await s.conversations.statistics("c"))["characters"] == 2
        assert (await s.search_context("hi", "c"))["conversation_context"] == [user("hi"), asks]

    run(body)


def test_statistics_metadata_and_the_active_list(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        assert await chat.statistics("c") is None
        await chat.save("c", [SYSTEM, user("12345"), {"role": "user", "content": [{"type": "text", "text": "678"}]}])
        about = await chat.statistics("c")
        assert about["messages"] == 3
        assert about["by_role"] == {"system": 1, "user": 2}
        assert about["characters"] == 15
        assert about["tokens"] == 2 + 2 + 1
        assert about["first_at"] <= about["last_at"]
        assert about["first_at"].tzinfo is not None
        await chat.set_metadata("c", title="T", count=1)
        await chat.set_metadata("c", count=None, other=[1])
        assert await chat.metadata("c") == {"title": "T", "other": [1]}
        await chat.append("d/../c", user("hi"))
        await chat.append("d%2F", user("hi"))
        assert sorted(await chat.list_active()) == ["c", "d%2F", "d/../c"]
        assert await chat.list_active(prefix="d", limit=1) in (["d%2F"], ["d/../c"])
        assert sorted([name async for name in chat.active(page=1)]) == ["c", "d%2F", "d/../c"]
        assert await chat.delete("c")
        assert not await chat.delete("c")
        assert await chat.get("c") is None
        assert await chat.metadata("c") == {}
        await chat.append("c", user("born again"))
        assert texts(await chat.get("c")) == ["born again"]

    run(body)


def test_tenants_do_not_see_each_other(run_unbound: Run, own: str) -> None:
    async def body(s: Any) -> None:
        await s.tenant(f"{own}a").conversations.append("c", user("of a"))
        await s.tenant(f"{own}b").conversations.append("c", user("of b"))
        assert texts(await s.tenant(f"{own}a").conversations.get("c")) == ["of a"]
        assert await s.tenant(own).conversations.get("c") is None
        assert await s.tenant(f"{own}b").conversations.list_active() == ["c"]

    run_unbound(body)


def test_the_last_answer_is_indexed(run: Run) -> None:
    answer = {"role": "assistant", "content": "zebra " * 300}

    async def body(s: Any) -> None:
        await s.save_conversation("c", [user("what?"), answer])
        await s.save_conversation("c", [user("what?"), answer])
        hits = await s.search("zebra")
        assert len(hits) == 2
        assert hits[0].id != hits[1].id
        assert hits[0].metadata["type"] == "conversation"
        assert hits[0].metadata["chat_id"] == "c"
        assert hits[0].metadata["timestamp"].startswith("20")
        assert len(hits[0].text) == 1000

    run(body)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "zebra"}],
        [{"role": "assistant", "content": "zebra"}, user("zebra")],
        [user("zebra"), {"role": "assistant", "content": ""}],
        [user("zebra"), {"role": "assistant", "content": None}],
    ],
)
def test_nothing_else_is_indexed(run: Run, messages: Any) -> None:
    async def body(s: Any) -> None:
        await s.save_conversation("c", messages)
        assert await s.search("zebra") == []

    run(body)


def test_an_indexing_failure_only_warns(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_args: Any) -> None:
        raise Unavailable("the index is away")

    rooms: list[Any] = [storage.sync._conversations, storage.aio._conversations]
    for room in rooms:
        monkeypatch.setattr(room._index, "_port", Port(room._index._port, index=broken))

    async def body(s: Any) -> None:
        await s.save_conversation("c", [user("hi"), {"role": "assistant", "content": "ho"}])
        assert len(await s.get_conversation("c")) == 2

    with caplog.at_level(logging.WARNING, "ambidex"):
        run(body)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the index is away" in caplog.text


def test_failures_of_the_storage(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_args: Any) -> list[Event]:
        raise Unavailable("the log is away")

    for face in (storage.sync, storage.aio):
        streams = face._conversations._streams
        monkeypatch.setattr(streams, "log", Port(streams.log, append=broken, tail=broken, range=broken))

    async def body(s: Any) -> None:
        with pytest.raises(Unavailable):
            await s.save_conversation("c", [user("hi")])
        with pytest.raises(Unavailable):
            await s.get_conversation("c", strict=True)
        assert not caplog.records
        assert await s.get_conversation("c") is None

    with caplog.at_level(logging.WARNING, "ambidex"):
        run(body)
    assert "the log is away" in caplog.text


def test_a_failure_behind_the_first_write_does_not_say_that_nothing_was_applied(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: Any) -> bool:
        raise Unavailable("away since a moment")

    for face in (storage.sync, storage.aio):
        streams: Any = face.conversations._streams
        monkeypatch.setattr(streams, "kv", Port(streams.kv, touch=broken))

    async def body(s: Any) -> None:
        chat = s.conversations
        await chat.append("c", user("one"))  # needs no second call
        calls: list[Callable[[], Any]] = [
            lambda: chat.append("c", user("two"), ttl_hours=1),
            lambda: chat.extend("c"),
            lambda: chat.save("d", [user("three")]),
        ]
        for call in calls:
            with pytest.raises(Unavailable, match="away") as caught:
                await call()
            assert (caught.value.applied, caught.value.retryable) == ("unknown", False)
        assert texts(await chat.history("c")) == ["one", "two"]
        assert texts(await chat.history("d")) == ["three"]

    run(body)


BAD_MESSAGES: list[tuple[Any, str]] = [
    ("text", "messages are a list"),
    ({"role": "user", "content": "x"}, "messages are a list"),
    (7, "messages are a list"),
    ([user("ok"), "text"], "message 1 is str"),
    ([{"content": "x"}], "message 0 has the role None"),
    ([{"role": "", "content": "x"}], "message 0 has the role ''"),
    ([{"role": 7, "content": "x"}], "message 0 has the role 7"),
    ([{"role": "user"}], "message 0 has no 'content'"),
    ([{"role": "user", "content": 7}], "the content of message 0 is int"),
    ([{"role": "user", "content": b"x"}], "the content of message 0 is bytes"),
    ([user("a\0b")], "message 0: .*NUL"),
    ([user("\ud800")], "message 0: .*surrogate"),
    ([user("x", score=float("nan"))], "message 0: .*nan"),
    ([user("x", more={1: 2})], "message 0: .*key 1"),
]


def test_a_deleted_conversation_is_found_no_more(run: Run) -> None:
    def turn(word: str) -> list[dict[str, Any]]:
        return [user("?"), {"role": "assistant", "content": f"{word} okapi"}]

    async def body(s: Any) -> None:
        for word in ("one", "two"):
            await s.save_conversation("c", turn(word))
        await s.save_conversation("c:" + "x" * 1_500, turn("kept"))
        await s.store_document("an okapi", {"path": "a"})
        await s.store_document("an okapi", {"path": "z"})
        assert len(await s.search("okapi")) == 5
        assert await s.conversations.delete("c")
        texts = sorted(hit.text for hit in await s.search("okapi"))
        assert texts == ["an okapi", "an okapi", "kept okapi"]
        assert not await s.conversations.delete("c")
        assert await s.conversations.delete("c:" + "x" * 1_500)
        assert len(await s.search("okapi")) == 2

    run(body)


@pytest.mark.parametrize(("messages", "why"), BAD_MESSAGES)
def test_bad_messages_are_refused_before_anything_is_stored(run: Run, messages: Any, why: Any) -> None:
    async def body(s: Any) -> None:
        with pytest.raises(UnsupportedValue, match=why):
            await s.save_conversation("c", messages)
        assert not await s.conversations.exists("c")

    run(body)


def test_bad_arguments_are_refused(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        for name in ("", "a\0", "x" * 3000, 7, None):
            with pytest.raises(InvalidKey):
                await s.save_conversation(name, [])
            with pytest.raises(InvalidKey):
                await s.get_conversation(name)
        for hours in (0, -1, float("nan"), float("inf"), "1", 10**9):
            with pytest.raises(InvalidQuery):
                await s.save_conversation("c", [], ttl_hours=hours)
        for last in (0, -1, 2.5, 10**6, True):
            with pytest.raises(InvalidQuery):
                await chat.window("c", last=last)
        with pytest.raises(InvalidQuery):
            await chat.window("c", tokens=0)
        with pytest.raises(InvalidQuery):
            await chat.append("c")

    run(body)


def test_a_long_message_comes_back(run: Run) -> None:
    async def body(s: Any) -> None:
        long = "schöner Text 🙂 " * 70_000
        await s.save_conversation("c", [user(long), {"role": "assistant", "content": long}])
        assert texts(await s.get_conversation("c")) == [long, long]

    run(body)


CHATS = [
    "../../etc/passwd",
    "*",
    "a:b",
    "a%3Ab",
    "%",
    "{x}",
    "'; DROP",
    " ",
    "\n",
    "n\u00e9/\U0001f642",
    "-",
    "_",
    "chat:now:",
]


def test_hostile_names_are_only_names(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        for n, name in enumerate(CHATS):
            await chat.append(name, SYSTEM, user(str(n)))
            await chat.set_metadata(name, n=n)
        assert sorted(await chat.list_active()) == sorted(CHATS)
        for n, name in enumerate(CHATS):
            assert texts(await chat.get(name)) == ["be kind", str(n)]
            assert await chat.metadata(name) == {"n": n}
            assert name in await chat.list_active(prefix=name)
        assert await chat.list_active(prefix="*") == ["*"]
        assert await chat.delete("*")
        assert len(await chat.list_active()) == len(CHATS) - 1

    run(body)


TEXTS = [
    "",
    " ",
    "\r\n\t\x01\x7f",
    "'; DROP TABLE ambidex_events; --",
    "$1 ? :x %s {0} \\",
    "\u202e\ufeff",
    "\U0001f642" * 5,
    "e\u0301",
    "null",
    "[]",
]


def test_hostile_messages_come_back_as_they_are(run: Run) -> None:
    odd: dict[str, Any] = {
        "role": "tool\n'",
        "content": "x",
        "deep": {"'; --": [{}, [], "", None, 2**63 - 1, -0.5]},
        "": "",
        "m": None,
    }

    async def body(s: Any) -> None:
        messages = [*map(user, TEXTS), odd, user([{"type": "text", "text": text} for text in TEXTS])]  # type: ignore[arg-type]
        await s.conversations.append("c", *messages)
        assert await s.conversations.history("c") == messages
        await s.save_conversation("c", messages)
        assert await s.get_conversation("c") == messages

    run(body)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda chat: chat.append("c", "text"), UnsupportedValue),
        (lambda chat: chat.append("c", user("good"), user("a\0b")), UnsupportedValue),
        (lambda chat: chat.append("a\0", user("x")), InvalidKey),
        (lambda chat: chat.append("\ud800", user("x")), InvalidKey),
        (lambda chat: chat.append("c", user("x"), ttl_hours="1"), InvalidQuery),
        (lambda chat: chat.set_metadata("c", a="a\0b"), UnsupportedValue),
        (lambda chat: chat.set_metadata("c", a=float("inf")), UnsupportedValue),
        (lambda chat: chat.list_active(limit=0), InvalidQuery),
        (lambda chat: chat.fork("c", new_chat_id="", ttl_hours=1), InvalidKey),
        (lambda chat: chat.fork("c", at=7), NotFound),
        (lambda chat: chat.fork("c", at="last"), InvalidQuery),
        (lambda chat: chat.fork("c", at=None), InvalidQuery),
        (lambda chat: chat.append("c", {"role": "user", "tool_calls": []}), UnsupportedValue),
    ],
    ids=range(13),
)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(run: Run, call: Any, error: Any) -> None:
    async def body(s: Any) -> None:
        await s.conversations.append("c", user("kept"))
        with pytest.raises(error):
            await call(s.conversations)
        assert texts(await s.conversations.history("c")) == ["kept"]
        assert await s.conversations.metadata("c") == {}
        assert await s.conversations.list_active() == ["c"]

    run(body)


def test_a_message_that_is_too_large_is_refused() -> None:
    with UnifiedStorage("memory://", max_value_bytes=1_000) as storage:
        with pytest.raises(ValueTooLarge):
            storage.conversations.append("c", user("good"), user("x" * 1_000))
        assert not storage.conversations.exists("c")


def test_the_detecting_room_answers_by_mode(storage: UnifiedStorage) -> None:
    storage.conversations.append("c", user("from sync"))

    async def later() -> Any:
        await storage.conversations.append("c", user("from async"))
        return await storage.conversations.with_tokeniser(len).window("c", tokens=10)

    assert texts(asyncio.run(later())) == ["from async"]
    assert texts(storage.get_conversation("c")) == ["from sync", "from async"]
