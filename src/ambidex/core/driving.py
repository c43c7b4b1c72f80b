"""How a coroutine that never suspends runs to its end on the calling thread; the blocking views are driven by this.

The invariant: a driver serves one coroutine at a time, and one whose coroutine raised or suspended is not used again.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar, cast

from ambidex.errors import Suspended

__all__ = ["drive", "idle", "in_event_loop", "new_driver", "suspended"]

R = TypeVar("R")


def in_event_loop() -> bool:
    """Tell whether an asyncio event loop is running in this thread (without importing asyncio)."""
    asyncio = sys.modules.get("asyncio.events")
    return asyncio is not None and asyncio._get_running_loop() is not None


def drive(coro: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends to its end on this thread and return its result.

    Raises:
        Suspended: the coroutine awaited something that needs an event loop; the message names both.
    """
    try:
        driver = idle.pop()
    except IndexError:
        driver = new_driver()
    value = driver.send(coro)
    if driver.gi_yieldfrom is None:
        idle.append(driver)
        return cast("R", value)
    raise suspended(coro)


# What coro.send(None) returns arrives as the value of an exception, and raising it costs more than everything else
# that is done here. A generator that delegates to one coroutine after the other receives the value without one.


@types.coroutine
def _driving() -> Generator[Any, Any, None]:
    coro = yield
    while True:
        coro = yield (yield from coro)


def new_driver() -> Any:
    """Return a generator that runs the coroutine that is sent to it; kept in ``idle`` between two."""
    driver = _driving()
    driver.send(None)  # to its first yield
    return driver


idle: list[Any] = []


def suspended(coro: Any) -> Suspended:
    """Describe where ``coro`` suspended, close it, and return the error to raise."""
    name = getattr(coro, "__qualname__", repr(coro))
    inner, where, awaited = coro, "", coro
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None) or getattr(inner, "ag_frame", None)
        if frame is not None:
            where = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        awaited = inner
        inner = (
            getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None) or getattr(inner, "ag_await", None)
        )
    try:
        coro.close()
    except RuntimeError:  # it swallowed GeneratorExit; there is nothing more to stop
        pass
    return Suspended(
        f"{name} suspended while it was called from synchronous code, at {where}, awaiting {type(awaited).__name__}. "
        "Await the asynchronous form instead (storage.aio), take sleeping, locks and gathering from the injected "
        "runtime, or wrap a client that has only an async form with ambidex.bridge."
    )
