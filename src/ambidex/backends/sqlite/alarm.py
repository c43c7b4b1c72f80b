"""One timer of a loop for all who wait there until a deadline; SQLite's asynchronous leaf uses it.

The invariant: a future that was added is done at its deadline at the latest, unless it was removed. A timer of each
call's own would cost more than everything else that the loop does for a write, and deadlines hardly ever pass; this one
is set again only for a deadline that is earlier than all others, so for the first of thousands of calls.
"""

from __future__ import annotations

import asyncio
import threading
import time

from ambidex.backends.sqlite.jobs import set_done

__all__ = ["Alarm", "Alarms"]


class Alarm:
    """The timer of one loop; used on that loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: dict[asyncio.Future[None], float] = {}
        self._due = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def add(self, future: asyncio.Future[None], deadline: float) -> None:
        """Have the future done when the absolute monotonic ``deadline`` has come."""
        self._waiting[future] = deadline
        if deadline < self._due:
            self._set(deadline)

    def remove(self, future: asyncio.Future[None]) -> None:
        """Forget a future that nobody waits for any more."""
        self._waiting.pop(future, None)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self.loop.call_later(max(0.0, due - time.monotonic()), self._ring)

    def _ring(self) -> None:
        now = time.monotonic()
        over = [future for future, deadline in self._waiting.items() if deadline <= now]
        for future in over:
            del self._waiting[future]
        set_done(over)
        self._timer, self._due = None, float("inf")
        if self._waiting:
            self._set(min(self._waiting.values()))


class Alarms(threading.local):
    """The alarm of the loop that runs in this thread."""

    _alarm: Alarm | None = None

    def of(self, loop: asyncio.AbstractEventLoop) -> Alarm:
        """Return the alarm of the running loop; the one of a loop that ran here before goes on with that loop."""
        alarm = self._alarm
        if alarm is None or alarm.loop is not loop:
            alarm = self._alarm = Alarm(loop)
        return alarm
