"""The circuit breaker, on a clock of its own."""

from __future__ import annotations

import pytest

from ambidex import UnifiedStorage
from ambidex.errors import (
    AmbidexError,
    CircuitOpen,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    PoolTimeout,
    Unavailable,
)
from ambidex.policies.breaker import Breaker, BreakerSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock, jitter: float = 0.5) -> Breaker:
    return Breaker(clock=clock, jitter=lambda: jitter)


def call(breaker: Breaker, error: AmbidexError | None = None) -> None:
    clock = breaker._clock
    assert isinstance(clock, Clock)
    clock.now += 0.0001
    began = clock.now
    breaker.enter()
    clock.now += 0.0001
    if error is None:
        breaker.succeeded()
    else:
        breaker.failed(error, began)


def is_open(breaker: Breaker) -> bool:
    return not breaker.closed


def test_half_of_twenty_failures_open_it() -> None:
    breaker = make(Clock())
    for _ in range(10):
        call(breaker)
    for _ in range(9):
        call(breaker, OutcomeUnknown("lost"))
    assert breaker.closed  # 9 of 19
    call(breaker, OutcomeUnknown("lost"))
    assert is_open(breaker)
    with pytest.raises(CircuitOpen) as raised:
        breaker.enter()
    assert raised.value.retry_after == pytest.approx(1.0)


def test_calls_that_shared_a_broken_connection_count_once() -> None:
    clock = Clock()
    breaker = make(clock)
    clock.now += 1
    for _ in range(100):
        breaker.failed(Unavailable("broken"), 100.5)
    assert breaker.closed
    for _ in range(20):
        breaker.failed(DeadlineExceeded("late"), 100.5)  # each of these waited in vain for itself
    assert is_open(breaker)


def test_failures_that_left_the_window_do_not_count() -> None:
    clock = Clock()
    breaker = make(clock)
    for _ in range(19):
        call(breaker, OutcomeUnknown("lost"))
    clock.now += 15
    call(breaker, OutcomeUnknown("lost"))
    assert breaker.closed


def test_five_refusals_in_a_row_open_it() -> None:
    breaker = make(Clock())
    for _ in range(4):
        call(breaker, Unavailable("refused"))
    call(breaker)
    for _ in range(4):
        call(breaker, Unavailable("refused"))
    assert breaker.closed
    call(breaker, Unavailable("refused"))
    assert is_open(breaker)


@pytest.mark.parametrize("error", [NotFound("x"), PoolTimeout("x"), DeadlineExceeded("x", applied="no")])
def test_what_says_nothing_about_the_server_never_counts(error: AmbidexError) -> None:
    breaker = make(Clock())
    for _ in range(100):
        call(breaker, error)
        breaker.enter()
        breaker.abandoned()  # as a cancelled call does
    assert breaker.closed


def opened(clock: Clock, jitter: float = 0.5) -> Breaker:
    breaker = make(clock, jitter)
    for _ in range(5):
        call(breaker, Unavailable("refused"))
    return breaker


def test_one_probe_is_let_through_and_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1.01
    breaker.enter()  # the probe
    with pytest.raises(CircuitOpen):
        breaker.enter()
    breaker.succeeded()
    assert breaker.closed
    call(breaker)


def test_a_cancelled_probe_leaves_room_for_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1.01
    breaker.enter()
    breaker.abandoned()
    breaker.enter()
    breaker.succeeded()
    assert breaker.closed


def test_it_stays_open_for_one_to_thirty_seconds() -> None:
    clock = Clock()
    for jitter in (0.0, 1.0):
        breaker = opened(clock, jitter)
        pauses = []
        for _ in range(15):
            with pytest.raises(CircuitOpen) as raised:
                breaker.enter()
            assert raised.value.retry_after is not None
            pauses.append(raised.value.retry_after)
            clock.now += raised.value.retry_after + 0.001
            call(breaker, Unavailable("refused"))
        assert all(1.0 <= pause <= 30.001 for pause in pauses)
        assert pauses[5] < 1.3  # an outage of a few seconds ends soon
        assert pauses[-1] > 20


def test_a_refused_call_does_not_close_it() -> None:
    breaker = opened(Clock())
    breaker.failed(CircuitOpen("refused"), 0.0)
    assert is_open(breaker)


def test_settings_are_obeyed() -> None:
    breaker = Breaker(BreakerSettings(refusals=1), clock=Clock())
    call(breaker, Unavailable("refused"))
    assert is_open(breaker)


def test_a_refusal_names_the_server() -> None:
    storage = UnifiedStorage("redis://u:hunter2@127.0.0.1:1/3").sync
    said = []
    for _ in range(6):
        with pytest.raises(Unavailable) as caught:
            storage.get("a")
        if isinstance(caught.value, CircuitOpen):
            said.append(str(caught.value))
    assert said
    assert all("127.0.0.1:1/3' failed repeatedly" in text and "hunter2" not in text for text in said)
