"""Repeating a call that failed, where that is safe; :mod:`ambidex.policies.protect` asks it about every failure.

The one layer that retries: drivers are told not to. Pauses are drawn with full jitter (Brooker, "Exponential Backoff
And Jitter", AWS Architecture Blog, 2015), and a budget bounds retries to a tenth of the calls, so that a struggling
server is not finished off by its clients. The invariant: a write is repeated only where nothing of it was applied, or
where the backend keeps its operation id with the effect.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ambidex.core.runtime import Runtime, deadline, remaining
from ambidex.errors import AmbidexError, CircuitOpen, Conflict, PoolTimeout

__all__ = ["Budget", "Retry", "RetrySettings"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How often and how soon a call is repeated.

    Attributes:
        attempts: attempts in all.
        first: the longest pause before the second attempt, in seconds; it doubles for each further one.
        longest: the longest pause of all.
        share: retries allowed for each call, 0 to 1.
        burst: retries allowed at once after a time without any: as many as may wait on one shared connection when it
            breaks.
    """

    attempts: int = 3
    first: float = 0.05
    longest: float = 1.0
    share: float = 0.1
    burst: float = 1000.0


class Budget:
    """The retries that are left: each call earns a share of one, up to a stock. One for all callers of a server."""

    def __init__(self, settings: RetrySettings) -> None:
        self._share, self._burst = settings.share, settings.burst
        self._left = settings.burst

    def earn(self) -> None:
        """Count one call.

        Without a lock: two threads may lose one count between them.
        """
        if self._left < self._burst:
            self._left += self._share

    def spend(self) -> bool:
        """Take one retry; False where none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Retry:
    """Decides whether and when a failed call is repeated, and repeats it.

    Args:
        runtime: sleeps in the caller's mode.
        settings: how often and how soon.
        budget: shared by all callers of one server.
        jitter: returns a number from 0 to 1.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: RetrySettings | None = None,
        budget: Budget | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._runtime = runtime
        self._settings = settings or RetrySettings()
        self.budget = budget or Budget(self._settings)
        self._jitter = jitter

    async def again(
        self, error: AmbidexError, attempt: Callable[[], Awaitable[T]], *, repeatable: bool, until: float
    ) -> T:
        """Repeat a call whose first attempt raised ``error``; return its result or raise the last error.

        Args:
            error: what the first attempt raised.
            attempt: makes one attempt.
            repeatable: it changes nothing, or repeating it cannot apply it twice.
            until: the call's absolute deadline; no pause reaches beyond it, and later attempts end there, too.
        """
        for number in range(1, self._settings.attempts):
            pause = self._pause(number, error)
            if not may_repeat(error, repeatable=repeatable) or pause >= remaining(until) or not self.budget.spend():
                break
            await self._runtime.sleep(pause)
            try:
                with deadline(remaining(until)):
                    return await attempt()
            except AmbidexError as latest:
                if error.applied == "unknown" and latest.applied == "no":
                    raise error from latest  # that this attempt did nothing says nothing about the one before
                error = latest
        raise error

    def _pause(self, number: int, error: AmbidexError) -> float:
        longest = min(self._settings.longest, self._settings.first * 2.0 ** (number - 1))
        return max(error.retry_after or 0.0, longest * self._jitter())


def may_repeat(error: AmbidexError, *, repeatable: bool) -> bool:
    """Tell whether a call that raised ``error`` may be made again."""
    if isinstance(error, CircuitOpen | Conflict | PoolTimeout):
        return False  # refused for a while; a unit of work, which only its owner can repeat; or out of time already
    if error.retryable and error.applied == "no":
        return True
    return repeatable and error.applied == "unknown"
