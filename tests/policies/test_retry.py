"""What is repeated, how often, and how long it waits."""

from __future__ import annotations

import time

import pytest

from ambidex.core.dual import drive
from ambidex.core.runtime import current_deadline
from ambidex.errors import (
    AmbidexError,
    CircuitOpen,
    Conflict,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    PoolTimeout,
    Unavailable,
)
from ambidex.policies.retry import Budget, Retry, RetrySettings, may_repeat
from ambidex.runtime.blocking import BlockingRuntime


class Sleeper(BlockingRuntime):
    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Server:
    def __init__(self, *errors: AmbidexError) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def run(
    error: AmbidexError, server: Server, *, repeatable: bool = True, seconds: float = 10.0, burst: float = 100.0
) -> tuple[str, list[float]]:
    runtime, settings = Sleeper(), RetrySettings(burst=burst)
    retry = Retry(runtime, settings, Budget(settings), jitter=lambda: 1.0)
    result = drive(retry.again(error, server, repeatable=repeatable, until=time.monotonic() + seconds))
    return result, runtime.slept


def test_at_most_three_attempts_with_growing_pauses() -> None:
    assert run(Unavailable("a"), Server(Unavailable("b"))) == ("done", [0.05, 0.1])
    server = Server(*(Unavailable(str(number)) for number in range(5)))
    with pytest.raises(Unavailable, match="1"):
        run(Unavailable("first"), server)
    assert server.calls == 2


def test_the_server_s_own_pause_is_obeyed() -> None:
    assert run(Unavailable("loading", retry_after=0.7), Server())[1] == [0.7]


def test_no_pause_reaches_beyond_the_deadline() -> None:
    server = Server()
    with pytest.raises(Unavailable):
        run(Unavailable("a"), server, seconds=0.01)
    assert server.calls == 0


def test_later_attempts_end_at_the_call_s_own_deadline() -> None:
    async def attempt() -> float:
        return current_deadline(1000.0)

    retry, until = Retry(Sleeper()), time.monotonic() + 5
    assert drive(retry.again(Unavailable("a"), attempt, repeatable=True, until=until)) == pytest.approx(until, abs=0.5)


@pytest.mark.parametrize(
    ("error", "as_write", "as_read"),
    [
        (Unavailable("x"), True, True),
        (OutcomeUnknown("x"), False, True),
        (Unavailable("x", applied="unknown"), False, True),
        (DeadlineExceeded("x"), False, True),
        (NotFound("x"), False, False),
        (CircuitOpen("x"), False, False),
        (Conflict("x"), False, False),
        (PoolTimeout("x"), False, False),
    ],
)
def test_a_write_is_repeated_only_if_nothing_was_applied(error: AmbidexError, as_write: bool, as_read: bool) -> None:
    assert may_repeat(error, repeatable=False) is as_write
    assert may_repeat(error, repeatable=True) is as_read


def test_a_refused_repetition_does_not_hide_an_unknown_outcome() -> None:
    with pytest.raises(OutcomeUnknown):
        run(OutcomeUnknown("a"), Server(CircuitOpen("b")))


def test_the_budget_bounds_retries_to_a_tenth_of_the_calls() -> None:
    budget = Budget(RetrySettings(share=0.1, burst=2))
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(10):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [False, False] or budget.spend() is False
    for _ in range(11):
        budget.earn()
    assert budget.spend()
    with pytest.raises(Unavailable):
        run(Unavailable("a"), Server(), burst=0)
