"""Saves, resets and deletions of one conversation that meet, or are killed, at one exact place; on every backend.

An actor is a store of its own whose ports stop where a test says; so each test is one order of events, every time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import Unavailable
from ambidex.stores.conversations import Conversations
from tests.stores.chat_messages import SYSTEM, texts, user
from tests.stores.conftest import Port

Test = Callable[[Conversations], Awaitable[None]]


class Actor:
    """One who works on the conversation, and stops before its first call of one method until it is let go."""

    def __init__(self, chat: Conversations, port: str, method: str, stream: str = "") -> None:
        self.chat = Conversations(*chat._scopes)
        self._streams: Any = self.chat._streams
        inner = getattr(self._streams, port)
        call, wanted = getattr(inner, method), stream and getattr(self._streams, stream)
        self.reached, self._go = asyncio.Event(), asyncio.Event()

        async def stopping(key: Any, *args: Any) -> Any:
            if not wanted or key.startswith(wanted):
                self.reached.set()
                await self._go.wait()
            return await call(key, *args)

        setattr(self._streams, port, Port(inner, **{method: stopping}))

    async def start(self, call: Callable[[Conversations], Awaitable[Any]]) -> None:
        """Begin, and return when it has stopped."""
        self._task = asyncio.ensure_future(call(self.chat))
        waiting = asyncio.ensure_future(self.reached.wait())
        await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        assert self.reached.is_set(), f"it never came to this place: {self._task}"

    async def end(self) -> Any:
        """Let it go on to its end."""
        self._go.set()
        return await self._task


def meet(storage: UnifiedStorage, test: Test) -> None:
    async def main() -> None:
        try:
            await test(storage.aio.conversations)
        finally:
            await storage.aio.close()

    asyncio.run(main())


async def current(chat: Conversations) -> list[str]:
    return texts(await chat.history("c"))


async def previous(chat: Conversations) -> list[str]:
    await chat.restore("c")
    return await current(chat)


def test_a_save_between_a_reset_and_its_mark_does_not_lose_what_is_put_away(storage: UnifiedStorage) -> None:
    """The save meets a head that promises a copy whose mark is not written yet."""

    async def test(chat: Conversations) -> None:
        await chat.save("c", [SYSTEM, user("precious")])
        reset, save = Actor(chat, "log", "append", "now"), Actor(chat, "log", "append", "now")
        await reset.start(lambda c: c.reset("c"))
        await save.start(lambda c: c.save("c", [user("new")]))
        assert await reset.end()
        await save.end()
        assert await current(chat) == ["new"]
        assert await previous(chat) == ["be kind", "precious"]

    meet(storage, test)


def test_a_save_that_had_read_the_head_before_a_reset_does_not_lose_what_is_put_away(storage: UnifiedStorage) -> None:
    async def test(chat: Conversations) -> None:
        await chat.save("c", [SYSTEM, user("precious")])
        save, reset = Actor(chat, "log", "tail", "now"), Actor(chat, "log", "append", "now")
        await save.start(lambda c: c.save("c", [user("new")]))
        writing = Actor(save.chat, "log", "append", "now")
        await reset.start(lambda c: c.reset("c"))
        save.chat._streams.log = Port(save.chat._streams.log, append=writing.chat._streams.log.append)
        save._go.set()
        await writing.reached.wait()
        assert await reset.end()
        writing._go.set()
        await save.end()
        assert await current(chat) == ["new"]
        assert await previous(chat) == ["be kind", "precious"]

    meet(storage, test)


def test_a_reset_whose_writer_was_killed_before_its_mark_is_ended_by_the_next_save(storage: UnifiedStorage) -> None:
    async def test(chat: Conversations) -> None:
        await chat.save("c", [user("precious")])
        dying = Conversations(*chat._scopes)
        streams: Any = dying._streams

        async def killed(*_: Any) -> None:
            raise Unavailable("killed here")

        streams.log = Port(streams.log, append=killed)
        with pytest.raises(Unavailable):
            await dying.reset("c")
        assert await current(chat) == ["precious"]
        for turn in range(3):  # enough that what stands before the marks is dropped
            await chat.save("c", [user(f"{turn}-{n}") for n in range(1_100)])
        assert await previous(chat) == ["precious"]

    meet(storage, test)


def test_two_resets_that_meet_put_away_what_was_there(storage: UnifiedStorage) -> None:
    async def test(chat: Conversations) -> None:
        await chat.save("c", [user("precious")])
        one, other = Actor(chat, "log", "append", "now"), Actor(chat, "log", "append", "now")
        await one.start(lambda c: c.reset("c"))
        await other.start(lambda c: c.reset("c"))
        await chat.append("c", user("more"))
        await other.end()
        await one.end()
        assert await current(chat) == []
        assert await previous(chat) == ["precious", "more"]

    meet(storage, test)


def test_a_reset_that_is_overtaken_behind_its_mark_keeps_what_it_put_away(storage: UnifiedStorage) -> None:
    async def test(chat: Conversations) -> None:
        await chat.save("c", [user("precious")])
        reset = Actor(chat, "log", "append", "now")
        await reset.start(lambda c: c.reset("c"))
        await chat.append("c", user("more"))  # so that its head must be written again
        behind = Actor(reset.chat, "kv", "entry")
        reset.chat._streams.kv = behind.chat._streams.kv
        reset._go.set()
        await behind.reached.wait()
        await chat.save("c", [user("saved")])
        await chat.append("c", user("and more"))
        behind._go.set()
        assert await reset.end()
        assert await current(chat) == ["saved", "and more"]
        assert await previous(chat) == ["precious", "more"]

    meet(storage, test)


def test_what_others_append_while_old_messages_are_dropped_stays(storage: UnifiedStorage) -> None:
    """However many: the writer may have been stopped between counting and dropping."""

    async def test(chat: Conversations) -> None:
        await chat.save("c", [user(str(n)) for n in range(1_100)])
        await chat.save("c", [user(str(n)) for n in range(1_100)])
        streams: Any = chat._streams
        saver = Conversations(*chat._scopes)
        saving: Any = saver._streams
        dropped = False

        def slow(drop: Any) -> Any:
            async def method(stream: str, place: int) -> Any:
                nonlocal dropped
                await chat.append("c", *(user(f"meanwhile {n}") for n in range(2_000)))
                dropped = True
                return await drop(stream, place)

            return method

        methods = {name: slow(getattr(streams.log, name)) for name in ("trim", "trim_before")}
        saving.log = Port(saving.log, **methods)
        await saver.save("c", [SYSTEM, user("saved")])
        assert dropped
        found = await current(chat)
        assert found[:2] == ["be kind", "saved"]
        assert found[2:] == [f"meanwhile {n}" for n in range(2_000)]

    meet(storage, test)


@pytest.mark.parametrize("stop", [("kv", "entry"), ("kv", "swap"), ("log", "append")], ids=" ".join)
def test_a_save_around_a_deletion_is_whole(storage: UnifiedStorage, stop: tuple[str, str]) -> None:
    """The deletion comes between what the save has read and what it writes."""

    async def test(chat: Conversations) -> None:
        for turn in range(2):
            await chat.save("c", [user(f"{turn}-{n}") for n in range(10)])
        save = Actor(chat, *stop)
        await save.start(lambda c: c.save("c", [SYSTEM, user("saved")]))
        assert await chat.delete("c")
        assert await chat.get("c") is None
        await save.end()
        await chat.append("c", user("more"))
        assert await current(chat) == ["be kind", "saved", "more"]
        assert texts(await chat.get("c", last=1)) == ["be kind", "more"]

    meet(storage, test)


@pytest.mark.parametrize(
    "stop", [("kv", "delete_many"), ("log", "drop"), ("log", "trim"), ("kv", "swap")], ids=" ".join
)
def test_a_deletion_around_a_save_leaves_a_whole_conversation_or_none(
    storage: UnifiedStorage, stop: tuple[str, str]
) -> None:
    async def test(chat: Conversations) -> None:
        for turn in range(2):
            await chat.save("c", [user(f"{turn}-{n}") for n in range(10)])
        deletion = Actor(chat, *stop)
        await deletion.start(lambda c: c.delete("c"))
        for turn in range(2):
            await chat.save("c", [SYSTEM, user(f"saved {turn}")])
        await deletion.end()
        await chat.append("c", *(user(f"more {n}") for n in range(3)))
        found = await current(chat)
        assert found[-3:] == ["more 0", "more 1", "more 2"]
        assert found[:-3] in ([], ["be kind", "saved 1"])
        assert texts(await chat.get("c", last=1)) == [*found[: len(found) - 3][:1], "more 2"]

    meet(storage, test)


@pytest.mark.parametrize("survived", range(6))
def test_a_deletion_that_was_killed_leaves_no_older_prompt(storage: UnifiedStorage, survived: int) -> None:
    """Whichever of its writes was the last."""

    async def test(chat: Conversations) -> None:
        await chat.save("c", [{"role": "system", "content": "old"}, *(user(f"old {n}") for n in range(9))])
        await chat.save("c", [SYSTEM, *(user(str(n)) for n in range(9))])
        await chat.append("c", user("9"))
        dying, left = Conversations(*chat._scopes), survived
        streams: Any = dying._streams

        def mortal(call: Any) -> Any:
            async def method(*args: Any) -> Any:
                nonlocal left
                if not left:
                    raise Unavailable("killed here")
                left -= 1
                return await call(*args)

            return method

        for port, methods in (("kv", ("delete_many", "swap", "put")), ("log", ("drop", "trim", "expire"))):
            inner = getattr(streams, port)
            setattr(streams, port, Port(inner, **{name: mortal(getattr(inner, name)) for name in methods}))
        try:
            await dying.delete("c")
        except Unavailable:
            pass
        window = await chat.get("c", last=3)
        assert window is None or texts(window) in ([], ["be kind", "7", "8", "9"])
        await chat.append("c", user("10"))
        assert texts(await chat.get("c", last=1)) in (["10"], ["be kind", "10"])
        assert (await current(chat))[-1] == "10"

    meet(storage, test)


TIMES: dict[str, tuple[Callable[[Conversations], Awaitable[Any]], float | None]] = {
    "extend": (lambda c: c.extend("c", 48), 48),
    "extend for ever": (lambda c: c.extend("c", None), None),
    "extend by less": (lambda c: c.extend("c", 1), 1),
    "append": (lambda c: c.append("c", user("more"), ttl_hours=48), 48),
    "append with less": (lambda c: c.append("c", user("more"), ttl_hours=1), 1),
    "save": (lambda c: c.save("c", [user("saved")], 48), 48),
    "save for ever": (lambda c: c.save("c", [user("saved")], None), None),
    "save with less": (lambda c: c.save("c", [user("saved")], 1), 1),
}


@pytest.mark.parametrize("survived", range(5))
@pytest.mark.parametrize("name", TIMES)
def test_whoever_is_killed_leaves_no_head_that_ends_before_the_messages(name: str, survived: int) -> None:
    """What stands before the mark would then be taken for the beginning."""
    call, hours = TIMES[name]

    async def test(chat: Conversations) -> None:
        for text in ("old", "new"):
            await chat.save("c", [SYSTEM, user(text)], 24)
        dying, left, messages = Conversations(*chat._scopes), survived, _hours(24)
        streams: Any = dying._streams

        def mortal(method: str, inner: Any) -> Any:
            async def write(*args: Any) -> Any:
                nonlocal left, messages
                if not left:
                    raise Unavailable("killed here")
                left -= 1
                if method == "expire" or (method == "append" and args[-1] is not None):
                    messages = _hours(hours)
                return await getattr(inner, method)(*args)

            return write

        for port, methods in (("kv", ("put", "swap", "touch")), ("log", ("append", "expire"))):
            inner = getattr(streams, port)
            setattr(streams, port, Port(inner, **{one: mortal(one, inner) for one in methods}))
        try:
            await call(dying)
        except Unavailable:
            pass
        head = await chat._streams.head("c")
        assert head.version
        assert (math.inf if head.ttl_ms is None else head.ttl_ms) > messages - 60_000

    meet(UnifiedStorage("memory://"), test)


def _hours(number: float | None) -> float:
    return 1e300 if number is None else number * 3_600_000
