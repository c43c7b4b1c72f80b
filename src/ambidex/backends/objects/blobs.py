"""Blobs in an object store, over either colour of calls; the leaves of :class:`ObjectsBackend` have one each.

The invariant: every request is small enough to be bounded by one timeout: what is large is written in parts and read in
ranges, and only a few of them are in memory at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote, unquote

from ambidex.backends.objects.calls import Calls
from ambidex.core.keys import blob_segments
from ambidex.core.ports import BlobInfo
from ambidex.errors import CapabilityMissing, InvalidKey, InvalidQuery, NotFound, UnsupportedValue

__all__ = ["ObjectBlobs"]

_NAME = re.compile(r"[a-z0-9-]+\Z")
_PART = 8 * 1024 * 1024  # S3 wants at least 5 MiB and allows 10,000 of them: this reaches 80 GB
_CONCURRENT = 2
_PRINTABLE = "".join(map(chr, range(33, 127))).replace("%", "")
_MOST_SECONDS = 7 * 24 * 3600  # what AWS allows
_DELETED_AT_ONCE = 1000
_PAGE = 1000


class ObjectBlobs:
    """Implements :class:`ambidex.core.ports.BlobPort`."""

    presigns = True

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        blob_segments(key)
        attributes = _attributes(content_type, metadata or {})
        if isinstance(data, bytes) and len(data) <= _PART:
            await self._calls.call("put", key, key, data, attributes=attributes, use_multipart=False)
            return
        pieces = _pieces(data) if isinstance(data, bytes) else data
        head, size = await _taken(pieces, _PART)
        if size <= _PART:
            await self._calls.call("put", key, key, b"".join(head), attributes=attributes, use_multipart=False)
            return
        await self._calls.upload(
            key, _chained(head, pieces), attributes=attributes, chunk_size=_PART, max_concurrency=_CONCURRENT
        )

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return b"".join([piece async for piece in self.stream(key, start, length, _PART)])

    async def stream(self, key: str, start: int, length: int | None, chunk: int) -> AsyncGenerator[bytes, None]:
        blob_segments(key)
        size = await self._size(key)
        end = size if length is None else min(size, start + length)
        while start < end:
            most = min(_PART, end - start)
            part = memoryview(await self._range(key, start, most, size))
            start += len(part)
            for at in range(0, len(part), chunk):
                yield bytes(part[at : at + chunk])

    async def _range(self, key: str, start: int, length: int, size: int) -> Any:
        """Return a part of a blob; what is small is taken whole where the server serves no ranges as obstore wants."""
        if length == size:
            return await self._calls.whole(key)
        try:
            return await self._calls.call("get_range", key, key, start=start, length=length)
        except CapabilityMissing:
            if size > _PART:
                raise
            return (await self._calls.whole(key))[start : start + length]

    async def _size(self, key: str) -> int:
        found = await self._calls.call("head", key, key)
        return int(found["size"])

    async def head(self, key: str) -> BlobInfo | None:
        blob_segments(key)
        try:
            found = await self._calls.call("get", key, key, options={"head": True})
        except NotFound:
            return None
        meta, attributes = found.meta, dict(found.attributes)
        content_type = attributes.pop("Content-Type", "")
        metadata = {name: unquote(value) for name, value in attributes.items() if _NAME.match(name)}
        return BlobInfo(key, meta["size"], meta["last_modified"].timestamp(), content_type, metadata)

    async def list(self, prefix: str, after: str | None, limit: int) -> tuple[list[BlobInfo], str | None]:
        if prefix:
            if not prefix.endswith("/"):
                raise InvalidKey(f"the prefix {prefix!r} does not end with a slash")
            blob_segments(prefix[:-1])
        limit = min(limit, _PAGE)
        found = await self._calls.first_page(prefix, after, limit)
        infos = [BlobInfo(one["path"], one["size"], one["last_modified"].timestamp()) for one in found[:limit]]
        return infos, infos[-1].key if len(infos) == limit else None

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            blob_segments(key)
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            await self._calls.call("delete", "", list(keys[at : at + _DELETED_AT_ONCE]))

    async def presign(self, key: str, seconds: int) -> str:
        blob_segments(key)
        if not 1 <= seconds <= _MOST_SECONDS:
            raise InvalidQuery(f"a presigned URL is valid for 1 second to 7 days, not {seconds!r} seconds")
        url: str = await self._calls.call("sign", key, "GET", key, timedelta(seconds=seconds))
        return url

    async def tidy(self, seconds: float) -> int:
        """Nothing that obstore could find: have the bucket end unfinished uploads by a lifecycle rule."""
        return 0


def _attributes(content_type: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what becomes headers: only printable ASCII passes every server unchanged."""
    for name in metadata:
        if not _NAME.match(name):
            raise UnsupportedValue(f"the name {name!r} of a blob's metadata may hold only a-z, 0-9 and hyphens")
    attributes = {name: quote(value, safe=_PRINTABLE) for name, value in metadata.items()}
    return {"Content-Type": quote(content_type, safe=_PRINTABLE + " "), **attributes} if content_type else attributes


async def _pieces(data: bytes) -> AsyncGenerator[bytes, None]:
    view = memoryview(data)
    for at in range(0, len(view), _PART):
        yield bytes(view[at : at + _PART])


async def _taken(pieces: AsyncIterator[bytes], most: int) -> tuple[deque[bytes], int]:
    """Return the first pieces, until they are more than ``most`` bytes or the end; and how many bytes they are."""
    taken, size = deque[bytes](), 0
    async for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size > most:
            break
    return taken, size


async def _chained(head: deque[bytes], rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    while head:
        yield head.popleft()
    async for piece in rest:
        yield piece
