"""What stands in a stream: saves, resets and restores, interrupted ones, and many writers at once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive
from ambidex.errors import Unavailable
from tests.stores.chat_messages import SYSTEM, texts, user
from tests.stores.conftest import Port, Run


def test_many_saves_do_not_pile_up(storage: UnifiedStorage) -> None:
    chat = storage.sync.conversations
    for turn in range(60):
        chat.save("c", [user(f"{turn}-{n}") for n in range(100)])
    assert drive(chat._streams.log.length(chat._streams.now + "c")) < 60 * 101 / 2
    assert texts(chat.history("c")) == [f"59-{n}" for n in range(100)]


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


def test_restoring_over_an_empty_conversation_leaves_nothing_to_restore(run: Run) -> None:
    async def body(s: Any) -> None:
        chat = s.conversations
        await chat.save("c", [user("first")])
        await chat.reset("c")
        assert await chat.restore("c")
        for _ in range(2):
            assert not await chat.restore("c")
            assert texts(await chat.history("c")) == ["first"]
        assert await chat.reset("c")
        assert await chat.restore("c")
        assert texts(await chat.history("c")) == ["first"]

    run(body)


def test_a_restore_that_was_killed_before_its_mark_loses_nothing(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = storage.sync.conversations
    chat.save("c", [user("precious")])
    chat.reset("c")

    async def dying(*_args: Any) -> list[int]:
        raise Unavailable("killed here")

    monkeypatch.setattr(chat._streams, "log", Port(chat._streams.log, append=dying))
    with pytest.raises(Unavailable):
        chat.restore("c")
    monkeypatch.undo()
    chat.save("c", [user("another")])
    assert chat.restore("c")
    assert texts(chat.history("c")) == ["precious"]


def test_a_reset_that_was_interrupted_is_finished_by_the_next_operation(
    storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = storage.sync.conversations
    chat.save("c", [user("precious")])
    append = chat._streams.log.append

    async def dying(stream: str, entries: Any, ttl_ms: int | None) -> list[int]:
        if stream.startswith(chat._streams.previous):
            raise Unavailable("killed here")
        return await append(stream, entries, ttl_ms)

    monkeypatch.setattr(chat._streams, "log", Port(chat._streams.log, append=dying))
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
        monkeypatch.setattr(chat._streams, "log", Port(chat._streams.log, append=dying))
        with pytest.raises(Unavailable):
            chat.save("c", [user("lost")])
        monkeypatch.undo()
        assert texts(chat.get("c")) == ["be kind", *map(str, range(20, 40))]
        assert len(chat.history("c")) == 41
    chat.append("c", user("40"))
    assert texts(chat.get("c")) == ["be kind", *map(str, range(21, 41))]


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
