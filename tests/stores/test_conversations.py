"""Conversations: saves, appends, windows, previous conversations, forks, failures; in both modes on every placing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive
from ambidex.core.ports import Event
from ambidex.errors import InvalidKey, InvalidQuery, NotFound, Unavailable, UnsupportedValue, ValueTooLarge
from tests.stores.conftest import Port, Run


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def texts(messages: list[dict[str, Any]] | None) -> list[str]:
    return [message["content"] for message in messages or []]


SYSTEM = {"role": "system", "content": "be kind"}


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


def test_the_window_is_the_system_prompt_and_the_last_twenty(run: Run) -> None:
    async def body(s: Any) -> None:
        await s.save_conversation("c", [SYSTEM, *(user(str(n)) for n in range(30))])
        assert texts(await s.get_conversation("c")) == ["be kind", *map(str, range(10, 30))]
        for n in range(30, 100):
            await s.conversations.append("c", user(str(n)))
        assert texts(await s.get_conversation("c")) == ["be kind", *map(str, range(80, 100))]
        assert texts(await s.conversations.window("c", last=2)) == ["be kind", "98", "99"]
        assert texts(await s.conversations.window("c", last=1000)) == ["be kind", *map(str, range(100))]
        assert texts(await s.conversations.history("c")) == ["be kind", *map(str, range(100))]

    run(body)


def test_the_window_of_a_conversation_that_was_only_appended_to(run: Run) -> None:
    async def body(s: Any) -> None:
        assert await s.conversations.append("c", SYSTEM, {"role": "system", "content": "be short"}) == 2
        for n in range(25):
            await s.conversations.append("c", user(str(n)))
        assert texts(await s.get_conversation("c")) == ["be kind", "be short", *map(str, range(5, 25))]

    run(body)


@pytest.mark.parametrize("size", [1, 2, 19, 20, 21, 22])
def test_no_message_comes_twice_at_the_edge_of_the_window(run: Run, size: Any) -> None:
    async def body(s: Any) -> None:
        await s.save_conversation("c", [SYSTEM, *(user(str(n)) for n in range(size))])
        assert texts(await s.get_conversation("c")) == ["be kind", *map(str, range(max(0, size - 20), size))]

    run(body)


def test_the_window_by_tokens_keeps_the_newest_and_counts_the_prompt(run: Run) -> None:
    async def body(s: Any) -> None:
        await s.save_conversation("c", [SYSTEM, *(user("x" * 40) for _ in range(200))])  # the prompt takes 2, others 10
        assert len(await s.conversations.window("c", last=500, tokens=52)) == 6
        assert len(await s.conversations.window("c", last=500, tokens=51)) == 5
        assert len(await s.conversations.window("c", last=3, tokens=1000)) == 4
        assert len(await s.conversations.window("c", last=500, tokens=1000)) == 100
        words = s.conversations.with_tokeniser(lambda text: len(text.split()))
        assert len(await words.window("c", last=500, tokens=52)) == 51

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


def test_many_saves_do_not_pile_up(storage: UnifiedStorage) -> None:
    chat = storage.sync.conversations
    for turn in range(60):
        chat.save("c", [user(f"{turn}-{n}") for n in range(100)])
    assert drive(chat._log.length(chat._now + "c")) < 60 * 101 / 2
    assert texts(chat.history("c")) == [f"59-{n}" for n in range(100)]


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


def test_reset_and_restore_change_places(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        assert not await chat.reset("c")
        assert not await chat.restore("c")
        await chat.save("c", [SYSTEM, user("old")])
        await chat.append("c", user("older"))
        assert await chat.reset("c")
        assert await chat.get("c") == []
        assert not (await chat.statistics("c"))["messages"]
        await chat.append("c", user("new"))
        assert texts(await chat.history("c")) == ["new"]
        assert await chat.restore("c")
        assert texts(await chat.get("c")) == ["be kind", "old", "older"]
        assert await chat.restore("c")
        assert texts(await chat.get("c")) == ["new"]
        assert await chat.restore("c")
        assert texts(await chat.history("c")) == ["be kind", "old", "older"]

    run(body)


def test_a_save_keeps_the_previous_conversation(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        await chat.save("c", [user("first")])
        await chat.reset("c")
        for n in range(3):
            await chat.save("c", [user(str(n))])
        await chat.restore("c")
        assert texts(await chat.history("c")) == ["first"]

    run(body)


def test_resetting_an_empty_conversation_keeps_the_previous_one(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        await chat.save("c", [user("first")])
        await chat.reset("c")
        await chat.reset("c")
        assert await chat.restore("c")
        assert texts(await chat.history("c")) == ["first"]

    run(body)


def test_a_reset_that_was_interrupted_is_finished_by_the_next_operation(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = storage.sync.conversations
    chat.save("c", [user("precious")])
    append = chat._log.append

    async def dying(stream: str, entries: Any, ttl_ms: int | None) -> list[int]:
        if stream.startswith(chat._previous):
            raise Unavailable("killed here")
        return await append(stream, entries, ttl_ms)

    monkeypatch.setattr(chat, "_log", Port(chat._log, append=dying))
    with pytest.raises(Unavailable):
        chat.reset("c")
    monkeypatch.undo()
    chat.append("c", user("new"))
    assert texts(chat.history("c")) == ["new"]
    assert chat.restore("c")
    assert texts(chat.history("c")) == ["precious"]
    assert chat.restore("c")
    assert texts(chat.history("c")) == ["new"]


def test_a_save_that_was_interrupted_leaves_the_old_conversation(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = storage.sync.conversations
    chat.save("c", [SYSTEM, *(user(str(n)) for n in range(40))])

    async def dying(stream: str, entries: Any, ttl_ms: int | None) -> list[int]:
        raise Unavailable("killed here")

    for _ in range(2):
        monkeypatch.setattr(chat, "_log", Port(chat._log, append=dying))
        with pytest.raises(Unavailable):
            chat.save("c", [user("lost")])
        monkeypatch.undo()
        assert texts(chat.get("c")) == ["be kind", *map(str, range(20, 40))]
        assert len(chat.history("c")) == 41
    chat.append("c", user("40"))
    assert texts(chat.get("c")) == ["be kind", *map(str, range(21, 41))]


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
        room = face._conversations
        monkeypatch.setattr(room, "_log", Port(room._log, append=broken, tail=broken, range=broken))

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
        room: Any = face.conversations
        monkeypatch.setattr(room, "_kv", Port(room._kv, touch=broken))

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


def test_concurrent_appends_and_saves_lose_nothing(storage: UnifiedStorage) -> None:
    """Threads and tasks append while others save: after the last save, what was appended behind it is all there."""
    chat = storage.sync.conversations
    chat.save("c", [SYSTEM])
    writers, each = 6, 40

    def append(who: str) -> None:
        for n in range(each):
            chat.append("c", user(f"{who}-{n}"), user(f"{who}-{n}b"))

    async def tasks() -> None:
        async def one(who: str) -> None:
            for n in range(each):
                await storage.aio.conversations.append("c", user(f"{who}-{n}"), user(f"{who}-{n}b"))

        await asyncio.gather(*(one(f"task{n}") for n in range(writers)))

    threads = [threading.Thread(target=append, args=(f"thread{n}",)) for n in range(writers)]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = texts(chat.history("c"))
    assert found[0] == "be kind"
    assert len(found) == 1 + 2 * 2 * writers * each
    for who in [f"{kind}{n}" for kind in ("thread", "task") for n in range(writers)]:
        mine = [text for text in found if text.startswith(f"{who}-")]
        assert mine == [f"{who}-{n}{half}" for n in range(each) for half in ("", "b")]
    for place in range(1, len(found), 2):
        assert found[place + 1] == found[place] + "b"


def test_a_save_among_appenders_is_whole_and_loses_only_what_came_before_it(storage: UnifiedStorage) -> None:
    chat = storage.sync.conversations
    stop = threading.Event()
    done: list[int] = []

    def append(who: int) -> None:
        n = 0
        while not stop.is_set():
            chat.append("c", user(f"{who}-{n}"))
            n += 1
            stop.wait(0.001)  # let the saves come through
        done.append(n)

    threads = [threading.Thread(target=append, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(30):
            chat.save("c", [{"role": "system", "content": f"turn {turn}"}, user("a"), user("b")])
            window = chat.get("c")
            assert window is not None
            assert window[0]["content"] == f"turn {turn}"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    found = texts(chat.history("c"))
    assert found[:3] == ["turn 29", "a", "b"]
    for who in range(4):
        mine = [int(text.split("-")[1]) for text in found[3:] if text.startswith(f"{who}-")]
        assert mine == [mine[0] + n for n in range(len(mine))]
    assert len(done) == 4


def test_concurrent_saves_end_with_one_of_them_whole(storage: UnifiedStorage) -> None:
    def save(who: int) -> None:
        for n in range(10):
            storage.sync.conversations.save("c", [{"role": "system", "content": f"{who}"}, *[user(f"{who}-{n}")] * 30])

    threads = [threading.Thread(target=save, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = texts(storage.sync.conversations.history("c"))
    assert len(found) == 31
    assert len(set(found[1:])) == 1
    assert texts(storage.sync.conversations.get("c")) == [found[0], *found[-20:]]
    assert found[1].startswith(f"{found[0]}-")


class Counted:
    """A port that notes each call with the size of what it is given and gives."""

    def __init__(self, port: Any, calls: list[tuple[str, int, int]]) -> None:
        self._port, self._calls = port, calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        async def noted(*args: Any) -> Any:
            result = await method(*args)
            given = sum(len(arg) for arg in args if isinstance(arg, list))
            self._calls.append((name, given, len(result) if isinstance(result, list) else 1))
            return result

        return noted


def test_what_a_turn_asks_of_the_backend_does_not_grow_with_the_conversation(
    storage: UnifiedStorage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls of the ports, what goes in and what comes out, are those of a tenth as long a conversation."""
    calls: list[tuple[str, int, int]] = []
    for face in (storage.sync, storage.aio):
        room: Any = face.conversations
        monkeypatch.setattr(room, "_kv", Counted(room._kv, calls))
        monkeypatch.setattr(room, "_log", Counted(room._log, calls))

    async def turn(chat: Any, name: str) -> list[list[tuple[str, int, int]]]:
        seen: list[list[tuple[str, int, int]]] = []
        steps: list[Callable[[], Any]] = [
            lambda: chat.append(name, user("more")),
            lambda: chat.append(name, user("more"), ttl_hours=1),
            lambda: chat.get(name),
            lambda: chat.window(name, last=50, tokens=60),
            lambda: chat.exists(name),
        ]
        for step in steps:
            calls.clear()
            await step()
            seen.append(list(calls))
        return seen

    async def body(s: Any) -> None:
        chat, costs = s.conversations, {}
        for way in ("saved", "appended"):
            for size in (100, 1000):
                name = f"{way} {size}"
                messages = [SYSTEM, *(user(f"message {n:4}") for n in range(size - 1))]
                if way == "saved":
                    await chat.save(name, messages)
                else:
                    for start in range(0, size, 50):
                        await chat.append(name, *messages[start : start + 50])
                costs[way, size] = await turn(chat, name)
        for way in ("saved", "appended"):
            assert costs[way, 1000] == costs[way, 100]
            assert all(len(step) <= 5 and sum(out for _, _, out in step) < 100 for step in costs[way, 1000])
            assert costs[way, 1000][0] == [("append", 1, 1)]
        calls.clear()
        assert len(await chat.history("saved 1000")) == 1002  # control: what reads it all shows in this count
        assert sum(out for _, _, out in calls) > 1000

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
    ],
    ids=range(10),
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
