"""Streams and contexts in both modes: laziness, closing, and exceptions that pass unchanged."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import pytest

from ambidex.core.dual import Blocking, Store, context, drive, stream
from ambidex.errors import UsageError
from tests.core.shelf import BlockingShelf, Shelf

T = TypeVar("T")


# ---------------------------------------------------------------- streams


def test_a_stream_gives_items_in_both_modes() -> None:
    async def collect() -> list[int]:
        return [item async for item in Shelf().things(5)]

    assert asyncio.run(collect()) == [0, 1, 2, 3, 4]
    assert list(BlockingShelf().things(5)) == [0, 1, 2, 3, 4]
    assert list(BlockingShelf().doubled(3)) == [0, 2, 4]
    assert list(BlockingShelf().things(0)) == []


def test_a_stream_gives_pages_in_both_modes() -> None:
    async def collect() -> list[Any]:
        return [page async for page in Shelf().things(5).pages()]

    assert asyncio.run(collect()) == [[0, 1], [2, 3], [4]]
    assert list(BlockingShelf().things(5).pages()) == [[0, 1], [2, 3], [4]]


def test_a_stream_fetches_a_page_only_when_it_is_needed() -> None:
    shelf = BlockingShelf()
    numbers = shelf.things(6)
    assert shelf.journal == []
    assert [next(numbers), next(numbers)] == [0, 1]
    assert shelf.journal == ["open", "page 0"]
    assert next(numbers) == 2
    assert shelf.journal == ["open", "page 0", "page 2"]


def test_a_stream_that_is_left_early_is_closed() -> None:
    shelf = BlockingShelf()
    with shelf.things(6) as numbers:
        for number in numbers:
            if number == 2:
                break
    assert shelf.journal[-1] == "closed"
    assert list(numbers) == []
    numbers.close()

    async def leave() -> list[str]:
        shelf = Shelf()
        async with shelf.things(6) as numbers:
            async for number in numbers:
                if number == 2:
                    break
        assert [item async for item in numbers] == []
        return shelf.journal

    assert asyncio.run(leave())[-1] == "closed"


def test_a_stream_that_ended_stays_ended() -> None:
    numbers = BlockingShelf().things(1)
    assert list(numbers) == [0]
    assert list(numbers) == []
    with pytest.raises(StopIteration):
        next(numbers)


def test_a_stream_skips_empty_pages_and_passes_errors_on() -> None:
    class Odd(Store):
        @stream
        async def items(self) -> AsyncGenerator[list[int], None]:
            yield []
            yield [1]
            yield []
            raise LookupError("broken")

    class BlockingOdd(Blocking, Odd):
        pass

    numbers = BlockingOdd().items()
    assert next(numbers) == 1
    with pytest.raises(LookupError, match="broken"):
        next(numbers)
    with pytest.raises(LookupError, match="broken"):
        list(BlockingOdd().items().pages())


# ---------------------------------------------------------------- contexts


def test_a_context_enters_and_exits_in_both_modes() -> None:
    async def use() -> list[str]:
        shelf = Shelf()
        async with shelf.open("a") as name:
            assert name == "A"
            await shelf.put("inside")
        return shelf.journal

    shelf = BlockingShelf()
    with shelf.open("a") as name:
        assert name == "A"
        shelf.put("inside")
    assert shelf.journal == asyncio.run(use()) == ["enter a", "inside", "exit a"]


@pytest.mark.parametrize("error", [LookupError("x"), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_a_context_passes_an_exception_on_unchanged(error: BaseException) -> None:
    shelf = BlockingShelf()
    with pytest.raises(type(error)) as caught, shelf.open("a"):
        raise error
    assert caught.value is error
    assert shelf.journal == ["enter a", "exit a"]

    async def use() -> None:
        async with Shelf().open("a"):
            raise error

    coro = use()
    with pytest.raises(type(error)) as caught:
        drive(coro)
    assert caught.value is error


def _refuse() -> None:
    raise LookupError("x")


def test_a_context_may_swallow_an_exception() -> None:
    with BlockingShelf().open("a", swallow=True):
        _refuse()

    async def use() -> str:
        async with Shelf().open("a", swallow=True):
            _refuse()
        return "after"

    assert asyncio.run(use()) == "after"


def test_a_context_may_raise_another_exception() -> None:
    class Odd(Store):
        @context
        async def translate(self) -> AsyncGenerator[None, None]:
            try:
                yield
            except KeyError as error:
                raise LookupError("translated") from error

        @context
        async def twice(self) -> AsyncGenerator[None, None]:
            yield
            yield

        @context
        async def stubborn(self) -> AsyncGenerator[None, None]:
            try:
                yield
            except KeyError:
                yield

    class BlockingOdd(Blocking, Odd):
        pass

    with pytest.raises(LookupError, match="translated"), BlockingOdd().translate():
        raise KeyError("x")
    with pytest.raises(UsageError, match="twice"), BlockingOdd().twice():
        pass
    with pytest.raises(UsageError, match="after an exception"), BlockingOdd().stubborn():
        raise KeyError("x")


def test_a_context_passes_stop_iteration_on() -> None:
    for error in (StopIteration("x"), StopAsyncIteration("x")):
        with pytest.raises(type(error)) as caught, BlockingShelf().open("a"):
            raise error
        assert caught.value is error
