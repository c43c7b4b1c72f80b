"""Ports behind retry and breaker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ambidex.backends.memory import MemoryBackend
from ambidex.core.dual import drive
from ambidex.core.ports import When
from ambidex.core.runtime import deadline, operation_id
from ambidex.errors import AmbidexError, CircuitOpen, OutcomeUnknown, Unavailable, UnsupportedValue, UsageError
from ambidex.policies.breaker import Breaker
from ambidex.policies.protect import PORTS, READS, Guard, protect, protect_port
from ambidex.policies.retry import Retry
from ambidex.runtime.blocking import BlockingRuntime


class Flaky:
    """A key-value port that applies a call and then raises what it was told to."""

    deduplicated = frozenset({"incr"})

    def __init__(self, *errors: AmbidexError | BaseException) -> None:
        self.inner = MemoryBackend().blocking.kv
        self.errors = list(errors)
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        async def method(*args: Any) -> Any:
            self.calls += 1
            result = await getattr(self.inner, name)(*args)
            if self.errors:
                raise self.errors.pop(0)
            return result

        return method


def guarded(port: Flaky, entered: Any = None) -> tuple[Any, Breaker]:
    breaker = Breaker()
    return protect_port("kv", port, Guard(Retry(BlockingRuntime()), breaker, 5.0, entered)), breaker


def test_reads_are_repeated() -> None:
    kv, _ = guarded(Flaky(Unavailable("a"), OutcomeUnknown("b")))
    assert drive(kv.get("k")) is None


def test_no_pause_before_a_retry_reaches_beyond_the_callers_deadline() -> None:
    slept: list[float] = []

    class Noting(BlockingRuntime):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    flaky = Flaky(*(Unavailable("a", retry_after=1.0) for _ in range(2)))
    kv = protect_port("kv", flaky, Guard(Retry(Noting()), Breaker(), 5.0))
    with deadline(0.5), pytest.raises(Unavailable):
        drive(kv.get("k"))
    assert (flaky.calls, slept) == (1, [])
    assert drive(kv.get("k")) is None
    assert slept == [1.0]


def test_writes_are_repeated_only_where_nothing_was_applied() -> None:
    kv, _ = guarded(Flaky(Unavailable("a")))
    assert drive(kv.put("k", 1, None, When.ALWAYS))
    flaky = Flaky(OutcomeUnknown("a"))
    kv, _ = guarded(flaky)
    with pytest.raises(OutcomeUnknown):
        drive(kv.incr("k", 1, None))
    assert flaky.calls == 1


def test_with_an_operation_id_writes_that_keep_it_are_repeated() -> None:
    flaky = Flaky(OutcomeUnknown("a"))
    kv, _ = guarded(flaky)
    with operation_id("order-1"):
        drive(kv.incr("k", 1, None))
        assert flaky.calls == 2
        flaky.errors.append(OutcomeUnknown("b"))
        with pytest.raises(OutcomeUnknown):
            drive(kv.put("k", 1, None, When.ALWAYS))
    with pytest.raises(UsageError), operation_id(""):
        pass


def test_a_dead_server_is_left_alone() -> None:
    flaky = Flaky(*(Unavailable("refused") for _ in range(100)))
    kv, _ = guarded(flaky)
    for _ in range(5):
        with pytest.raises(Unavailable):
            drive(kv.get("k"))
    assert flaky.calls == 5
    with pytest.raises(CircuitOpen):
        drive(kv.get("k"))
    assert flaky.calls == 5


def test_cancellations_and_refused_values_do_not_count() -> None:
    errors = [asyncio.CancelledError() for _ in range(50)] + [UnsupportedValue("x") for _ in range(50)]
    kv, breaker = guarded(Flaky(*errors))
    for error in errors:
        with pytest.raises(type(error)):
            drive(kv.get("k"))
    assert breaker.closed


def test_inside_a_transaction_nothing_is_repeated() -> None:
    leaf = MemoryBackend().blocking
    flaky = Flaky(Unavailable("a"))
    leaf.kv = flaky  # type: ignore[assignment]
    guard = Guard(Retry(BlockingRuntime()), Breaker(), 5.0)

    async def unit() -> None:
        protected = protect(leaf, guard)
        async with protected.transaction():
            await protected.kv.get("k")

    with pytest.raises(Unavailable):
        drive(unit())
    assert flaky.calls == 1


def test_each_call_is_announced() -> None:
    seen: list[str] = []
    kv, _ = guarded(Flaky(), seen.append)
    drive(kv.get("k"))
    drive(kv.delete_many(["k"]))
    assert seen == ["kv.get", "kv.delete_many"]


def test_every_read_is_a_method_of_its_port() -> None:
    for port, names in READS.items():
        assert names <= vars(PORTS[port]).keys()
