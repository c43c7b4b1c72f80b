"""What is particular to blobs in local files: links, flushing, leftovers, full disks, and calls that are given up."""

import asyncio
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from ambidex import UnifiedStorage, deadline, errors
from ambidex.backends.files.blobs import AsyncFileBlobs, BlockingFileBlobs
from ambidex.backends.files.tree import Tree
from ambidex.core.dual import drive


def tree(root: Path, *, durable: bool = False) -> Tree:
    return Tree(lambda: str(root), durable)


def put(where: Tree, key: str, data: bytes) -> None:
    draft = where.begin()
    draft.write(data)
    draft.publish(key, "", {})


def drafts(root: Path) -> list[str]:
    return os.listdir(root / ".incoming") if (root / ".incoming").exists() else []


def wait_for(condition: object, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a plain function
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_folder_exchanged_for_a_link_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    put(tree(root), "a/b/x", b"mine")
    (root / "a" / "b").rename(root / "moved")
    (root / "a" / "b").symlink_to(outside)
    for attempt in (
        lambda: tree(root).open("a/b/secret").read(0, None),
        lambda: put(tree(root), "a/b/planted", b"x"),
        lambda: tree(root).delete(["a/b/secret"]),
        lambda: tree(root).head("a/b/secret"),
        lambda: tree(root).list("a/b/", "", 10),
    ):
        with pytest.raises(errors.PermissionDenied, match="link"):
            attempt()
    assert tree(root).list("", "", 10) == tree(root).list("moved/", "", 10)
    assert sorted(os.listdir(outside)) == ["secret"]


def test_a_blob_exchanged_for_a_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret"
    outside.write_bytes(b"secret")
    put(tree(root), "a/x", b"mine")
    (root / "a" / "x").unlink()
    (root / "a" / "x").symlink_to(outside)
    with pytest.raises(errors.PermissionDenied, match="link"):
        tree(root).open("a/x").read(0, None)
    assert tree(root).head("a/x") is None
    put(tree(root), "a/x", b"replaces the link")
    assert outside.read_bytes() == b"secret"
    assert tree(root).open("a/x").read(0, None) == b"replaces the link"


def test_a_pipe_in_the_place_of_a_blob_does_not_hang_the_reader(tmp_path: Path) -> None:
    put(tree(tmp_path), "a/x", b"mine")
    (tmp_path / "a" / "x").unlink()
    os.mkfifo(tmp_path / "a" / "x")
    with pytest.raises(errors.NotFound):
        tree(tmp_path).open("a/x").read(0, None)


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_blob_is_flushed_before_it_is_seen(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tree(tmp_path), "a/b", b"makes the folders")
    seen: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushing(handle: int) -> None:
        seen.append("flush folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "flush file")
        fsync(handle)

    def renaming(*args: object, **how: object) -> None:
        seen.append("rename")
        rename(*args, **how)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "rename", renaming)
    put(tree(tmp_path, durable=durable), "a/c", b"x")
    assert seen == (["flush file", "rename", "flush folder"] if durable else ["rename"])


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    put(tree(tmp_path / "root"), "a/b", b"x")
    for path in (tmp_path / "root", tmp_path / "root" / "a", tmp_path / "root" / "a" / "b"):
        assert path.stat().st_mode & 0o077 == 0


def test_tidy_removes_old_drafts_only(tmp_path: Path) -> None:
    old, young = tree(tmp_path).begin(), tree(tmp_path).begin()
    old.write(b"old")
    os.utime(tmp_path / ".incoming" / drafts(tmp_path)[0], (1, 1))
    young.write(b"young")
    assert tree(tmp_path).tidy(3600) == 1
    young.publish("y", "", {})
    assert tree(tmp_path).open("y").read(0, None) == b"young"


def test_a_reader_keeps_what_is_deleted_meanwhile(tmp_path: Path) -> None:
    put(tree(tmp_path), "x", b"0123456789")
    reader = tree(tmp_path).open("x")
    assert reader.read(0, 5) == b"01234"
    tree(tmp_path).delete(["x"])
    assert reader.read(5, 5) == b"56789"
    reader.close()
    with pytest.raises(errors.Closed):
        reader.read(0, 1)


def test_no_space_is_storage_full_and_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from ambidex import UnifiedStorage, errors
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
storage = UnifiedStorage("memory://", blobs="file://{tmp_path}/blobs").sync
for source in (b"x" * 3_000_000, [b"x" * 1_000_000] * 9):
    try:
        storage.media.store(source, "big")
    except errors.StorageFull as error:
        print(error.applied)
print(storage.media.read(storage.media.store(b"small", "small")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["no", "no", "b'small'"]
    assert drafts(tmp_path / "blobs") == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2_000_000


def test_a_folder_that_refuses_is_permission_denied(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with UnifiedStorage("memory://") as _:
        storage = UnifiedStorage("memory://", blobs=f"file://{tmp_path}/file").sync
        with pytest.raises(errors.PermissionDenied):
            storage.media.store(b"x", "a")
        assert storage.health_check()["blobs"] is False


@pytest.mark.parametrize("url", ["file://relative/path", "file:///", "file:///a?x=1"])
def test_urls_that_cannot_work(url: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        UnifiedStorage("memory://", blobs=url).sync.media.store(b"x", "a")


async def endless() -> AsyncGenerator[bytes, None]:
    while True:
        yield b"x" * 100_000
        await asyncio.sleep(0.001)


def test_a_cancelled_write_leaves_nothing(tmp_path: Path) -> None:
    blobs = AsyncFileBlobs(lambda: str(tmp_path), durable=True, timeout=30)

    async def main() -> None:
        for pause in (0, 0.001, 0.02, 0.05):
            writing = asyncio.ensure_future(blobs.put("a/x", endless()))
            await asyncio.sleep(pause)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing

    handles = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    wait_for(lambda: not drafts(tmp_path) and len(os.listdir("/proc/self/fd")) <= handles)
    assert not (tmp_path / "a" / "x").exists()


def test_a_disk_that_hangs_does_not_hold_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, release, fsync = AsyncFileBlobs(lambda: str(tmp_path), durable=True, timeout=30), threading.Event(), os.fsync

    def hanging(handle: int) -> None:
        release.wait(30)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", hanging)

    async def main() -> None:
        began = time.monotonic()
        with deadline(0.2), pytest.raises(errors.DeadlineExceeded):
            await blobs.put("x", b"data")
        assert time.monotonic() - began < 10
        release.set()

    asyncio.run(main())


def test_a_deadline_that_has_passed_writes_nothing(tmp_path: Path) -> None:
    blobs = BlockingFileBlobs(lambda: str(tmp_path / "root"), durable=True, timeout=30)
    with deadline(-1), pytest.raises(errors.DeadlineExceeded) as caught:
        drive(blobs.put("x", b"data"))
    assert caught.value.applied == "no"
    assert not (tmp_path / "root").exists()
