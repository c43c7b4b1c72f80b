"""The command health: probes a storage from both modes; ``app.py`` lists it.

Its docstring is its --help. The invariant: what the probes log is shown once, under the result.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ambidex.cli.output import print_json, print_table, stderr, working
from ambidex.cli.places import HERE, Places
from ambidex.errors import InvalidQuery

if TYPE_CHECKING:
    from ambidex import UnifiedStorage

__all__ = ["health"]


def health(url: str | None = None, /, *, places: Places = HERE, json: bool = False) -> int:
    """Probe each capability of a storage from both modes; the exit code is 1 if one is down.

    Args:
        url: the storage to probe; the same as --url.
        places: where the capabilities are.
        json: print one JSON object.
    """
    import asyncio

    if url is not None and places.url is not None:
        raise InvalidQuery("health takes one storage: behind the command, or behind --url, not both")
    reasons = _Reasons()
    storage = replace(places, url=url or places.url).storage()
    logging.getLogger("ambidex").addHandler(reasons)
    try:
        with working("probing"):
            started = time.perf_counter()
            sync = storage.sync.health_check()
            between = time.perf_counter()
            aio = asyncio.run(_health(storage))
            ended = time.perf_counter()
    finally:
        logging.getLogger("ambidex").removeHandler(reasons)
        storage.close()
    well = all(sync.values()) and all(aio.values())
    seconds = {"sync": between - started, "async": ended - between}
    display = storage.settings.url.display
    if json:
        print_json({"url": display, "ok": well, "sync": sync, "async": aio, "seconds": seconds, "why": reasons.seen})
    else:
        print(f"{display}: probed in {seconds['sync'] * 1000:.1f} ms (sync), {seconds['async'] * 1000:.1f} ms (async)")
        elsewhere = {name: place.display for name, place in storage.settings.overrides.items()}
        rows = [(name, _mark(sync[name]), _mark(aio[name]), elsewhere.get(name, "")) for name in sync]
        columns = ("capability", "sync", "async", "kept elsewhere")
        print_table(columns if elsewhere else columns[:3], [row if elsewhere else row[:3] for row in rows])
        for reason in reasons.seen:
            stderr().print(reason, markup=False)
    return 0 if well else 1


async def _health(storage: UnifiedStorage) -> dict[str, bool]:
    return await storage.aio.health_check()


class _Reasons(logging.Handler):
    """Collects what the health check logs, so that it stands under the table and not above it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.seen:
            self.seen.append(message)


def _mark(well: bool) -> str:
    return "[green]ok[/]" if well else "[red]down[/]"
