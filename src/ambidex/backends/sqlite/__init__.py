"""The embedded default: one SQLite file, safe to use from many threads, loops and processes at once.

``ambidex.storage`` makes a backend for ``sqlite:///…``. Read ``writer.py`` for how writes are ordered and made
durable, ``connection.py`` for how reads are bounded. The invariant: both colours share one :class:`Database`, so a
write through either is seen by the next read through the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ambidex.backends.sqlite.database import Database
from ambidex.backends.sqlite.driver import BlockingSqliteLeaf
from ambidex.core.lazy import lazy
from ambidex.core.ports import Capability
from ambidex.settings import BackendUrl, Settings

if TYPE_CHECKING:
    from ambidex.backends.sqlite.aio import AsyncSqliteLeaf

__all__ = ["SqliteBackend"]


class SqliteBackend:
    """Implements :class:`ambidex.core.ports.Backend`."""

    name = "sqlite"
    capabilities = frozenset(
        {
            Capability.KV,
            Capability.RECORDS,
            Capability.LOG,
            Capability.SEARCH,
            Capability.BLOBS,
            Capability.TRANSACTIONS,
        }
    )

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        self._database = Database(url, settings)
        self.blocking = BlockingSqliteLeaf(self._database)

    @lazy
    def aio(self) -> AsyncSqliteLeaf:
        """The colour for event loops, which brings asyncio with it."""
        from ambidex.backends.sqlite.aio import AsyncSqliteLeaf

        return AsyncSqliteLeaf(self._database)
