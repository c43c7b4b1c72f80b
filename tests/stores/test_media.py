"""Files by content: memory that does not grow with them, killed processes, views, and where they go by default.

What holds on every backend is in :mod:`ambidex.testing.media`.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage, errors, register_backend
from ambidex.backends.memory import MemoryBackend
from ambidex.core.ports import Capability
from ambidex.stores.media import BlockingMedia, DetectingMedia, Media
from tests.services import S3Server, Service, s3

LONG = os.environ.get("AMBIDEX_TORTURE") == "long"
MEBI = 1024 * 1024
GROWTH = 64 * MEBI


@pytest.fixture(scope="module", params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the contents go: "" is beside the database. The server is one that may forget a gigabyte."""
    if request.param == "local":
        yield ""
    elif reason := s3.unavailable():
        pytest.skip(reason)
    else:
        with S3Server() as server:
            yield server.url


# Stores and reads SIZE MiB in a process of its own and prints by how many bytes its memory peaked above the start.
PEAK = """
import asyncio, hashlib, sys
from ambidex import UnifiedStorage

url, mode, shape, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
storage = UnifiedStorage("sqlite:///" + sys.argv[5], blobs=url or None, timeout=600)

class File:  # as long as it is said to be, without a file
    def __init__(self):
        self.at = 0
    def seekable(self):
        return shape == "file"
    def tell(self):
        return self.at
    def seek(self, at):
        self.at = at
    def read(self, most):
        most = min(most, size * 2**20 - self.at)
        self.at += most
        return (self.at // 2**16).to_bytes(8) * (most // 8)

async def stream():
    file = File()
    while piece := file.read(2**20):
        yield piece

def source():
    if shape == "whole":
        return File().read(size * 2**20)
    return stream() if shape == "stream" else File()

def peak():  # not of getrusage: what that says a process has from its parent
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))

async def main():
    media = storage.aio.media
    await media.read(await media.store(b"warm", "warm"))
    base = peak()
    url = await media.store(source(), "large")
    sha = hashlib.sha256()
    async for piece in media.stream(url):
        sha.update(piece)
    assert sha.hexdigest() in url
    await media.delete(url)
    return peak() - base

def main_blocking():
    media = storage.sync.media
    media.read(media.store(b"warm", "warm"))
    base = peak()
    url = media.store(source(), "large")
    sha = hashlib.sha256()
    for piece in media.stream(url):
        sha.update(piece)
    assert sha.hexdigest() in url
    media.delete(url)
    return peak() - base

print(asyncio.run(main()) if mode == "async" else main_blocking())
"""


def peak(folder: Path, url: str, mode: str, shape: str, size: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, url, mode, shape, str(size), str(folder / "peak.db")],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.torture
@pytest.mark.timeout(1000 if LONG else 120)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not say how much memory peaked")
@pytest.mark.parametrize("shape", ["file", "stream"])
@pytest.mark.parametrize("mode", ["async", "blocking"])
def test_memory_does_not_grow_with_a_file(place: str, mode: str, shape: str, tmp_path: Path) -> None:
    size = 1024 if LONG else 80  # more than the bound
    grown = peak(tmp_path, place, mode, shape, size)
    assert grown < GROWTH, f"{grown / MEBI:.1f} MiB for {size} MiB"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not say how much memory peaked")
def test_the_measure_shows_what_is_held_whole(tmp_path: Path) -> None:
    assert peak(tmp_path, "", "blocking", "whole", 80) > GROWTH


# Stores until it is killed; says which URLs it was given.
ENDLESS = """
import itertools, sys
from ambidex import UnifiedStorage

storage = UnifiedStorage("sqlite:///" + sys.argv[1], blobs=sys.argv[2] or None).sync
for number in itertools.count(int(sys.argv[3])):
    whole = b"%08d" % number * 700_000
    source = whole if number % 2 else [whole[:1_000_000], whole[1_000_000:]]
    print(storage.media.store(source, f"{number}.bin"), flush=True)
"""


@pytest.mark.torture
def test_a_killed_process_leaves_no_half_file(place: str, tmp_path: Path) -> None:
    database, acknowledged = tmp_path / "media.db", []
    for number in range(50 if LONG else 5):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(database), place, str(number * 1000)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            acknowledged.append(process.stdout.readline().strip())
            time.sleep(0.011 * (number % 10))
            os.kill(process.pid, signal.SIGKILL)
            acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    media = UnifiedStorage(f"sqlite:///{database}", blobs=place or None).sync.media
    infos = {info.url: info for info in media.list()}
    assert set(acknowledged) <= set(infos)
    for info in infos.values():
        assert media.read(info.url) == b"%08d" % int(info.name.split(".")[0]) * 700_000
    media.sweep(timedelta(0))
    if not place:
        kept = [name for _, _, names in os.walk(f"{database}-blobs") for name in names]
        assert len(kept) == len(infos)
    for info in infos.values():
        assert media.read(info.url, 0, 8) == b"%08d" % int(info.name.split(".")[0])


@contextmanager
def bare(capabilities: frozenset[Capability]) -> Iterator[str]:
    """A backend without blobs, as servers of keys and rows are."""

    class Bare(MemoryBackend):
        pass

    Bare.capabilities = capabilities
    register_backend("bare", Bare)
    yield "bare://"


def test_a_main_backend_without_blobs_gets_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "a 100% folder?"))
    with bare(frozenset({Capability.KV})) as url:
        storage = UnifiedStorage(url)
        stored = storage.sync.store_media(b"x", "a", "text/plain")
        assert storage.sync.media.read(stored) == b"x"

        async def read() -> bytes:
            return await storage.aio.media.read(stored)

        assert asyncio.run(read()) == b"x"
        assert "blobs" not in storage.health_check()
    found = [name for _, _, names in os.walk(tmp_path / "a 100% folder?" / "ambidex" / "blobs") for name in names]
    assert len(found) == 1
    other = UnifiedStorage("memory://", blobs=f"file://{tmp_path}/elsewhere").sync
    other.store_media(b"y", "b", "text/plain")
    assert (tmp_path / "elsewhere").is_dir()


def test_redis_with_an_object_store(redis_server: Service, s3_server: Service) -> None:
    storage = UnifiedStorage(redis_server.url, blobs=s3_server.url).tenant("media-test")
    url = storage.sync.store_media(b"x", "a", "text/plain", {"n": 1})

    async def use() -> None:
        assert await storage.media.read(url) == b"x"
        assert [info.metadata async for info in storage.aio.media.list()] == [{"n": 1}]
        assert await storage.media.delete(url) is True

    asyncio.run(use())
    assert storage.sync.media.info(url) is None
    storage.close()


def test_databases_that_share_a_place_do_not_sweep_each_other(tmp_path: Path) -> None:
    one = UnifiedStorage(f"sqlite:///{tmp_path}/one.db", blobs=f"file://{tmp_path}/shared").sync
    other = UnifiedStorage(f"sqlite:///{tmp_path}/other.db", blobs=f"file://{tmp_path}/shared").sync
    url = one.media.store(b"x", "a")
    assert other.media.sweep(timedelta(0)) == 0
    assert one.media.read(url) == b"x"


def test_three_views(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/views.db")
    assert type(storage.sync.media) is BlockingMedia
    assert type(storage.aio.media) is Media
    assert type(storage.media) is DetectingMedia
    assert repr(storage.tenant("acme").media) == "DetectingMedia(tenant='acme')"
    url = storage.media.store(b"x", "a")

    async def use() -> Any:
        return await storage.media.read(url), [piece async for piece in storage.media.stream(url)]

    assert asyncio.run(use()) == (b"x", [b"x"])
    assert list(storage.media.stream(url)) == [b"x"]
    storage.close()


def test_a_private_database_keeps_its_files_to_itself() -> None:
    storage = UnifiedStorage("sqlite:///:memory:").sync
    url = storage.media.store(b"x", "a")
    child = os.fork()
    if child == 0:
        try:
            same = storage.media.read(url) == b"x"
            storage.media.delete(url)
            os._exit(0 if same and storage.media.info(url) is None else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.media.read(url) == b"x"
    storage.close()


def test_a_file_that_changes_while_it_is_stored_is_not_stored() -> None:
    class Changing:
        def __init__(self) -> None:
            self.reads = 0

        def seekable(self) -> bool:
            return True

        def tell(self) -> int:
            return 0

        def seek(self, at: int) -> None:
            self.left = 1

        def read(self, most: int) -> bytes:
            self.reads += 1
            self.left -= 1
            return b"%d" % self.reads if self.left >= 0 else b""

    media = UnifiedStorage("memory://").sync.media
    with pytest.raises(errors.Conflict):
        media.store(Changing(), "a")
    assert list(media.list()) == []


def test_presigning_what_is_local_says_what_to_do() -> None:
    media = UnifiedStorage("memory://").sync.media
    with pytest.raises(errors.CapabilityMissing, match="blobs='s3://"):
        media.presign(media.store(b"x", "a"))


@pytest.mark.parametrize("older_than", [-1, timedelta(-1), 3600, None])
def test_sweeping_with_an_age_that_is_none(older_than: Any) -> None:
    with pytest.raises(errors.InvalidQuery):
        UnifiedStorage("memory://").sync.media.sweep(older_than)
