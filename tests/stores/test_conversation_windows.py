"""Windows: prompt and newest messages, by number and tokens, and what a turn asks of a port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import ConfigurationError
from tests.stores.chat_messages import SYSTEM, texts, user
from tests.stores.conftest import Run


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


def test_tokens_alone_fill_the_window_with_all_that_fits(run: Run) -> None:
    async def body(s: Any) -> None:
        await s.save_conversation("c", [SYSTEM, *(user("x" * 40) for _ in range(200))])  # the prompt takes 2, others 10
        assert len(await s.conversations.window("c", tokens=1_002)) == 101
        assert len(await s.conversations.get("c", tokens=10_000)) == 201
        assert len(await s.conversations.window("c", tokens=1)) == 1

    run(body)


def test_calls_of_tools_take_tokens(run: Run) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "x" * 4_000}}

    async def body(s: Any) -> None:
        asks = {"role": "assistant", "content": None, "tool_calls": [call]}
        await s.save_conversation("c", [user("one"), asks, {"role": "tool", "content": "done", "tool_call_id": "1"}])
        assert [message["role"] for message in await s.conversations.window("c", tokens=900)] == ["tool"]
        assert len(await s.conversations.window("c", tokens=1_100)) == 3
        figures = await s.conversations.statistics("c")
        assert figures["characters"] == 7
        assert 1_000 < figures["tokens"] < 1_100

    run(body)


class Slow:
    """A tokeniser that is awaited, as one of a service is."""

    async def __call__(self, text: str) -> int:
        await asyncio.sleep(0)
        return len(text)


async def _characters(text: str) -> int:
    return len(text)


@pytest.mark.parametrize("tokeniser", [len, _characters, Slow()], ids=range(3))
def test_a_tokeniser_may_be_a_coroutine_function(run: Run, tokeniser: Any) -> None:
    async def body(s: Any) -> None:
        await s.save_conversation("c", [SYSTEM, *(user("x" * 4) for _ in range(9))])  # the prompt takes 7, others 4
        counted = s.conversations.with_tokeniser(tokeniser)
        assert len(await counted.window("c", tokens=16)) == 3
        assert (await counted.statistics("c"))["tokens"] == 43

    run(body)


@pytest.mark.parametrize("tokeniser", [lambda _: [1, 2], lambda _: None, lambda _: -1, lambda _: 0.5], ids=range(4))
def test_a_tokeniser_that_does_not_count_is_named(run: Run, tokeniser: Any) -> None:
    async def body(s: Any) -> None:
        await s.conversations.append("c", user("x"))
        with pytest.raises(ConfigurationError, match="count_tokens returned"):
            await s.conversations.with_tokeniser(tokeniser).window("c", tokens=5)
        with pytest.raises(ConfigurationError, match="a tokeniser is a function"):
            s.conversations.with_tokeniser("cl100k_base")

    run(body)


def test_a_developers_message_is_a_prompt(run: Run) -> None:
    prompts = [SYSTEM, {"role": "developer", "content": "be short"}]

    async def body(s: Any) -> None:
        await s.save_conversation("c", [*prompts, *(user(str(n)) for n in range(30))])
        assert (await s.get_conversation("c"))[:3] == [*prompts, user("10")]

    run(body)


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
        streams: Any = face.conversations._streams
        monkeypatch.setattr(streams, "kv", Counted(streams.kv, calls))
        monkeypatch.setattr(streams, "log", Counted(streams.log, calls))

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
