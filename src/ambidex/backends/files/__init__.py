"""Local files as a place for blobs: ``file:///folder``, and what SQLite keeps its blobs in.

``ambidex.storage`` makes a backend of it; the leaves of SQLite use :mod:`ambidex.backends.files.blobs`. The invariant:
it needs nothing but the standard library, so the embedded default keeps media without an extra.
"""

from __future__ import annotations

import os

from ambidex.backends.files.blobs import AsyncFileBlobs, BlockingFileBlobs, FileBlobs
from ambidex.core.ports import Capability, PartialLeaf
from ambidex.errors import ConfigurationError
from ambidex.settings import BackendUrl, Settings

__all__ = ["FilesBackend", "FilesLeaf"]


class FilesBackend:
    """Implements :class:`ambidex.core.ports.Backend`."""

    name = "files"
    capabilities = frozenset({Capability.BLOBS})

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        root = url.path
        if url.options:
            raise ConfigurationError(f"unknown option {url.options[0][0]!r} in {url.display!r}")
        if not url.url.startswith("file:///") or os.path.normpath(root) == "/":
            raise ConfigurationError(f"{url.display!r} names no folder; write three slashes: file:///var/lib/app/blobs")
        durable = settings.durability == "durable"
        self.blocking = FilesLeaf(BlockingFileBlobs(lambda: root, durable, settings.timeout))
        self.aio = FilesLeaf(AsyncFileBlobs(lambda: root, durable, settings.timeout))


class FilesLeaf(PartialLeaf):
    """One colour; it holds nothing open between calls."""

    def __init__(self, blobs: FileBlobs) -> None:
        self.blobs = blobs

    async def open(self) -> None:
        """Make sure that blobs can be written."""
        await self.blobs.probe()

    async def close(self) -> None:
        """Nothing to close."""

    async def ping(self) -> None:
        """Make sure that blobs can be written."""
        await self.blobs.probe()
