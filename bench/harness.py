"""Measuring one side against another; every row of ``bench`` is registered and run with this module.

The invariant: the sides of a row take turns, round by round, and a figure is computed within each round before the
median is taken, so that what disturbs the machine for longer than a round disturbs both sides.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import statistics
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from bench.data import KEYS

__all__ = [
    "ADDED_MS",
    "ADDED_US",
    "FASTER",
    "PER_SECOND",
    "ROWS",
    "SLOWER",
    "Bench",
    "CannotRun",
    "Result",
    "Row",
    "Samples",
    "Side",
    "at_least",
    "at_most",
    "calls",
    "measure",
    "require",
    "row",
    "tasks",
]

Side = Callable[[int], float]
"""Does that many operations and returns the seconds that they took."""


class CannotRun(Exception):
    """A row cannot run here; the message says why."""


def require(module: str, package: str | None = None) -> Any:
    """Import a peer.

    Raises:
        CannotRun: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CannotRun(f"{package or module.partition('.')[0]} is not installed ({error})") from None


@dataclass(frozen=True, slots=True)
class Target:
    """The bound that a figure should keep."""

    bound: float
    upper: bool

    def __str__(self) -> str:
        return f"{'<=' if self.upper else '>='} {self.bound:g}"

    def met(self, value: float) -> bool:
        return value <= self.bound if self.upper else value >= self.bound


def at_most(bound: float) -> Target:
    return Target(bound, upper=True)


def at_least(bound: float) -> Target:
    return Target(bound, upper=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is computed from the seconds an operation takes on our side and on theirs, and how it is written."""

    name: str
    template: str
    compute: Callable[[float, float], float]

    def show(self, value: float) -> str:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return self.template.format(f"{value:.{digits}f}")


SLOWER = Kind("time ratio", "{}x time", lambda ours, theirs: ours / theirs)
FASTER = Kind("speed ratio", "{}x speed", lambda ours, theirs: theirs / ours)
ADDED_US = Kind("added microseconds", "+{} µs", lambda ours, theirs: (ours - theirs) * 1e6)
ADDED_MS = Kind("added milliseconds", "+{} ms", lambda ours, theirs: (ours - theirs) * 1e3)


PER_SECOND = Kind("operations a second", "{}/s", lambda ours, theirs: 1 / ours)
"""How fast our side is by itself; this one figure does not travel from one machine to another."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds an operation, one entry a round."""

    ours: list[float]
    theirs: list[float]
    about: str = ""
    """What the times do not say, how good the answers were for example."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what is compared with what, and what is expected of it."""

    name: str
    title: str
    against: str
    kind: Kind
    target: Target | None
    run: Callable[[Bench], Samples]


ROWS: dict[str, Row] = {}


def row(
    name: str, title: str, *, against: str, kind: Kind, target: Target | None = None
) -> Callable[[Callable[[Bench], Samples]], Callable[[Bench], Samples]]:
    """Register the decorated function as a row; its name begins with that of its module and a dot."""

    def register(run: Callable[[Bench], Samples]) -> Callable[[Bench], Samples]:
        assert name not in ROWS, name
        ROWS[name] = Row(name, title, against, kind, target, run)
        return run

    return register


@dataclass(frozen=True, slots=True)
class Bench:
    """How thoroughly to measure; every row's function receives one.

    Args:
        rounds: turns of each side.
        slot: seconds that one turn should take about.
        tick: called after each turn.
        chunks: how many the rows about search have.
    """

    rounds: int = 9
    slot: float = 0.15
    tick: Callable[[], object] = field(default=lambda: None)
    chunks: int = 100_000

    def compare(self, ours: Side, theirs: Side, *, least: int = 1, most: int | None = None) -> Samples:
        """Let two sides take turns.

        Args:
            ours: ambidex.
            theirs: the raw driver or the peer.
            least: operations in a turn at the least (several times those in flight).
            most: operations in a turn at the most (1 where an operation is itself a whole batch).
        """
        mine, others = self.interleave(ours, theirs, least=least, most=most)
        return Samples(mine, others)

    def interleave(self, *sides: Side, least: int = 1, most: int | None = None) -> list[list[float]]:
        """Return seconds an operation, a list a side with an entry a round."""
        numbers = [self._calibrate(side, least, most) for side in sides]
        taken: list[list[float]] = [[] for _ in sides]
        for _ in range(self.rounds):
            for side, number, times in zip(sides, numbers, taken, strict=True):
                gc.collect()
                times.append(side(number) / number)
                self.tick()
        return taken

    def _calibrate(self, side: Side, least: int, most: int | None) -> int:
        """Warm a side up and return how many operations fill its turn."""
        number = least
        while True:
            seconds = side(number)
            if seconds >= self.slot / 4 or (most is not None and number >= most):
                wanted = max(least, round(number * self.slot / max(seconds, 1e-9)))
                return wanted if most is None else min(wanted, most)
            number = round(number * min(10.0, max(2.0, self.slot / 2 / max(seconds, 1e-9))))
            number = number if most is None else min(number, most)


def calls(function: Callable[[Any], object], arguments: Iterable[Any]) -> Side:
    """Return the side that calls a synchronous function with one argument after the other, round and round."""
    source: Iterator[Any] = cycle(arguments)

    def side(number: int) -> float:
        batch = list(islice(source, number))
        start = time.perf_counter()
        for argument in batch:
            function(argument)
        return time.perf_counter() - start

    return side


def tasks(
    runner: asyncio.Runner,
    function: Callable[[Any], Awaitable[object]],
    arguments: Iterable[Any],
    *,
    in_flight: int = 1,
) -> Side:
    """Return the side that awaits calls with one argument after the other, with so many in flight at any time.

    As many tasks as are in flight await one call after the other; what starts them is timed, the loop's start is not.
    """
    source: Iterator[Any] = cycle(arguments)

    async def worker(batch: Iterator[Any]) -> None:
        for argument in batch:
            await function(argument)

    async def timed(batch: Iterator[Any]) -> float:
        start = time.perf_counter()
        if in_flight == 1:
            await worker(batch)
        else:
            await asyncio.gather(*(worker(batch) for _ in range(in_flight)))
        return time.perf_counter() - start

    return lambda number: runner.run(timed(iter(list(islice(source, number)))))


def compare_tasks(
    bench: Bench,
    runner: asyncio.Runner,
    ours: Callable[[Any], Awaitable[object]],
    theirs: Callable[[Any], Awaitable[object]],
    in_flight: int,
    arguments: Sequence[object] = KEYS,
) -> Samples:
    """Compare calls of a key, or of one of the arguments, with as many in flight."""
    return bench.compare(
        tasks(runner, ours, arguments, in_flight=in_flight),
        tasks(runner, theirs, arguments, in_flight=in_flight),
        least=1 if in_flight == 1 else 4 * in_flight,
    )


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a row: samples, or the reason why there are none."""

    row: Row
    samples: Samples | None = None
    reason: str = ""
    broken: bool = False

    @property
    def values(self) -> list[float]:
        """The figure of each round."""
        if self.samples is None:
            return []
        return [self.row.kind.compute(*pair) for pair in zip(self.samples.ours, self.samples.theirs, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None where there is no target or no figure."""
        return None if self.row.target is None or self.samples is None else self.row.target.met(self.median)

    def as_data(self) -> dict[str, Any]:
        """Return JSON-shaped data; times in seconds an operation."""
        about = self.row
        data: dict[str, Any] = {
            "name": about.name,
            "title": about.title,
            "against": about.against,
            "kind": about.kind.name,
            "target": None if about.target is None else str(about.target),
        }
        if self.samples is None:
            return data | {"reason": self.reason, "broken": self.broken}
        return data | {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "met": self.met,
            "ours_seconds": self.samples.ours,
            "theirs_seconds": self.samples.theirs,
            "about": self.samples.about,
        }


def measure(about: Row, bench: Bench) -> Result:
    """Run a row; what goes wrong in it is a result, too, so that the other rows still run."""
    try:
        return Result(about, about.run(bench))
    except CannotRun as reason:
        return Result(about, reason=str(reason))
    except Exception as error:
        return Result(about, reason="".join(traceback.format_exception(error)), broken=True)
