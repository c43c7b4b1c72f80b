"""The deadline of a call: ambient, nested, in both modes."""

import asyncio
import time

import pytest

from ambidex.core.runtime import check_deadline, current_deadline, deadline, remaining
from ambidex.errors import DeadlineExceeded


def test_the_earlier_of_ambient_and_default_counts() -> None:
    assert remaining(current_deadline(100)) == pytest.approx(100, abs=5)
    with deadline(50):
        assert remaining(current_deadline(100)) == pytest.approx(50, abs=5)
        assert remaining(current_deadline(10)) == pytest.approx(10, abs=5)
        with deadline(80):
            assert remaining(current_deadline(100)) == pytest.approx(50, abs=5)
        with deadline(20):
            assert remaining(current_deadline(100)) == pytest.approx(20, abs=5)
        assert remaining(current_deadline(100)) == pytest.approx(50, abs=5)
    assert remaining(current_deadline(100)) == pytest.approx(100, abs=5)


def test_a_deadline_belongs_to_its_task() -> None:
    async def inside() -> float:
        with deadline(10):
            await asyncio.sleep(0.01)
            return remaining(current_deadline(100))

    async def outside() -> float:
        await asyncio.sleep(0)
        return remaining(current_deadline(100))

    async def main() -> list[float]:
        return list(await asyncio.gather(inside(), outside()))

    assert asyncio.run(main()) == [pytest.approx(10, abs=5), pytest.approx(100, abs=5)]


def test_a_passed_deadline_refuses_to_start() -> None:
    check_deadline(time.monotonic() + 100, "the call")
    with pytest.raises(DeadlineExceeded, match="before the call was started") as caught:
        check_deadline(time.monotonic() - 1, "the call")
    assert isinstance(caught.value, TimeoutError)
    assert str(caught.value.applied) == "no"
