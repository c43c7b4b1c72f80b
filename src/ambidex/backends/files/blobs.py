"""Blobs as local files, for both modes; SQLite's leaves and :class:`FilesBackend` have one each.

The invariant: a call that is given up while a thread still works on a file leaves the file to that thread, and the
thread removes what it has begun.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar

from ambidex.backends.files.tree import Tree
from ambidex.core.ports import BlobInfo
from ambidex.core.runtime import check_deadline, current_deadline, remaining
from ambidex.errors import CapabilityMissing, DeadlineExceeded

__all__ = ["AsyncFileBlobs", "BlockingFileBlobs", "FileBlobs"]

T = TypeVar("T")

_PIECE = 1024 * 1024


class FileBlobs(ABC):
    """Implements :class:`ambidex.core.ports.BlobPort`.

    Args:
        root: returns the folder; may block.
        durable: whether a blob is flushed to the disk before it is acknowledged.
        timeout: seconds that one exchange with the file system may take.
    """

    presigns = False

    def __init__(self, root: Callable[[], str], durable: bool, timeout: float) -> None:
        self._tree = Tree(root, durable)
        self._timeout = timeout

    @abstractmethod
    async def _run(self, call: Callable[[], T]) -> T:
        """Run a call that blocks."""

    @abstractmethod
    async def _leave(self, call: Callable[[], object]) -> None:
        """Have a call that blocks made, also where the caller is being cancelled."""

    async def put(
        self,
        key: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        about = content_type, metadata or {}
        if isinstance(data, bytes):
            await self._run(lambda: _put_whole(self._tree, key, data, about))
            return
        draft = self._tree.begin()
        try:
            async for piece in data:
                for at in range(0, len(piece), _PIECE):
                    part = piece[at : at + _PIECE]
                    await self._run(lambda part=part: draft.write(part))  # type: ignore[misc]  # bound now
            await self._run(lambda: draft.publish(key, *about))
        except BaseException:
            await self._leave(draft.discard)
            raise

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return await self._run(lambda: _read(self._tree, key, start, length))

    async def stream(self, key: str, start: int, length: int | None, chunk: int) -> AsyncGenerator[bytes, None]:
        reader = self._tree.open(key)
        try:
            while length is None or length > 0:
                at, most = start, chunk if length is None else min(chunk, length)
                piece = await self._run(lambda at=at, most=most: reader.read(at, most))  # type: ignore[misc]  # bound now
                if not piece:
                    return
                yield piece
                start += len(piece)
                length = None if length is None else length - len(piece)
        finally:
            await self._leave(reader.close)

    async def head(self, key: str) -> BlobInfo | None:
        return await self._run(lambda: self._tree.head(key))

    async def list(self, prefix: str, after: str | None, limit: int) -> tuple[list[BlobInfo], str | None]:
        found = await self._run(lambda: self._tree.list(prefix, after or "", limit + 1))
        return found[:limit], found[limit - 1].key if len(found) > limit else None

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._run(lambda: self._tree.delete(keys))

    async def presign(self, key: str, seconds: int) -> str:
        raise CapabilityMissing(
            "local files have no URL that others could fetch; place blobs in an object store: blobs='s3://bucket/prefix'"
        )

    async def tidy(self, seconds: float) -> int:
        return await self._run(lambda: self._tree.tidy(seconds))

    async def probe(self) -> None:
        """Make sure that blobs can be written."""
        await self._run(self._tree.probe)


class BlockingFileBlobs(FileBlobs):
    """On the calling thread."""

    async def _run(self, call: Callable[[], T]) -> T:
        check_deadline(current_deadline(self._timeout), "work on a local blob")
        return call()

    async def _leave(self, call: Callable[[], object]) -> None:
        call()


class AsyncFileBlobs(FileBlobs):
    """In the worker threads of the running loop: a disk may take its time."""

    async def _run(self, call: Callable[[], T]) -> T:
        import asyncio

        until = current_deadline(self._timeout)
        check_deadline(until, "work on a local blob")
        try:
            async with asyncio.timeout(remaining(until)):
                return await asyncio.get_running_loop().run_in_executor(None, call)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while a local blob was worked on") from None

    async def _leave(self, call: Callable[[], object]) -> None:
        threading.Thread(target=call, name="ambidex-files-leave").start()


def _put_whole(tree: Tree, key: str, data: bytes, about: tuple[str, Mapping[str, str]]) -> None:
    draft = tree.begin()
    try:
        draft.write(data)
        draft.publish(key, *about)
    except BaseException:
        draft.discard()
        raise


def _read(tree: Tree, key: str, start: int, length: int | None) -> bytes:
    reader = tree.open(key)
    try:
        return reader.read(start, length)
    finally:
        reader.close()
