"""The port of large values, which are read and written in pieces; :mod:`ambidex.core.ports` offers it with the others.

The invariant: nobody ever sees a part of a blob; a write that does not end leaves what was there before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

__all__ = ["BlobInfo", "BlobPort"]


class BlobInfo(NamedTuple):
    """What is known of a blob without reading it."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970, by the clock of whoever keeps it."""
    content_type: str = ""
    """Empty in listings, and where none was given."""
    metadata: Mapping[str, str] = {}
    """Empty in listings, and where none was given."""


class BlobPort(Protocol):
    """Large values, read and written in pieces. They take no part in transactions.

    A key is one or more segments of ``A-Z a-z 0-9 _ - .`` that begin with no dot, joined by ``/``. The timeout of the
    settings bounds each exchange with the server, an ambient deadline the whole call.
    """

    @property
    def presigns(self) -> bool:
        """Whether :meth:`presign` can work, and so the content type matters to whoever fetches the blob."""
        ...

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write a blob, replacing an earlier one, in one atomic step: nobody ever sees a part of it.

        Args:
            key: see above.
            data: the content, whole or in pieces; an error raised by the iterator passes through, nothing is written.
            content_type: what the server says when the blob is fetched by a presigned URL.
            metadata: short texts by names of ``a-z 0-9 -``.
        """
        ...

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return up to ``length`` bytes from ``start`` on: what there is, b"" behind the end.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def stream(self, key: str, start: int, length: int | None, chunk: int) -> AsyncGenerator[bytes, None]:
        """Yield the same bytes in pieces of at most ``chunk``, holding only a few of them in memory.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    async def head(self, key: str) -> BlobInfo | None:
        """Return what is known of a blob, or None."""
        ...

    async def list(self, prefix: str, after: str | None, limit: int) -> tuple[list[BlobInfo], str | None]:
        """Return up to ``limit`` blobs below ``prefix``, by key, and the token of the next page (None: no more).

        Args:
            prefix: empty, or ends with ``/``.
            after: the token of the page before, or None.
            limit: at least 1.
        """
        ...

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete blobs; absent ones are passed over."""
        ...

    async def presign(self, key: str, seconds: int) -> str:
        """Return a URL by which anyone can fetch the blob over HTTP for so long.

        Raises:
            CapabilityMissing: ``presigns`` is false.
        """
        ...

    async def tidy(self, seconds: float) -> int:
        """Remove what interrupted writes left behind that long ago; return how many leftovers there were."""
        ...
