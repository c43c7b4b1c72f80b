"""What a backend's port for large values promises; part of :class:`ambidex.testing.BackendContract`.

The invariant: each test works below a folder of its own, and checks what a reader sees, never how it is kept.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import CapabilityMissing, InvalidKey, NotFound
from ambidex.testing.contract import Contract, Subject

__all__ = ["BlobContract"]

_MEBI = 1024 * 1024


async def _stream(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def _failing(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece
    raise FileNotFoundError("the caller's own")


class BlobContract(Contract, needs=[Capability.BLOBS]):
    """Large values, read and written in pieces."""

    async def test_blob_comes_back_as_it_was_put(self, subject: Subject) -> None:
        """Whole, in pieces, empty, and from a stream of empty pieces."""
        key = f"{subject.tenant}/a/b.bin"
        for data, written in (
            (b"abc", b"abc"),
            (b"", b""),
            (_stream(), b""),
            (_stream(b"a", b"", b"bc"), b"abc"),
            (bytes(range(256)) * 40, bytes(range(256)) * 40),
        ):
            await subject.blobs.put(key, data)
            assert await subject.blobs.get(key) == written
            info = await subject.blobs.head(key)
            assert info is not None
            assert (info.key, info.size) == (key, len(written))
            assert abs(info.modified - time.time()) < 86_400

    async def test_blob_of_many_parts(self, subject: Subject) -> None:
        """More than any backend writes in one request."""
        key, piece = f"{subject.tenant}/big", bytes(range(256)) * 4096
        await subject.blobs.put(key, _stream(*[piece] * 20))
        assert (await subject.blobs.get(key, 7 * _MEBI - 1, 3)) == b"\xff\x00\x01"
        got = [part async for part in subject.blobs.stream(key, 0, None, 3 * _MEBI)]
        assert b"".join(got) == piece * 20
        assert max(map(len, got)) <= 3 * _MEBI
        await subject.blobs.put(key, piece * 17)
        assert await subject.blobs.get(key) == piece * 17

    async def test_blob_ranges(self, subject: Subject) -> None:
        """A range gives what there is of it."""
        key = f"{subject.tenant}/r"
        await subject.blobs.put(key, b"0123456789")
        for start, length in ((0, 3), (4, None), (9, 1), (8, 100), (10, 1), (50, None), (3, 0)):
            expected = b"0123456789"[start : None if length is None else start + length]
            assert await subject.blobs.get(key, start, length) == expected
            assert b"".join([part async for part in subject.blobs.stream(key, start, length, 2)]) == expected

    async def test_blob_that_does_not_exist(self, subject: Subject) -> None:
        """Reading raises, asking and deleting does not."""
        key = f"{subject.tenant}/none"
        with pytest.raises(NotFound):
            await subject.blobs.get(key)
        with pytest.raises(NotFound):
            _ = [part async for part in subject.blobs.stream(key, 0, None, 10)]
        assert await subject.blobs.head(key) is None
        await subject.blobs.delete_many([key, f"{subject.tenant}/other/none"])
        assert await subject.blobs.list(f"{subject.tenant}/", None, 10) == ([], None)

    async def test_blob_type_and_metadata(self, subject: Subject) -> None:
        """They are kept where they are given, and go with the blob."""
        key = f"{subject.tenant}/m"
        await subject.blobs.put(key, b"x", "text/plain; charset=utf-8", {"title": "Grüße % \t", "a-1": ""})
        info = await subject.blobs.head(key)
        assert info is not None
        assert (info.content_type, dict(info.metadata)) == (
            "text/plain; charset=utf-8",
            {"title": "Grüße % \t", "a-1": ""},
        )
        await subject.blobs.delete_many([key])
        await subject.blobs.put(key, b"x")
        info = await subject.blobs.head(key)
        assert info is not None
        assert "title" not in info.metadata

    async def test_blob_listing_is_in_order_and_paged(self, subject: Subject) -> None:
        """By key, below a folder, each once."""
        root = subject.tenant
        names = sorted(f"{root}/{name}" for name in ("a", "a-b", "a.b", "aa/x", "aa/y-z", "aa.c", "b/c/d", "b0", "z"))
        for name in names:
            await subject.blobs.put(name, name.encode())
        seen, after = [], None
        while True:
            infos, after = await subject.blobs.list(f"{root}/", after, 2)
            assert len(infos) <= 2
            seen += infos
            if after is None:
                break
        assert [info.key for info in seen] == names
        assert [info.size for info in seen] == [len(name) for name in names]
        infos, _after = await subject.blobs.list(f"{root}/aa/", None, 10)
        assert [info.key for info in infos] == [f"{root}/aa/x", f"{root}/aa/y-z"]
        await subject.blobs.delete_many(names[1:])
        infos, _after = await subject.blobs.list(f"{root}/", None, 10)
        assert [info.key for info in infos] == names[:1]

    async def test_blob_whose_stream_fails_is_not_written(self, subject: Subject) -> None:
        """What was there stays, and the caller's own error passes unchanged."""
        key = f"{subject.tenant}/f"
        await subject.blobs.put(key, b"before")
        for pieces in ([b"x"], [b"x" * _MEBI] * 20):
            with pytest.raises(FileNotFoundError, match="the caller's own"):
                await subject.blobs.put(key, _failing(*pieces))
            assert await subject.blobs.get(key) == b"before"
        infos, _after = await subject.blobs.list(f"{subject.tenant}/", None, 10)
        assert len(infos) == 1

    async def test_blob_is_replaced_as_a_whole(self, subject: Subject) -> None:
        """Readers among writers see one of the contents, never a mixture."""
        key, size = f"{subject.tenant}/w", 300_000
        await subject.blobs.put(key, b"0" * size)

        async def write(digit: bytes) -> set[bytes]:
            await subject.blobs.put(key, _stream(digit * (size // 2), digit * (size // 2)))
            return set()

        async def read() -> set[bytes]:
            return {await subject.blobs.get(key) for _ in range(3)}

        calls: list[Callable[[], Coroutine[Any, Any, set[bytes]]]] = [read, read]
        calls += [functools.partial(write, bytes([digit])) for digit in b"123456"]
        seen = await subject.together(calls)
        for content in set().union(*seen):
            assert len(content) == size
            assert len(set(content)) == 1

    async def test_blob_keys_that_could_lead_outside(self, subject: Subject) -> None:
        """Refused before any I/O."""
        for key in ("", "/a", "a/", "a//b", "../a", "a/../b", ".", "..", "a/.b", "a\\b", "a\x00b", "C:/a", "a b", "ä"):
            with pytest.raises(InvalidKey):
                await subject.blobs.put(key, b"x")
            with pytest.raises(InvalidKey):
                await subject.blobs.get(key)

    async def test_blob_presigning(self, subject: Subject) -> None:
        """Said beforehand, and refused where it cannot work."""
        key = f"{subject.tenant}/p"
        await subject.blobs.put(key, b"x")
        if subject.blobs.presigns:
            assert (await subject.blobs.presign(key, 60)).startswith("http")
        else:
            with pytest.raises(CapabilityMissing, match="s3://"):
                await subject.blobs.presign(key, 60)
