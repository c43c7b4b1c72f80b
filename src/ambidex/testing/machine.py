"""Random operations on a backend and on the memory backend, compared step by step; ``BackendContract`` runs it.

The invariant: after any sequence of operations both give the same answers. Versions and places are each backend's own,
so they are compared by what they allow, not by their numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ambidex.core.dual import drive
from ambidex.core.ports import Capability
from ambidex.errors import AmbidexError
from ambidex.storage import UnifiedStorage
from ambidex.stores.log import Record
from ambidex.testing.contract import Mode, Subject

__all__ = ["StoreMachine", "compare"]

Call = Callable[[Subject], Coroutine[Any, Any, Any]]

_KEYS = st.sampled_from(("a", "ab", "a:b", "%", "", "é", "b"))
_STREAMS = st.sampled_from(("s", "s:t", "%"))
_COUNTS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    _COUNTS,
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: str(number) != "-0.0"),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
    st.binary(max_size=8),
    st.lists(st.integers(0, 5) | st.tuples(st.booleans()), max_size=3),
    st.dictionaries(st.sampled_from(("x", "y")), st.decimals(allow_nan=False, allow_infinity=False), max_size=2),
)
_TTLS = st.sampled_from((None, 3600.0))
_GONE_MS = 0.03


class StoreMachine(RuleBasedStateMachine):
    """Runs each operation on both and compares.

    Args:
        subject: the backend under test.
        run: runs a coroutine in the subject's mode, on the same loop every time.
    """

    def __init__(self, subject: Subject, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__()
        self._run = run
        self._tested = subject.of_tenant(Subject.fresh_name())
        self._model = Subject(UnifiedStorage("memory://"), subject.mode)
        self._has_log = Capability.LOG in subject.root._core.configured()
        self._versions: dict[str, tuple[int, int]] = {}
        self._places: dict[str, tuple[int, int]] = {}

    def _both(self, call: Call) -> tuple[Any, Any]:
        return self._outcome(call, self._tested), self._outcome(call, self._model)

    def _outcome(self, call: Call, subject: Subject) -> Any:
        try:
            return self._run(call(subject))
        except AmbidexError as error:
            return type(error)

    def _agree(self, call: Call) -> Any:
        tested, model = self._both(call)
        assert tested == model
        assert type(tested) is type(model)
        return tested

    @rule(key=_KEYS, value=_VALUES, ttl=_TTLS)
    def set(self, key: str, value: Any, ttl: float | None) -> None:
        self._agree(lambda s: s.kv.set(key, value, ttl))

    @rule(items=st.dictionaries(_KEYS, _VALUES, max_size=4), ttl=_TTLS)
    def set_many(self, items: dict[str, Any], ttl: float | None) -> None:
        self._agree(lambda s: s.kv.set_many(items, ttl))

    @rule(key=_KEYS, value=_VALUES, ttl=_TTLS)
    def add(self, key: str, value: Any, ttl: float | None) -> None:
        self._agree(lambda s: s.kv.add(key, value, ttl))

    @rule(key=_KEYS, value=_VALUES, ttl=_TTLS)
    def replace(self, key: str, value: Any, ttl: float | None) -> None:
        self._agree(lambda s: s.kv.replace(key, value, ttl))

    @rule(key=_KEYS, by=_COUNTS, ttl=_TTLS)
    def incr(self, key: str, by: int, ttl: float | None) -> None:
        self._agree(lambda s: s.kv.incr(key, by, ttl))

    @rule(key=_KEYS, value=_VALUES)
    def get_or_set(self, key: str, value: Any) -> None:
        self._agree(lambda s: s.kv.get_or_set(key, value))

    @rule(key=_KEYS)
    def delete(self, key: str) -> None:
        self._agree(lambda s: s.kv.delete(key))

    @rule(keys=st.lists(_KEYS, max_size=4))
    def delete_many(self, keys: list[str]) -> None:
        self._agree(lambda s: s.kv.delete_many(keys))

    @rule(key=_KEYS, ttl=_TTLS)
    def touch(self, key: str, ttl: float | None) -> None:
        self._agree(lambda s: s.kv.touch(key, ttl))

    @rule(key=_KEYS)
    def expire(self, key: str) -> None:
        """Let a key's time pass without reading it."""
        self._agree(lambda s: s.kv.touch(key, 0.001))
        self._run(self._tested.sleep(_GONE_MS))

    @rule(key=_KEYS)
    def read_version(self, key: str) -> None:
        tested, model = self._both(lambda s: s.kv.get_versioned(key))
        assert (tested is None) == (model is None)
        if tested is not None:
            assert tested.value == model.value
            self._versions[key] = (tested.version, model.version)

    @rule(key=_KEYS, value=_VALUES, absent=st.booleans())
    def compare_and_set(self, key: str, value: Any, absent: bool) -> None:
        """With the version read last, which may be stale, or with 0."""
        versions = (0, 0) if absent else self._versions.get(key, (7, 7))
        subjects = (self._tested, self._model)
        tested, model = (
            self._outcome(lambda s, version=version: s.kv.compare_and_set(key, value, version), subject)  # type: ignore[misc]
            for subject, version in zip(subjects, versions, strict=True)
        )
        assert (tested is None) == (model is None)
        if tested is not None:
            self._versions[key] = (tested, model)

    @rule(keys=st.lists(_KEYS, max_size=5))
    def read(self, keys: list[str]) -> None:
        for key in keys[:2]:
            self._agree(lambda s, key=key: s.kv.get(key, "absent"))  # type: ignore[misc]
            self._agree(lambda s, key=key: s.kv.exists(key))  # type: ignore[misc]
        self._agree(lambda s: s.kv.get_many(keys))

    @rule(key=_KEYS)
    def ttl(self, key: str) -> None:
        tested, model = self._both(lambda s: s.kv.ttl(key))
        assert (tested is None) == (model is None)

    @rule(prefix=_KEYS, page=st.integers(1, 4))
    def scan(self, prefix: str, page: int) -> None:
        async def keys(subject: Subject) -> list[str]:
            return sorted([key async for key in subject.kv.scan(prefix, page=page)])

        self._agree(keys)

    # Streams: places are each backend's own, so pairs of (tested, model) are kept.

    @precondition(lambda self: self._has_log)
    @rule(stream=_STREAMS, values=st.lists(_VALUES, min_size=1, max_size=4), ttl=_TTLS)
    def append(self, stream: str, values: list[Any], ttl: float | None) -> None:
        tested, model = self._both(lambda s: s.log.append(stream, *values, ttl=ttl))
        last = self._places.get(stream, (0, 0))
        assert tested > last[0]
        assert model > last[1]
        self._places[stream] = (tested, model)

    @precondition(lambda self: self._has_log)
    @rule(stream=_STREAMS, keep=st.integers(0, 5))
    def trim(self, stream: str, keep: int) -> None:
        self._agree(lambda s: s.log.trim(stream, keep))

    @precondition(lambda self: self._has_log)
    @rule(stream=_STREAMS)
    def drop(self, stream: str) -> None:
        self._agree(lambda s: s.log.drop(stream))
        self._places.pop(stream, None)

    @precondition(lambda self: self._has_log)
    @rule(stream=_STREAMS)
    def expire_stream(self, stream: str) -> None:
        self._agree(lambda s: s.log.expire(stream, 0.001))
        self._run(self._tested.sleep(_GONE_MS))

    @precondition(lambda self: self._has_log)
    @rule(stream=_STREAMS, count=st.integers(1, 6))
    def tail(self, stream: str, count: int) -> None:
        tested, model = self._both(lambda s: s.log.tail(stream, count))
        _same_records(tested, model)

    @precondition(lambda self: self._has_log)
    @rule(stream=_STREAMS, limit=st.integers(1, 6))
    def range_behind_the_last(self, stream: str, limit: int) -> None:
        places = self._places.get(stream, (0, 0))
        tested = self._outcome(lambda s: s.log.range(stream, places[0], limit), self._tested)
        model = self._outcome(lambda s: s.log.range(stream, places[1], limit), self._model)
        _same_records(tested, model)

    @precondition(lambda self: self._has_log)
    @invariant()
    def streams_agree(self) -> None:
        async def everything(subject: Subject) -> list[tuple[str, list[Record]]]:
            names = sorted([name async for name in subject.log.streams()])
            return [(name, [record async for record in subject.log.iterate(name, page=3)]) for name in names]

        tested, model = self._both(everything)
        assert [name for name, _ in tested] == [name for name, _ in model]
        for (_, one), (_, other) in zip(tested, model, strict=True):
            _same_records(one, other)


def _same_records(tested: list[Record], model: list[Record]) -> None:
    assert [record.value for record in tested] == [record.value for record in model]
    places = [record.seq for record in tested]
    assert places == sorted(set(places))


def compare(subject: Subject, examples: int, steps: int) -> None:
    """Run the machine in the subject's mode; the first difference fails, with the shortest way to it.

    Args:
        subject: the backend under test; it is closed at the end.
        examples: how many runs.
        steps: how many operations a run, at most.
    """
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    if subject.mode is Mode.BLOCKING:
        try:
            run_state_machine_as_test(
                cast("type[StoreMachine]", partial(StoreMachine, subject, drive)), settings=chosen
            )
        finally:
            subject.root.sync.close()
        return
    with asyncio.Runner() as runner:
        try:
            run_state_machine_as_test(
                cast("type[StoreMachine]", partial(StoreMachine, subject, runner.run)), settings=chosen
            )
        finally:
            runner.run(subject.root.aio.close())
