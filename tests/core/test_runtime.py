"""The deadline of a call: ambient, nested, in both modes."""

import asyncio
import time

import pytest

from ambidex.core.runtime import (
    check_deadline,
    current_deadline,
    deadline,
    off_the_clock,
    one_deadline,
    partly_applied,
    remaining,
    time_limit,
    unit,
)
from ambidex.errors import DeadlineExceeded, OutcomeUnknown, Unavailable


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


def left() -> float:
    """What a port's call may take, whose own limit is 100 seconds."""
    return remaining(current_deadline(100))


def test_the_limit_of_the_outermost_operation_is_the_only_one() -> None:
    with time_limit(50):
        assert left() == pytest.approx(50, abs=5)
        with time_limit(10), time_limit(80):
            assert left() == pytest.approx(50, abs=5)
        with deadline(20):
            with time_limit(10):
                assert left() == pytest.approx(20, abs=5)
            assert left() == pytest.approx(20, abs=5)
        assert left() == pytest.approx(50, abs=5)
    assert left() == pytest.approx(100, abs=5)
    with deadline(30), time_limit(80):
        assert left() == pytest.approx(30, abs=5)


def test_an_operation_has_one_deadline() -> None:
    class Room:
        _timeout = 40.0

        @one_deadline
        async def twice(self, pause: float) -> tuple[float, float]:
            first = current_deadline(100)
            await asyncio.sleep(pause)
            return first, current_deadline(100)

    first, second = asyncio.run(Room().twice(0.01))
    assert first == second
    assert remaining(first) == pytest.approx(40, abs=5)
    assert Room.twice.__name__ == "twice"


def test_what_callers_do_themselves_is_off_the_clock() -> None:
    with off_the_clock():
        assert left() == pytest.approx(100, abs=5)
    with time_limit(0.05):
        before = current_deadline(100)
        with off_the_clock():
            assert left() == pytest.approx(100, abs=5)
            with time_limit(70):
                assert left() == pytest.approx(70, abs=5)
            time.sleep(0.1)
        assert current_deadline(100) - before >= 0.1
        assert remaining(current_deadline(100)) > 0


def test_a_callers_own_deadline_goes_on_where_the_operations_stands_still() -> None:
    with deadline(0.05), time_limit(50):
        with off_the_clock():
            assert left() <= 0.05
            time.sleep(0.1)
        assert left() <= 0


def test_what_follows_a_write_does_not_say_that_nothing_was_applied() -> None:
    shared = Unavailable("gone", retry_after=2.0)
    with pytest.raises(Unavailable, match="gone") as caught, partly_applied():
        raise shared
    assert (caught.value.applied, caught.value.retryable, caught.value.retry_after) == ("unknown", False, 2.0)
    assert (shared.applied, shared.retryable) == ("no", True)
    for error in (OutcomeUnknown("x"), ValueError("x")):
        with pytest.raises(type(error)) as other, partly_applied():
            raise error
        assert other.value is error
    with pytest.raises(Unavailable) as inside, unit(), partly_applied():
        raise shared
    assert inside.value is shared
