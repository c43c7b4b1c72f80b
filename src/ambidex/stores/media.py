"""Files by content: images, recordings, attachments; ``storage.media`` is one.

A content is kept once, however many names it is stored under; its URL says both, so storing the same again gives the
same URL. The blob is written first, then the record (:mod:`ambidex.stores.media_records`), and what a killed process
leaves is a blob without a record, which ``sweep`` removes. The invariant: a URL that was returned can be read until its
last deletion, and no name that a caller gives ever becomes part of a path.
"""

from __future__ import annotations

import builtins
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

from ambidex.core.codec import Stored, decode, encode
from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.runtime import in_unit, off_the_clock, one_deadline, time_limit
from ambidex.errors import AmbidexError, CapabilityMissing, InvalidQuery, NotFound, UnsupportedValue
from ambidex.stores.media_records import Content, MediaInfo, Records, check_name, parse_url, to_url
from ambidex.stores.media_source import PIECE, Hashing, Source, opened
from ambidex.stores.scope import Scope

__all__ = ["BlockingMedia", "DetectingMedia", "Media", "MediaInfo"]

_log = logging.getLogger("ambidex")

_TYPE = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?\Z")
_PAGE = 200
_MOST_PAGE = 10_000
_BUFFERED = 4 * PIECE
_GRACE = timedelta(hours=24)


class Media(Store):
    """Files, asynchronous. ``url = await storage.aio.media.store(data, "photo.jpg", "image/jpeg")``.

    Args:
        kv: where the records are kept.
        blobs: where the contents are kept.
    """

    def __init__(self, kv: Scope, blobs: Scope) -> None:
        self._bound = kv, blobs
        self._runtime, self._max, self._timeout = kv.runtime, kv.max_bytes, kv.timeout
        self._records = Records(kv)
        self._blobs = blobs.leaf.blobs

    def __repr__(self) -> str:
        tenant = self._bound[0].tenant
        return f"{type(self).__name__}({f'tenant={tenant!r}' if tenant else ''})"

    # ---------------------------------------------------------------- writing

    @operation
    @one_deadline
    async def store(
        self,
        file_data: Any,
        file_name: str,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Store a file and return its URL, which names it by content: the same file under the same name is stored once.

        Args:
            file_data: bytes, a file opened in binary mode (read from where it stands), a ``pathlib.Path``, or an
                iterable of bytes; in asynchronous code also an asynchronous one. What is large goes in pieces.
            file_name: relative, without ``..``; it may hold any letters and ``/``.
            content_type: the media type; storing again replaces it and the metadata.
            metadata: JSON-shaped; it is not changed.

        Returns:
            ``media://<sha256>/<name>``; see :meth:`read`, :meth:`stream` and :meth:`presign`.

        Raises:
            InvalidKey: the name could lead outside a folder.
            UnsupportedValue: the data is no bytes, or type or metadata cannot be kept; nothing was stored.
            StorageFull: no space is left; nothing was stored.
            CapabilityMissing: in a transaction, key-value is on another backend; nothing was stored.
        """
        name, about = check_name(file_name), self._about(content_type, metadata)
        self._bound[0].check_at_once("kv", "media.store")
        async with opened(file_data, self._runtime) as data:
            return to_url(await self._content(Source(data, self._runtime), name, content_type, about), name)

    async def _content(self, source: Source, name: str, content_type: str, about: Stored) -> str:
        """Store a content under a name and return its SHA-256."""
        if not source.repeatable:
            with off_the_clock():
                source = await self._begun(source)
        if source.repeatable:
            with off_the_clock():
                sha = await source.digest()
            blob, size = "", 0
        else:
            sha, blob, size = await self._upload(source, content_type)
        while not await self._named(sha, blob, size, name, about):
            _sha, blob, size = await self._upload(source, content_type, sha)
        return sha

    def _about(self, content_type: Any, metadata: Any) -> Stored:
        if not isinstance(content_type, str) or not _TYPE.match(content_type):
            raise UnsupportedValue(f"a content type looks like image/png, not {str(content_type)[:60]!r}")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise UnsupportedValue(f"metadata is a mapping, not {type(metadata).__name__}")
        return encode([content_type, datetime.now(UTC), dict(metadata or {})], self._max)

    async def _begun(self, source: Source) -> Source:
        """Return a short stream as bytes, whose content is then known before it is stored."""
        pieces, taken = source.pieces(), bytearray()
        async for piece in pieces:
            taken += piece
            if len(taken) > _BUFFERED:
                return Source(_continued(bytes(taken), pieces), self._runtime)
        return Source(bytes(taken), self._runtime)

    async def _upload(self, source: Source, content_type: str, sha: str = "") -> tuple[str, str, int]:
        """Write a new blob and return its content, key and size."""
        blob = await self._records.new_blob(sha)
        served = content_type if self._blobs.presigns else ""
        if source.whole is not None:
            with _clock(len(source.whole)):
                await self._blobs.put(blob, source.whole, served)
            return sha, blob, len(source.whole)
        passing = Hashing(expected=sha)
        with off_the_clock():
            await self._blobs.put(blob, passing.through(source.pieces()), served)
        if not sha:
            await self._records.mark(blob, passing.digest)
        return passing.digest, blob, passing.size

    async def _named(self, sha: str, blob: str, size: int, name: str, about: Stored) -> bool:
        """Give a content a name; False where there is no such content yet and no blob to begin it with."""
        known, used = await self._records.get(sha), ""
        # Somebody may have emptied the place, or have named another one: what is acknowledged must be there.
        lost = known.blob if known is not None and await self._blobs.head(known.blob) is None else ""

        def add(before: Content | None) -> Content | None:
            nonlocal used
            if before is None or before.blob == lost:
                used = blob
                others = {} if before is None else before.names
                return Content(blob, size, {**others, name: about}) if blob else None
            used = before.blob
            kept = before.names.get(name)
            return before._replace(names={**before.names, name: about if kept is None else _again(kept, about)})

        await self._records.change(sha, add)
        if blob and used != blob:  # somebody else was faster, and ours is one too many
            await self._drop([blob])
        return bool(used)

    @operation
    @one_deadline
    async def delete(self, url: str) -> bool:
        """Delete a file; True if it existed. Its content goes with the last name that it was stored under.

        Inside a transaction the content stays until the next :meth:`sweep`, because the transaction may be undone.
        """
        sha, name = parse_url(url)
        self._bound[0].check_at_once("kv", "media.delete")

        def remove(before: Content | None) -> Content | None:
            if before is None or name not in before.names:
                return None
            return before._replace(names={other: about for other, about in before.names.items() if other != name})

        before = await self._records.change(sha, remove)
        if before is None or name not in before.names:
            return False
        if len(before.names) == 1 and not in_unit():
            await self._drop([before.blob])
        return True

    async def _drop(self, blobs: builtins.list[str]) -> None:
        """Delete blobs that nobody names any more; if that fails, the next sweep does it."""
        try:
            await self._blobs.delete_many(blobs)
            await self._records.unmark(blobs)
        except AmbidexError as error:
            _log.warning("%d blobs of deleted media are left to the next sweep: %s", len(blobs), error)

    @operation
    async def sweep(self, older_than: timedelta = _GRACE) -> int:
        """Remove blobs without a record, which killed processes and undone transactions leave; return how many.

        Args:
            older_than: what was written later is left alone. Longer than the longest upload and transaction.
        """
        if type(older_than) is not timedelta or older_than < timedelta(0):
            raise InvalidQuery(f"older_than is a timedelta that is not negative, not {older_than!r}")
        seconds = older_than.total_seconds()
        swept, after = await self._blobs.tidy(seconds), None
        limit = (datetime.now(UTC) - older_than).timestamp()
        place = await self._records.place() + "/"
        while True:
            infos, after = await self._blobs.list(place, after, _PAGE)
            dead = [info.key for info in infos if info.modified <= limit and not await self._in_use(info.key)]
            if dead:
                await self._blobs.delete_many(dead)
                await self._records.unmark(dead)
                swept += len(dead)
            if after is None:
                return swept

    async def _in_use(self, blob: str) -> bool:
        sha = await self._records.owner(blob)
        content = await self._records.get(sha) if sha else None
        return content is not None and content.blob == blob

    # ---------------------------------------------------------------- reading

    @operation
    @one_deadline
    async def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the content, or ``length`` bytes of it from ``start`` on: what there is, b"" behind the end.

        Raises:
            NotFound: there is no such file.
            InvalidQuery: a negative range.
        """
        content = await self._found(url)
        _check_range(start, length)
        with _clock(content.size if length is None else min(content.size, length)):
            return await self._blobs.get(content.blob, start, length)

    @operation
    async def info(self, url: str) -> MediaInfo | None:
        """Return name, type, size, hash, metadata and the time of storing; None where there is no such file."""
        sha, name = parse_url(url)
        content = await self._records.get(sha)
        return None if content is None else content.info(sha, name)

    @operation
    @one_deadline
    async def presign(self, url: str, expires: float | timedelta = 3600) -> str:
        """Return a URL by which anyone can fetch the content over HTTP until it expires.

        It carries the content type under which the content was first stored.

        Args:
            url: from :meth:`store`.
            expires: seconds or a timedelta, up to 7 days.

        Raises:
            CapabilityMissing: the blobs are in no object store.
            NotFound: there is no such file.
        """
        if not self._blobs.presigns:
            raise CapabilityMissing(
                "media kept in memory or in local files has no URL that others could fetch; read it with read or "
                "stream, or place blobs in an object store: UnifiedStorage(…, blobs='s3://bucket/prefix')"
            )
        seconds: Any = expires.total_seconds() if isinstance(expires, timedelta) else expires
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 1:
            raise InvalidQuery(f"a URL is valid for at least a second, not {expires!r}")
        content = await self._found(url)
        return await self._blobs.presign(content.blob, int(seconds))

    @stream
    async def list(self, page: int = _PAGE) -> AsyncGenerator[builtins.list[MediaInfo], None]:
        """Iterate all files, those of one content together; the order is the backend's own.

        Args:
            page: contents a round trip, 1 to 10,000.
        """
        if type(page) is not int or not 1 <= page <= _MOST_PAGE:
            raise InvalidQuery(f"a page is 1 to {_MOST_PAGE:,} contents, not {page!r}")
        after = None
        while True:
            with time_limit(self._timeout):
                found, after = await self._records.page(after, page)
            infos = [content.info(sha, name) for sha, content in found for name in sorted(content.names)]
            yield [info for info in infos if info is not None]
            if after is None:
                return

    @stream
    async def stream(
        self, url: str, start: int = 0, length: int | None = None, chunk: int = PIECE
    ) -> AsyncGenerator[builtins.list[bytes], None]:
        """Iterate the same bytes in pieces of at most ``chunk`` bytes, of which only a few are in memory at a time."""
        content = await self._found(url)
        _check_range(start, length)
        if type(chunk) is not int or chunk < 1:
            raise InvalidQuery(f"a piece is at least one byte, not {chunk!r}")
        async for piece in self._blobs.stream(content.blob, start, length, chunk):
            yield [piece]

    async def _found(self, url: str) -> Content:
        sha, name = parse_url(url)
        content = await self._records.get(sha)
        if content is None or name not in content.names:
            raise NotFound(f"there is no media {to_url(sha, name)}")
        return content


class BlockingMedia(Blocking, Media):
    """Files, synchronous. ``url = storage.sync.media.store(data, "photo.jpg", "image/jpeg")``."""


class DetectingMedia(Detecting, Media):
    """Files whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: Media, sync: BlockingMedia) -> None:
        super().__init__(*aio._bound)
        self._aio, self._sync = aio, sync


async def _continued(taken: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield taken
    async for piece in rest:
        yield piece


def _clock(size: int) -> AbstractContextManager[None]:
    """Count the passing of a few bytes to the operation's time; of more, each exchange with the server has its own."""
    return off_the_clock() if size > _BUFFERED else nullcontext()


def _again(kept: Stored, about: Stored) -> Stored:
    """Return what is known of a name that is stored again: it stays as old as it is."""
    content_type, _now, metadata = decode(about)
    return encode([content_type, decode(kept)[1], metadata])


def _check_range(start: int, length: int | None) -> None:
    if type(start) is not int or start < 0 or not (length is None or (type(length) is int and length >= 0)):
        raise InvalidQuery(f"a range has a start and a length in bytes, not negative, not {start!r} and {length!r}")
