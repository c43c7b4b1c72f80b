"""The reference backend.

Plain dictionaries in this process, for tests and as the description of what every backend must do.

``ambidex.storage`` makes one for ``memory://``. The invariant: data lives in one :class:`MemoryBackend` object, is
shared by all threads and loops that use it, and goes with it; a forked child continues with its own copy.
"""

from __future__ import annotations

from ambidex.backends.memory.blobs import MemoryBlobs
from ambidex.backends.memory.data import Data
from ambidex.backends.memory.kv import MemoryKeyValue
from ambidex.backends.memory.log import MemoryLog
from ambidex.backends.memory.records import MemoryRecords
from ambidex.backends.memory.search import MemorySearch
from ambidex.core.ports import Capability
from ambidex.settings import BackendUrl, Settings

__all__ = ["MemoryBackend", "MemoryLeaf"]


class MemoryBackend:
    """Both colours are one object, because nothing here ever waits."""

    name = "memory"
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

    def __init__(self, url: BackendUrl | None = None, settings: Settings | None = None) -> None:
        self.blocking = self.aio = MemoryLeaf(Data())


class MemoryLeaf:
    """The ports over one :class:`Data`."""

    def __init__(self, data: Data) -> None:
        self.transaction = data.transaction
        self.kv = MemoryKeyValue(data)
        self.log = MemoryLog(data)
        self.search = MemorySearch(data)
        self.blobs = MemoryBlobs(data)
        self.records = MemoryRecords(data)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Keep the data: closing ends connections, and a memory backend has none."""

    async def ping(self) -> None:
        """Always reachable."""
