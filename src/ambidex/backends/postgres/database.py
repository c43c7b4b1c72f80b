"""One PostgreSQL database as this process sees it; both leaf colours stand on one of these.

The invariant: what belongs to a process stays in it. A forked child starts with no connection and closes what it
inherited without a word to the server, for the words would be its parent's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ambidex.backends.postgres.aio import AsyncPools
from ambidex.backends.postgres.blocking import BlockingPool
from ambidex.backends.postgres.search_upkeep import Upkeep
from ambidex.backends.postgres.search_vectors import Vectors
from ambidex.backends.postgres.server import Server
from ambidex.runtime.process import reset_after_fork
from ambidex.settings import BackendUrl, Settings

if TYPE_CHECKING:
    from ambidex.backends.postgres.unit import Unit

__all__ = ["Database"]

_MAINTENANCE_SECONDS = 1.0


class Database(Server):
    """What the two colours of the leaf share."""

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        super().__init__(url, settings)
        self.unit: ContextVar[Unit | None] = ContextVar("ambidex_postgres_unit", default=None)
        prefix = f"{self.options.schema}." if self.options.schema else ""
        self.vectors = Vectors(prefix, self.where)
        self.on_close: list[Callable[[], None]] = [self.vectors.forget]
        self.upkeep = Upkeep(self, self.vectors, prefix)
        self.on_close.append(self.upkeep.close)
        self._start()
        self.threads = BlockingPool(self)
        self.loops = AsyncPools(self)
        reset_after_fork(self)

    def _start(self) -> None:
        self.ready = False
        self._maintained = time.monotonic()
        self._guard = threading.Lock()

    def after_fork(self) -> None:
        """Let go of what the parent has open."""
        self._start()
        self.upkeep.after_fork()
        self.threads.abandon()
        self.loops.abandon()

    def maintenance_due(self) -> bool:
        """Tell one caller a second that it should reclaim what has expired."""
        now = time.monotonic()
        if now - self._maintained < _MAINTENANCE_SECONDS:
            return False
        with self._guard:
            due = now - self._maintained >= _MAINTENANCE_SECONDS
            if due:
                self._maintained = now
            return due
