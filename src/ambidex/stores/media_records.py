"""Which content is kept where, and under which names: the records of ``stores/media.py``.

One record a content, by its SHA-256: the blob that holds it and every name it was stored under. It is only ever changed
by compare-and-set, so of two that change it at once one begins anew. The invariant: a record names a blob from the
moment when that blob is complete until the last of its names is gone; then the blob is never named again, because a
content that comes back gets a blob of its own. So a blob without a record that names it, old enough that no upload can
be about to write one, belongs to nobody.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote
from uuid import uuid4

from ambidex.core.codec import Stored, decode, encode
from ambidex.core.ports import Capability, When
from ambidex.core.runtime import check_deadline, current_deadline, in_unit
from ambidex.errors import Corrupted, InvalidKey
from ambidex.stores.scope import Scope

__all__ = ["Content", "MediaInfo", "Records", "check_name", "parse_url", "to_url"]

T = TypeVar("T")

_URL = re.compile(r"media://(?P<sha>[0-9a-f]{64})/(?P<name>.+)\Z", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_MOST_NAME_BYTES = 1024
_GONE_MS = 1_000
_PATIENCE = 30.0


class MediaInfo(NamedTuple):
    """What is known of a stored file."""

    url: str
    name: str
    content_type: str
    size: int
    """Bytes."""
    sha256: str
    metadata: dict[str, Any]
    created: datetime


class Content(NamedTuple):
    """The record of one content; without names it is gone."""

    blob: str
    size: int
    names: dict[str, Stored]
    """By name: content type, moment of creation and metadata, encoded; so a change of one name touches no other."""

    def info(self, sha: str, name: str) -> MediaInfo | None:
        """Return what is known of one of its names."""
        about = self.names.get(name)
        if about is None:
            return None
        content_type, created, metadata = decode(about)
        return MediaInfo(to_url(sha, name), name, content_type, self.size, sha, metadata, created)


def check_name(name: Any) -> str:
    """Return the name of a file if everybody who receives it could use it safely.

    Raises:
        InvalidKey: it is no text, too long, or could lead out of the folder into which somebody saves the file.
    """
    shown = repr(name)[:80]
    if not isinstance(name, str) or not name:
        raise InvalidKey(f"a file name is text, not empty, not {shown}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"the file name {shown} contains a lone surrogate; decode it properly first") from None
    if size > _MOST_NAME_BYTES:
        raise InvalidKey(f"the file name {shown}… takes {size} bytes, the limit is {_MOST_NAME_BYTES}")
    unsafe = _CONTROL.search(name) or "\\" in name or _DRIVE.match(name)
    if unsafe or any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidKey(
            f"the file name {shown} could lead outside a folder: it must be relative, without '..', backslashes, drive "
            "letters and control characters; give its last part only"
        )
    return name


def to_url(sha: str, name: str) -> str:
    """Return the URL of a content under a name."""
    return f"media://{sha}/{quote(name, safe='/')}"


def parse_url(url: Any) -> tuple[str, str]:
    """Return the content and the name of a URL.

    Raises:
        InvalidKey: it is not one that ``store`` has returned.
    """
    found = _URL.match(url) if isinstance(url, str) else None
    if found is None:
        raise InvalidKey(f"{str(url)[:80]!r} is no URL of stored media; those begin with media://")
    try:
        return found["sha"], check_name(unquote(found["name"], errors="strict"))
    except UnicodeDecodeError:
        raise InvalidKey(f"{url[:80]!r} is no URL of stored media; its name is not UTF-8") from None


class Records:
    """The records of one tenant.

    Args:
        scope: where they are kept.
    """

    def __init__(self, scope: Scope) -> None:
        self._port = scope.leaf.kv
        self._runtime, self._max = scope.runtime, scope.max_bytes
        self._of, self._at = scope.prefix("media", "of"), scope.prefix("media", "at")
        self._place_key = scope.prefix("media", "place") + "id"
        self._transactional = Capability.TRANSACTIONS in scope.capabilities
        self._place = ""

    async def place(self) -> str:
        """Return the folder of this tenant's blobs: its own, also where several databases share one object store."""
        if self._place:
            return self._place
        while (stored := await self._port.get(self._place_key)) is None:
            await self._port.put(self._place_key, encode(uuid4().hex, self._max), None, When.ABSENT)
        place = str(decode(stored))
        if not in_unit():  # else it may be undone with the unit
            self._place = place
        return place

    async def new_blob(self, sha: str = "") -> str:
        """Return the key of a blob that never was and never will be another one's.

        One whose content is not known yet is found again by :meth:`mark`.
        """
        name = f"{sha[:2]}/{sha}" if sha else "in/stream"
        return f"{await self.place()}/{name}-{uuid4().hex[:16]}"

    async def mark(self, blob: str, sha: str) -> None:
        """Write down the content of a blob whose key does not say it."""
        await self._port.put(self._mark(blob), encode(sha, self._max), None, When.ALWAYS)

    async def unmark(self, blobs: list[str]) -> None:
        """Forget what :meth:`mark` has written."""
        marked = [self._mark(blob) for blob in blobs if _is_stream(blob)]
        if marked:
            await self._port.delete_many(marked)

    async def owner(self, blob: str) -> str:
        """Return the content that a blob may hold, or ""."""
        name = blob.rpartition("/")[2]
        if not _is_stream(blob):
            return name.partition("-")[0]
        stored = await self._port.get(self._mark(blob))
        return "" if stored is None else str(decode(stored))

    async def get(self, sha: str) -> Content | None:
        """Return the record of a content, or None."""
        stored = await self._port.get(self._of + sha)
        return None if stored is None else _content(stored)

    async def change(self, sha: str, change: Callable[[Content | None], Content | None]) -> Content | None:
        """Exchange a record for what a function makes of it, again and again until nobody else was faster.

        Args:
            sha: the content.
            change: receives the record (None: there is none) and returns the new one, or None to leave it; one without
                names ends it.

        Returns:
            What was there before.
        """
        until, pause = current_deadline(_PATIENCE), 0.001
        while True:
            entry = await self._port.entry(self._of + sha)
            before = None if entry is None else _content(entry.value)
            after = change(before)
            if after is None:
                return before
            stored = encode(after._asdict(), self._max)
            version = 0 if entry is None else entry.version
            # Not a plain delete: that would take a name with it that was added meanwhile.
            ttl = None if after.names else _GONE_MS
            if await self._port.swap(self._of + sha, stored, version, ttl) is not None:
                return before
            check_deadline(until, "another try at a record of media that others keep changing")
            await self._runtime.sleep(random.uniform(0, pause))  # noqa: S311  # not a secret
            pause = min(0.05, pause * 1.5)

    async def page(self, after: str | None, limit: int) -> tuple[list[tuple[str, Content]], str | None]:
        """Return records by content, a page at a time."""
        keys, token = await self._port.scan(self._of, after, limit)
        found = await self._port.get_many(keys) if keys else []
        shas = [key[len(self._of) :] for key in keys]
        read = [(sha, _content(stored)) for sha, stored in zip(shas, found, strict=True) if stored is not None]
        return [(sha, content) for sha, content in read if content is not None], token

    def _mark(self, blob: str) -> str:
        return self._at + blob.rpartition("-")[2]


def _is_stream(blob: str) -> bool:
    return "/in/stream-" in blob


def _content(stored: Stored) -> Content | None:
    """Return the record, or None if it has ended."""
    value = decode(stored)
    try:
        content = Content(**value)
    except TypeError:
        raise Corrupted("a record of media does not have the fields that it was written with") from None
    return content if content.names else None
