"""Resources that belong to one (process, event loop).

Asynchronous leaf drivers and the asynchronous runtime keep theirs here.

The invariant: a value made under one loop is never handed to another loop or to a forked child; a loop's value goes
when the loop does.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from ambidex.runtime.process import ForkLock, reset_after_fork

__all__ = ["PerLoop"]

T = TypeVar("T")


class PerLoop(Generic[T]):
    """A value a loop, made by ``make`` at first use under that loop.

    Args:
        make: makes a value for the running loop.
        drop: releases a value whose loop was closed without the value's being drained; called when the next one is
            made. Without it such a value is only forgotten.
    """

    def __init__(self, make: Callable[[], T], drop: Callable[[T], None] | None = None) -> None:
        self._make, self._drop = make, drop
        self._guard = ForkLock()
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()
        self._last: tuple[weakref.ref[asyncio.AbstractEventLoop], T] | None = None
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's values: their loops do not run here."""
        self._values = weakref.WeakKeyDictionary()
        self._last = None

    def get(self) -> T:
        """Return the running loop's value.

        Raises:
            RuntimeError: no loop is running in this thread.
        """
        loop = asyncio.get_running_loop()
        last = self._last  # one read: another thread may replace it at any time
        if last is not None and last[0]() is loop:
            return last[1]
        with self._guard:
            value = self._values.get(loop)
            if value is None:
                self._sweep()
                value = self._values[loop] = self._make()
            self._last = (weakref.ref(loop), value)
            return value

    def drain(self) -> list[tuple[asyncio.AbstractEventLoop, T]]:
        """Remove and return every (loop, value), so that a closing driver can release them."""
        with self._guard:
            found = list(self._values.items())
            self._values = weakref.WeakKeyDictionary()
            self._last = None
        return found

    def _sweep(self) -> None:
        """Let go of closed loops, which a value that refers to its loop would keep alive."""
        for loop, value in list(self._values.items()):
            if loop.is_closed():
                del self._values[loop]
                if self._drop is not None:
                    self._drop(value)
