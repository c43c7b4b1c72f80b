"""A circuit breaker: stops calling a server that fails; :mod:`ambidex.policies.protect` asks it before every call.

The pattern is Nygard's ("Release It!", 2nd ed., 2018, chapter 5). It opens when at least half of at least twenty calls
failed within ten seconds, or after five refusals in a row, stays open for about a second (longer only when an outage
lasts), and then lets one probe through, whose outcome closes or reopens it. The invariant: only what says something
about the server counts. A cancelled call, a missing key, a refused value and a call that never started are no failures.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from ambidex.errors import (
    AmbidexError,
    Busy,
    CircuitOpen,
    Conflict,
    DeadlineExceeded,
    FinalError,
    NotReplicated,
    OutcomeUnknown,
    Unavailable,
)
from ambidex.runtime.process import ForkLock

__all__ = ["Breaker", "BreakerSettings"]


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens and for how long; times in seconds.

    Attributes:
        window: how far back calls count.
        least_calls: fewer calls than this say nothing about a rate.
        failure_rate: the share of failures, 0 to 1, that opens it.
        refusals: refused connections in a row that open it at once.
        shortest: how long it stays open at first, before jitter.
        longest: how long it ever stays open.
        patience: openings in a row that last ``shortest``; later ones double up to ``longest``. So an outage of a few
            seconds is noticed to be over within about two.
    """

    window: float = 10.0
    least_calls: int = 20
    failure_rate: float = 0.5
    refusals: int = 5
    shortest: float = 1.0
    longest: float = 30.0
    patience: int = 6


class Breaker:
    """One server's breaker; safe for any number of threads and loops, and fresh after a fork.

    Args:
        settings: when it opens.
        clock: returns seconds that only grow.
        jitter: returns a number from 0 to 1.
        place: the server as errors name it, without secrets.
    """

    def __init__(
        self,
        settings: BreakerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        place: str = "the server",
    ) -> None:
        self._settings = settings or BreakerSettings()
        self._clock, self._jitter, self._place = clock, jitter, place
        self._guard = ForkLock()
        self.closed = True
        """Calls pass. Read without the lock on the hot path, so another thread may change it at any time."""
        self._until = 0.0
        self._probing = False
        self._openings = 0
        self._refused = 0
        self._broke = -1.0  # when a failure was last counted
        self._calls: list[int] = [0, 0]  # this half of the window and the one before
        self._failures: list[int] = [0, 0]
        self._turn = clock() + self._settings.window / 2

    def enter(self) -> None:
        """Let the caller through, or refuse; each call that was let through must end in one of the three below.

        Raises:
            CircuitOpen: the server failed too often a moment ago; ``retry_after`` says when it is tried again.
        """
        if self.closed:
            return
        with self._guard:
            if self._openings == 0:  # another thread closed it meanwhile
                return
            left = self._until - self._clock()
            if left <= 0 and not self._probing:
                self._probing = True
                return
            raise CircuitOpen(
                f"{self._place} failed repeatedly, so calls are refused until it was probed; "
                "repeat the call after retry_after seconds",
                retry_after=max(left, 0.05),
            )

    def succeeded(self) -> None:
        """Record that the server answered."""
        if self.closed and not self._refused:
            self._calls[0] += 1  # two threads may lose one count between them, which no rate notices
            return
        with self._guard:
            self._refused = 0
            self._calls[0] += 1
            if not self.closed:
                self._close()

    def abandoned(self) -> None:
        """Record that a call ended without saying anything about the server, as a cancelled one does."""
        if not self.closed:
            with self._guard:
                self._probing = False

    def failed(self, error: AmbidexError, began: float) -> None:
        """Record an error; it counts only if it speaks about the server.

        Args:
            error: what the call raised.
            began: when it began, by the breaker's clock. Of calls that ran side by side when a connection broke, only
                one counts: a hundred that shared it tell no more than one does.
        """
        if isinstance(error, FinalError | Busy | Conflict | NotReplicated):
            self.succeeded()  # it answered
            return
        if not _is_failure(error):
            self.abandoned()
            return
        with self._guard:
            if began <= self._broke and not isinstance(error, DeadlineExceeded):
                self._probing = False
                return
            self._broke = self._clock()
            self._roll()
            self._calls[0] += 1
            self._failures[0] += 1
            self._refused = self._refused + 1 if isinstance(error, Unavailable) else 0
            if not self.closed:
                if self._probing:
                    self._open()
            elif self._refused >= self._settings.refusals or self._rate_is_bad():
                self._open()

    def _roll(self) -> None:
        """Forget calls that left the window. Two halves approximate it with two counters."""
        now, half = self._clock(), self._settings.window / 2
        if now < self._turn:
            return
        stale = now >= self._turn + half
        for counts in (self._calls, self._failures):
            counts[:] = [0, 0] if stale else [0, counts[0]]
        self._turn = now + half

    def _rate_is_bad(self) -> bool:
        calls, failures = sum(self._calls), sum(self._failures)
        return calls >= self._settings.least_calls and failures >= calls * self._settings.failure_rate

    def _open(self) -> None:
        settings = self._settings
        self._openings += 1
        doubled = settings.shortest * 2.0 ** max(0, self._openings - settings.patience)
        pause = min(settings.longest, doubled) * (0.75 + 0.5 * self._jitter())
        self._until = self._clock() + min(max(pause, settings.shortest), settings.longest)
        self._probing = False
        self.closed = False

    def _close(self) -> None:
        self._openings = self._refused = 0
        self._calls[:] = self._failures[:] = [0, 0]
        self._probing = False
        self.closed = True


def _is_failure(error: AmbidexError) -> bool:
    """Tell whether an error says that the server is not well."""
    began = error.applied != "no"
    if isinstance(error, CircuitOpen):
        return False
    return isinstance(error, Unavailable | OutcomeUnknown) or (began and isinstance(error, DeadlineExceeded))
