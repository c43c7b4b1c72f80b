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
    """A value a loop, made by ``make`` at first use under that loop."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._guard = ForkLock()
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's values: their loops do not run here."""
        self._values = weakref.WeakKeyDictionary()

    def get(self) -> T:
        """Return the running loop's value.

        Raises:
            RuntimeError: no loop is running in this thread.
        """
        loop = asyncio.get_running_loop()
        with self._guard:
            value = self._values.get(loop)
            if value is None:
                value = self._values[loop] = self._make()
            return value

    def drain(self) -> list[tuple[asyncio.AbstractEventLoop, T]]:
        """Remove and return every (loop, value), so that a closing driver can release them."""
        with self._guard:
            found = list(self._values.items())
            self._values = weakref.WeakKeyDictionary()
        return found
