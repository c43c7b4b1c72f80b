"""What files by content promise on every backend; part of :class:`ambidex.testing.BackendContract`.

The invariant: each test works under a tenant of its own, whose blobs stand in a folder of their own.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import InvalidKey, InvalidQuery, NotFound, UnsupportedValue
from ambidex.stores.media import MediaInfo
from ambidex.testing.contract import Contract, Subject

__all__ = ["MediaContract", "MediaInTransactionsContract"]

_NOW = timedelta(0)


async def _stream(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def _blobs(subject: Subject) -> list[str]:
    """Return the keys of this tenant's blobs."""
    infos, _after = await subject.blobs.list(await subject.media._records.place() + "/", None, 1000)
    return [info.key for info in infos]


async def _listed(subject: Subject, **how: Any) -> list[MediaInfo]:
    return [info async for info in subject.media.list(**how)]


class MediaContract(Contract, needs=[Capability.KV, Capability.BLOBS]):
    """Files: names, contents, and what becomes of both."""

    async def test_media_comes_back_with_all_that_was_said_of_it(self, subject: Subject) -> None:
        """The flat method is the room's."""
        given = {"album": "Łódź", "size": [1, 2]}
        url = await subject.face.store_media(b"data", "photo.jpg", "image/jpeg", given)
        assert await subject.media.read(url) == b"data"
        info = await subject.media.info(url)
        assert info is not None
        assert info[:6] == (url, "photo.jpg", "image/jpeg", 4, hashlib.sha256(b"data").hexdigest(), given)
        assert given == {"album": "Łódź", "size": [1, 2]}
        assert await _listed(subject) == [info]

    async def test_media_without_any_bytes(self, subject: Subject) -> None:
        """An empty file is a file."""
        urls: set[str] = set()
        for empty in (b"", io.BytesIO(), list[bytes](), _stream()):
            urls.add(await subject.media.store(empty, "empty"))
        (url,) = urls
        assert await subject.media.read(url) == b""
        assert [piece async for piece in subject.media.stream(url)] == []
        info = await subject.media.info(url)
        assert info is not None
        assert (info.size, info.sha256) == (0, hashlib.sha256().hexdigest())
        assert await subject.media.delete(url)
        assert await _listed(subject) == []

    async def test_media_from_everything_that_holds_bytes(self, subject: Subject, tmp_path: Path) -> None:
        """One content gives one blob, wherever its bytes come from."""
        content = bytes(range(256)) * 30_000  # more than is buffered of a stream
        half = len(content) // 2
        file = io.BytesIO(b"skipped" + content)
        file.seek(7)
        path = tmp_path / "content"
        path.write_bytes(content)
        sources: list[Any] = [
            content,
            path,
            bytearray(content),
            memoryview(content),
            file,
            [content[:half], b"", bytearray(content[half:])],
            (content[at : at + 1000] for at in range(0, len(content), 1000)),
            _stream(content[:half], content[half:]),
        ]
        urls = {await subject.media.store(source, "same") for source in sources}
        assert len(urls) == 1
        assert await subject.media.read(urls.pop()) == content
        assert len(await _blobs(subject)) == 1

    async def test_media_two_names_share_a_blob_until_the_last_is_deleted(self, subject: Subject) -> None:
        """Deleting counts."""
        one = await subject.media.store(b"shared", "one.txt", "text/plain")
        other = await subject.media.store(b"shared", "other.txt", "text/plain")
        assert one != other
        assert len(await _blobs(subject)) == 1
        assert await subject.media.delete(one)
        assert not await subject.media.delete(one)
        assert await subject.media.info(one) is None
        assert await subject.media.read(other) == b"shared"
        assert await subject.media.delete(other)
        assert await _blobs(subject) == []
        assert await _listed(subject) == []
        with pytest.raises(NotFound):
            await subject.media.read(other)
        assert await subject.media.store(b"shared", "one.txt", "text/plain") == one
        assert await subject.media.read(one) == b"shared"

    async def test_media_stored_again_is_the_same(self, subject: Subject) -> None:
        """Type and metadata are those of the last time, the age that of the first."""
        url = await subject.media.store(b"x", "a", "text/plain", {"n": 1})
        first = await subject.media.info(url)
        assert await subject.media.store(b"x", "a", "text/html", {"n": 2}) == url
        second = await subject.media.info(url)
        assert first is not None
        assert second == first._replace(content_type="text/html", metadata={"n": 2})

    async def test_media_ranges_and_pieces(self, subject: Subject) -> None:
        """A range gives what there is of it."""
        url = await subject.media.store(b"0123456789", "digits")
        assert await subject.media.read(url, 2, 3) == b"234"
        assert await subject.media.read(url, 8, 5) == b"89"
        assert await subject.media.read(url, 10) == b""
        assert [piece async for piece in subject.media.stream(url, 1, 7, chunk=3)] == [b"123", b"456", b"7"]
        for start, length in ((-1, None), (0, -1), (True, None), ("0", None)):
            with pytest.raises(InvalidQuery):
                await subject.media.read(url, start, length)  # type: ignore[arg-type]  # that is the point

    async def test_media_may_be_empty(self, subject: Subject) -> None:
        """0 bytes are a content like any other."""
        for source in (b"", io.BytesIO(), _stream()):
            url = await subject.media.store(source, "nothing")
            assert await subject.media.read(url) == b""
            assert [piece async for piece in subject.media.stream(url)] == []

    async def test_media_names_of_all_letters(self, subject: Subject) -> None:
        """A name comes back as it was given, however it looks."""
        names = [
            "ü.png",
            "日本/写真.jpg",
            "a b.txt",
            "100%.txt",
            "x?y#z",
            "...",
            "-rf",
            "CON",
            "ab:c",
            "%2e%2e",
            "😀",
            "é",
        ]
        urls = [await subject.media.store(b"one content", name) for name in names]
        assert len(set(urls)) == len(names)
        infos = [await subject.media.info(url) for url in urls]
        assert [info.name for info in infos if info is not None] == names
        assert sorted(info.name for info in await _listed(subject)) == sorted(names)
        assert all(url.isascii() for url in urls)

    async def test_media_names_that_could_lead_outside_are_refused(self, subject: Subject) -> None:
        """Nothing is written."""
        for name in (
            "../a", "a/../../b", "..", ".", "", "/etc/passwd", "a//b", "a/", "C:\\a", "c:a", "a\\b", "\\\\host\\a",
            "a\x00b", "a\nb", "\ud800", "x" * 1025, None, b"a",
        ):  # fmt: skip
            with pytest.raises(InvalidKey):
                await subject.media.store(b"x", name)  # type: ignore[arg-type]  # that is the point
        sha = hashlib.sha256(b"x").hexdigest()
        for url in ("", "a", "media://", f"media://{sha}", f"media://{sha}/", f"media://{sha}/../a", "media://../a/b",
                    f"media://{sha}/%2e%2e/a", f"media://{sha}/%ff", f"file:///{sha}/a", None):  # fmt: skip
            with pytest.raises(InvalidKey):
                await subject.media.read(url)  # type: ignore[arg-type]  # that is the point
        assert await _blobs(subject) == []

    async def test_media_that_is_no_bytes_is_refused(self, subject: Subject) -> None:
        """Text most of all: it may be a path, and it may be a content."""
        for source in (
            "text",
            7,
            None,
            Path("no such file"),
            Path("a\0b"),
            Path("/"),
            io.StringIO("text"),
            ["text"],
            [b"a", "b"],
            object(),
        ):
            with pytest.raises(UnsupportedValue):
                await subject.media.store(source, "a")
        for content_type in ("", "a\r\nX-Evil: 1", "ä/b", None):
            with pytest.raises(UnsupportedValue):
                await subject.media.store(b"x", "a", content_type)  # type: ignore[arg-type]  # that is the point
        for metadata in ([1], {"a": object()}, {1: 2}):
            with pytest.raises(UnsupportedValue):
                await subject.media.store(b"x", "a", "a/b", metadata)  # type: ignore[arg-type]  # that is the point
        assert await _blobs(subject) == []

    async def test_media_stored_by_many_at_once(self, subject: Subject) -> None:
        """One blob is left, and every name."""
        content = b"crowd" * 200_000

        async def store(number: int) -> str:
            source: Any = content if number % 2 else [content[:7], content[7:]]
            return await subject.media.store(source, f"name-{number % 6}")

        urls = await subject.together([functools.partial(store, number) for number in range(12)])
        assert len(set(urls)) == 6
        assert len(await _blobs(subject)) == 1
        for url in urls:
            assert await subject.media.read(url, 0, 5) == b"crowd"

    async def test_media_stored_and_deleted_at_once(self, subject: Subject) -> None:
        """Whatever the order, a file that is listed can be read, and nothing else is left."""

        async def churn(number: int) -> None:
            for _ in range(4):
                url = await subject.media.store(b"churned", f"name-{number % 3}")
                await subject.media.delete(url)

        await subject.together([functools.partial(churn, number) for number in range(6)])
        left = await _listed(subject)
        for info in left:
            assert await subject.media.read(info.url) == b"churned"
        url = await subject.media.store(b"churned", "last")
        assert await subject.media.read(url) == b"churned"
        await subject.media.sweep(_NOW)
        assert await subject.media.read(url) == b"churned"
        assert len(await _blobs(subject)) == 1

    async def test_media_sweep_takes_only_what_nobody_names(self, subject: Subject) -> None:
        """What a killed process has left is a blob without a record."""
        url = await subject.media.store(b"kept", "a")
        streamed = await subject.media.store([b"streamed" * 1_000_000], "b")
        records = subject.media._records
        await subject.blobs.put(await records.new_blob("ab" * 32), b"left")
        await subject.blobs.put(await records.new_blob(), b"left by a stream")
        assert await subject.media.sweep() == 0  # they are young: their record may be about to be written
        assert await subject.media.sweep(_NOW) == 2
        assert await subject.media.sweep(_NOW) == 0
        assert await subject.media.read(url) == b"kept"
        assert await subject.media.read(streamed, 0, 8) == b"streamed"

    async def test_media_whose_blob_is_gone_is_stored_anew(self, subject: Subject) -> None:
        """A content is not taken for known because a record says so; its other names are whole again, too."""
        for source in (b"lost", [b"lost" * 2_000_000]):
            url = await subject.media.store(source, "a")
            await subject.blobs.delete_many(await _blobs(subject))
            with pytest.raises(NotFound):
                await subject.media.read(url)
            other = await subject.media.store(source, "b")
            assert (await subject.media.read(url, 0, 4), await subject.media.read(other, 0, 4)) == (b"lost", b"lost")
            assert len(await _blobs(subject)) == 1

    async def test_media_of_another_tenant(self, subject: Subject) -> None:
        """A URL is good for the tenant that stored, only."""
        url = await subject.media.store(b"mine", "a")
        other = subject.of_tenant(subject.fresh_name())
        assert await other.media.info(url) is None
        assert not await other.media.delete(url)
        with pytest.raises(NotFound):
            await other.media.read(url)
        assert await _listed(other) == []
        assert await other.media.store(b"mine", "a") == url
        assert await other.media.delete(url)
        assert await other.media.sweep(_NOW) == 0
        assert await subject.media.read(url) == b"mine"

    async def test_media_listing_in_pages(self, subject: Subject) -> None:
        """Each file once."""
        urls = {await subject.media.store(b"%d" % (number % 7), f"n{number}") for number in range(20)}
        assert {info.url for info in await _listed(subject, page=3)} == urls
        assert len(await _listed(subject, page=3)) == 20


class MediaInTransactionsContract(Contract, needs=[Capability.KV, Capability.BLOBS, Capability.TRANSACTIONS]):
    """What is undone is as if it had not been."""

    async def test_media_deleted_in_a_unit_that_is_undone(self, subject: Subject) -> None:
        """The content must still be there."""
        url = await subject.media.store(b"kept", "a")
        with pytest.raises(ZeroDivisionError):
            async with subject.face.transaction():
                assert await subject.media.delete(url)
                raise ZeroDivisionError
        assert await subject.media.read(url) == b"kept"

    async def test_media_deleted_in_a_unit_goes_with_the_next_sweep(self, subject: Subject) -> None:
        """Its content cannot go before the unit has ended."""
        url = await subject.media.store(b"gone", "a")
        async with subject.face.transaction():
            assert await subject.media.delete(url)
        assert await subject.media.info(url) is None
        assert await subject.media.sweep(_NOW) == 1
        assert await _blobs(subject) == []

    async def test_media_stored_in_a_unit_that_is_undone(self, subject: Subject) -> None:
        """Its record is gone, and the next sweep takes its content, even if it was the tenant's first."""
        with pytest.raises(ZeroDivisionError):
            async with subject.face.transaction():
                url = await subject.media.store(b"undone", "a")
                raise ZeroDivisionError
        assert await subject.media.info(url) is None
        url = await subject.media.store(b"later", "a")
        await subject.media.sweep(_NOW)
        assert await subject.media.read(url) == b"later"
        assert len(await _blobs(subject)) == 1
