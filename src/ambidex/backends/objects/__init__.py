"""Blobs in S3 and what speaks its protocol, through obstore: ``s3://bucket/prefix?endpoint=…&region=…``.

``ambidex.storage`` makes a backend of it; it needs the extra ``objects``. The invariant: both colours share one
:class:`Target`, and nothing is opened before the first call.
"""

from __future__ import annotations

from ambidex.backends.objects.blobs import ObjectBlobs
from ambidex.backends.objects.calls import AsyncCalls, BlockingCalls, Calls
from ambidex.backends.objects.target import Target
from ambidex.core.ports import Capability, PartialLeaf
from ambidex.settings import BackendUrl, Settings

__all__ = ["ObjectsBackend", "ObjectsLeaf"]


class ObjectsBackend:
    """Implements :class:`ambidex.core.ports.Backend`."""

    name = "objects"
    capabilities = frozenset({Capability.BLOBS})

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        target = Target(url, settings.timeout)
        self.blocking = ObjectsLeaf(BlockingCalls(target))
        self.aio = ObjectsLeaf(AsyncCalls(target))


class ObjectsLeaf(PartialLeaf):
    """One colour of an object store."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.blobs = ObjectBlobs(calls)

    async def open(self) -> None:
        """Make one request, so that a wrong bucket or key shows early."""
        await self.ping()

    async def close(self) -> None:
        """Let go of the connections, of both colours."""
        self._calls.target.forget()

    async def ping(self) -> None:
        """List one object."""
        await self.blobs.list("", None, 1)
