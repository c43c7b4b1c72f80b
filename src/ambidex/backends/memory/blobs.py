"""Blobs in a dictionary; the reference for every other ``BlobPort``.

The invariant: a blob is one immutable value that is exchanged as a whole, so a reader never sees a part of a write.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from types import MappingProxyType

from ambidex.backends.memory.data import Data
from ambidex.core.keys import blob_segments
from ambidex.core.ports import BlobInfo
from ambidex.errors import CapabilityMissing, NotFound

__all__ = ["MemoryBlobs"]


class MemoryBlobs:
    """Implements :class:`ambidex.core.ports.BlobPort`."""

    presigns = False

    def __init__(self, data: Data) -> None:
        self._blobs: dict[str, tuple[BlobInfo, bytes]] = data.blobs

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        blob_segments(key)
        whole = data if isinstance(data, bytes) else b"".join([piece async for piece in data])
        about = MappingProxyType(dict(metadata or {}))
        self._blobs[key] = BlobInfo(key, len(whole), time.time(), content_type, about), whole

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        blob_segments(key)
        try:
            whole = self._blobs[key][1]
        except KeyError:
            raise NotFound(f"the blob {key!r} does not exist in memory") from None
        return whole[start : None if length is None else start + length]

    async def stream(self, key: str, start: int, length: int | None, chunk: int) -> AsyncGenerator[bytes, None]:
        wanted = memoryview(await self.get(key))[start : None if length is None else start + length]
        for at in range(0, len(wanted), chunk):
            yield bytes(wanted[at : at + chunk])

    async def head(self, key: str) -> BlobInfo | None:
        found = self._blobs.get(key)
        return None if found is None else found[0]

    async def list(self, prefix: str, after: str | None, limit: int) -> tuple[list[BlobInfo], str | None]:
        start = after or ""
        keys = heapq.nsmallest(limit + 1, [key for key in list(self._blobs) if key.startswith(prefix) and key > start])
        found = [self._blobs.get(key) for key in keys[:limit]]
        infos = [BlobInfo(*one[0][:3]) for one in found if one is not None]
        return infos, keys[limit - 1] if len(keys) > limit else None

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._blobs.pop(key, None)

    async def presign(self, key: str, seconds: int) -> str:
        raise CapabilityMissing(
            "memory has no URL that others could fetch; place blobs in an object store: blobs='s3://bucket/prefix'"
        )

    async def tidy(self, seconds: float) -> int:
        return 0
