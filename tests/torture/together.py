"""Runs operations at once, in tasks or in threads, and measures each; what the tests of slow and lost servers share."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ambidex.core.dual import drive
from tests.torture.redis_support import timed, timed_async

__all__ = ["Ends", "all_at_once", "in_threads"]

Ends = dict[str, tuple[float, Any]]
"""Seconds and outcome (an exception is one) of each operation by its name."""


async def all_at_once(mode: str, calls: Mapping[str, Callable[[], Any]]) -> Ends:
    """Run calls that return awaitables; in synchronous mode, where these never suspend, each in a thread."""
    if mode == "sync":
        return in_threads({name: partial(_driven, call) for name, call in calls.items()})
    ends = await asyncio.gather(*map(timed_async, calls.values()))
    return dict(zip(calls, ends, strict=True))


def in_threads(calls: Mapping[str, Callable[[], Any]]) -> Ends:
    """Run plain calls, each in a thread."""
    ends: Ends = {}

    def run(name: str, call: Callable[[], Any]) -> None:
        ends[name] = timed(call)

    threads = [threading.Thread(target=run, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def _driven(call: Callable[[], Any]) -> Any:
    return drive(call())
