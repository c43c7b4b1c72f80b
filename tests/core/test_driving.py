"""A coroutine that never suspends is run to its end; one that suspends is closed and named."""

import asyncio
import contextlib
from typing import TypeVar

import pytest

from ambidex.core.dual import drive
from ambidex.errors import Suspended
from tests.core.shelf import BlockingShelf

T = TypeVar("T")


def test_suspending_names_the_operation_the_place_and_the_remedy() -> None:
    with pytest.raises(Suspended) as caught:
        BlockingShelf().wait_below()
    message = str(caught.value)
    assert message.startswith("Shelf.wait_below suspended")
    assert "sleep" in message
    assert ".py:" in message
    assert "storage.aio" in message
    assert "bridge" in message


def test_a_suspended_coroutine_is_closed() -> None:
    journal: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            journal.append("closed")

    with pytest.raises(Suspended, match="forever"):
        drive(forever())
    assert journal == ["closed"]


def test_a_coroutine_that_refuses_to_close_is_reported_too() -> None:
    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(GeneratorExit):
                await asyncio.sleep(0)

    with pytest.raises(Suspended, match="stubborn"):
        drive(stubborn())


def test_a_stream_and_a_context_that_suspend_are_named() -> None:
    numbers = BlockingShelf().waiting_things()
    assert next(numbers) == 1
    with pytest.raises(Suspended, match="sleep"):
        next(numbers)


def test_drive_returns_or_raises() -> None:
    async def give() -> int:
        return 5

    async def refuse() -> int:
        raise KeyError("x")

    assert drive(give()) == 5
    with pytest.raises(KeyError):
        drive(refuse())


def test_blocking_calls_work_inside_a_running_loop() -> None:
    async def main() -> int:
        return BlockingShelf().put("a")

    assert asyncio.run(main()) == 1
