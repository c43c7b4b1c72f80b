"""Disks that are full, files that are damaged or out of reach, and other processes' locks: typed errors, old data."""

import asyncio
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from ambidex import SyncStorage, UnifiedStorage, errors
from ambidex.core.runtime import deadline
from tests.torture.sqlite import command, integrity, rounds, run

pytestmark = pytest.mark.torture


def prepared(path: Path, **values: object) -> SyncStorage:
    storage = SyncStorage(f"sqlite:///{path}")
    storage.kv.set_many({"old": "data", **values})
    return storage


# In a process of its own: limits and user ids cannot be taken back.

FULL = """
    import asyncio, resource, sys
    from ambidex import UnifiedStorage, errors
    path = sys.argv[1]
    storage = UnifiedStorage(f"sqlite:///{path}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    told = []
    error = None
    for i in range(1000):
        try:
            storage.sync.kv.set(f"sync:{i}", b"x" * 5000)
        except errors.StorageFull as full:
            error = full
            break
        told.append(f"sync:{i}")
    assert error is not None and path in str(error) and error.applied == "no", error
    async def writers():
        async def one(task):
            for i in range(1000):
                try:
                    await storage.aio.kv.set(f"async:{task}:{i}", b"x" * 5000)
                except errors.StorageFull as full:
                    return path in str(full)
                told.append(f"async:{task}:{i}")
        assert all(await asyncio.gather(*map(one, range(8))))
        async def unit():
            async with storage.aio.transaction():
                await storage.aio.kv.set("unit:1", 1)
                await storage.aio.kv.set("unit:2", b"x" * 500_000)
        try:
            await unit()
        except errors.StorageFull as full:
            assert path in str(full)
        else:
            raise AssertionError("it fitted")
        assert await storage.aio.kv.get("unit:1") is None
        assert await storage.aio.kv.get("old") == "data"
    asyncio.run(writers())
    assert storage.sync.kv.get("old") == "data"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    storage.sync.kv.set("room", "again")
    assert all(len(value) == 5000 for value in storage.sync.kv.get_many(told).values())
    print(len(told) == len(storage.sync.kv.get_many(told)) > 10)
    storage.close()
"""


def test_a_full_disk_refuses_writes_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "full.db"
    prepared(path).close()
    assert run(FULL, path) == "True"
    assert integrity(path) == "ok"
    assert prepared(path).kv.get_many(["old", "room"]) == {"old": "data", "room": "again"}


def test_the_limit_shows_as_the_drivers_own_error_without_translation(tmp_path: Path) -> None:
    code = """
        import apsw, resource, sys
        conn = apsw.Connection(sys.argv[1])
        conn.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").fetchall()
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        try:
            for i in range(1000):
                conn.execute("INSERT INTO t VALUES (?)", (b"x" * 5000,))
        except apsw.Error as error:
            print(type(error).__module__)
    """
    assert run(code, tmp_path / "raw.db") == "apsw"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_small_disk_that_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        storage = prepared(disk / "small.db")
        with pytest.raises(errors.StorageFull, match=r"small\.db"):  # which write it is depends on the disk
            for i in range(1000):
                storage.kv.set(f"k{i}", b"x" * 5000)
        assert storage.kv.get("old") == "data"
        storage.close()
        assert SyncStorage(f"sqlite:///{disk}/small.db").kv.get("old") == "data"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


AS_NOBODY = """
    import asyncio, os, sys
    from ambidex import AsyncStorage, SyncStorage, errors
    path = sys.argv[1]
    with SyncStorage("sqlite://") as warm:  # import everything while this user may read the packages
        warm.kv.set("x", 1)
    import ambidex.runtime.aio, concurrent.futures.thread
    if os.geteuid() == 0:
        os.setgid(65534); os.setuid(65534)
    storage = SyncStorage(f"sqlite:///{path}", timeout=2)
    def read():
        try:
            return storage.kv.get("old")
        except errors.AmbidexError as error:
            assert path in str(error), error
            return type(error).__name__
    def write():
        try:
            storage.kv.set("new", 1)
        except errors.AmbidexError as error:
            assert path in str(error), error
            return type(error).__name__
    async def in_loop():
        aio = AsyncStorage(f"sqlite:///{path}", timeout=2)
        try:
            await aio.kv.set("new", 1)
        except errors.AmbidexError as error:
            return type(error).__name__
    print(read(), write(), read(), asyncio.run(in_loop()))
"""


@contextmanager
def for_nobody(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that an unprivileged user may enter (pytest's own are private)."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ambidex-test-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        folder.chmod(0o777)
        shutil.rmtree(folder)


def test_a_read_only_file_can_be_read_and_refuses_writes(tmp_path: Path) -> None:
    with for_nobody(tmp_path) as folder:
        prepared(folder / "kept.db").close()
        (folder / "kept.db").chmod(0o444)
        for _ in range(2):  # the second finds what SQLite left the first time
            assert run(AS_NOBODY, folder / "kept.db") == "data PermissionDenied data PermissionDenied"


def test_a_read_only_folder_can_be_read_and_refuses_writes(tmp_path: Path) -> None:
    with for_nobody(tmp_path) as folder:
        prepared(folder / "kept.db").close()
        (folder / "kept.db").chmod(0o666)
        folder.chmod(0o555)
        assert run(AS_NOBODY, folder / "kept.db") == "data PermissionDenied data PermissionDenied"


def test_an_unreadable_file_is_a_matter_of_permission(tmp_path: Path) -> None:
    with for_nobody(tmp_path) as folder:
        prepared(folder / "secret.db").close()
        (folder / "secret.db").chmod(0o000)
        denied = "PermissionDenied"
        assert run(AS_NOBODY, folder / "secret.db") == f"{denied} {denied} {denied} {denied}"


def test_garbage_instead_of_a_database_is_corrupted(tmp_path: Path) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"this is no database, " * 1000)
    storage = UnifiedStorage(f"sqlite:///{path}")
    with pytest.raises(errors.Corrupted, match=r"garbage\.db"):
        storage.sync.kv.get("old")
    with pytest.raises(errors.Corrupted, match=r"garbage\.db"):
        asyncio.run(storage.aio.kv.set("new", 1))
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("SELECT * FROM sqlite_master")


def test_flipped_pages_are_corrupted_and_never_wrong_values(tmp_path: Path) -> None:
    path = tmp_path / "flipped.db"
    values = {f"key{i:04}": f"value{i}" * 20 for i in range(2000)}
    prepared(path, **values).close()
    data = bytearray(path.read_bytes())
    for page in range(8, len(data) // 4096, 2):
        data[page * 4096 : page * 4096 + 200] = os.urandom(200)
    path.write_bytes(data)
    storage = UnifiedStorage(f"sqlite:///{path}")
    refused = 0
    for key, value in values.items():
        try:
            assert storage.sync.kv.get(key) in (value, None)
        except errors.Corrupted:
            refused += 1
    assert refused > 0
    with pytest.raises(errors.Corrupted, match=r"flipped\.db"):
        asyncio.run(storage.aio.kv.set_many(dict.fromkeys(values, 1)))
    storage.close()


@pytest.mark.parametrize("make", [lambda p: p / "no" / "such" / "x.db", lambda p: p], ids=["no folder", "a folder"])
def test_a_path_that_cannot_be_a_file_says_so(make: object, tmp_path: Path) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    storage = UnifiedStorage(f"sqlite:///{path}")
    with pytest.raises(errors.ConfigurationError, match=str(path)):
        storage.sync.kv.get("x")
    with pytest.raises(errors.ConfigurationError, match=str(path)):
        asyncio.run(storage.aio.kv.set("x", 1))


NO_DESCRIPTORS = """
    import asyncio, os, resource, sys, threading
    from ambidex import SyncStorage, errors
    path = sys.argv[1]
    storage = SyncStorage(f"sqlite:///{path}")
    assert storage.kv.get("old") == "data"
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files = []
    try:
        while True:
            files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    found = []
    def read():
        try:
            found.append(storage.kv.get("old"))
        except errors.AmbidexError as error:
            assert path in str(error), error
            found.append((type(error).__name__, error.retryable))
    thread = threading.Thread(target=read); thread.start(); thread.join()
    storage.kv.set("still", "writing")
    for file in files:
        os.close(file)
    thread = threading.Thread(target=read); thread.start(); thread.join()
    print(found, storage.kv.get("still"))
"""


def test_too_many_open_files_pass_when_some_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "files.db"
    prepared(path).close()
    assert run(NO_DESCRIPTORS, path) == "[('Overloaded', True), 'data'] writing"


# Locks of another process.

HOLDER = """
    import apsw, sys
    conn = apsw.Connection(sys.argv[1])
    conn.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.readline()
    conn.execute("ROLLBACK")
    print("free", flush=True)
"""


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command(HOLDER, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.communicate("\n")


def test_a_lock_of_another_process_ends_in_busy_at_the_deadline_and_reads_go_on(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    prepared(path).close()
    storage = UnifiedStorage(f"sqlite:///{path}")
    assert storage.sync.kv.get("old") == "data"

    # Of those that wait in a row, one may hear of the deadline before its turn came to hear of the lock.
    late = (errors.Busy, errors.DeadlineExceeded)

    async def in_loop() -> None:
        async def one() -> None:
            with deadline(0.3), pytest.raises(late, match=r"locked\.db"):
                await storage.aio.kv.set("new", 1)

        async def unit() -> None:
            with deadline(0.3), pytest.raises(late, match=r"locked\.db"):
                async with storage.aio.transaction():
                    raise AssertionError("it began")

        waiting = asyncio.gather(one(), one(), unit(), one())
        while not waiting.done():
            assert await storage.aio.kv.get("old") == "data"
            await asyncio.sleep(0.01)
        await waiting

    with held(path):
        start = time.monotonic()
        with deadline(0.3), pytest.raises(errors.Busy, match=r"locked\.db") as caught:
            storage.sync.kv.set("new", 1)
        assert caught.value.retryable
        asyncio.run(in_loop())
        assert storage.sync.kv.get("old") == "data"
        assert time.monotonic() - start < 5  # not the thirty seconds of the default timeout
    storage.sync.kv.set("new", 2)
    assert storage.sync.kv.get("new") == 2
    storage.close()


def test_sqlite_itself_reports_the_lock_at_once(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    prepared(path).close()
    with held(path), pytest.raises(apsw.BusyError):
        apsw.Connection(str(path)).execute("BEGIN IMMEDIATE")


def test_a_write_waits_for_the_lock_and_is_done_when_it_comes_free(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    prepared(path).close()
    storage = UnifiedStorage(f"sqlite:///{path}")
    storage.sync.kv.get("old")
    with held(path) as process:
        threads = [threading.Thread(target=storage.sync.kv.set, args=(f"k{i}", i)) for i in range(4)]
        for thread in threads:
            thread.start()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        for thread in threads:
            thread.join()
    assert storage.sync.kv.get_many([f"k{i}" for i in range(4)]) == {f"k{i}": i for i in range(4)}
    storage.close()


FRESH = """
    import sys
    from ambidex import SyncStorage
    storage = SyncStorage(f"sqlite:///{sys.argv[1]}")
    storage.kv  # imports everything
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(5):
        storage.kv.incr("count")
    print("done")
"""


def test_processes_may_open_a_fresh_file_at_once(tmp_path: Path) -> None:
    for turn in range(rounds(4, 50)):
        path = tmp_path / f"fresh{turn}.db"
        children = [
            subprocess.Popen(command(FRESH, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        assert [child.communicate()[0] for child in children] == ["done\n"] * 4
        with SyncStorage(f"sqlite:///{path}") as storage:
            assert storage.kv.get("count") == 20


def test_a_fresh_file_that_another_process_is_writing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "fresh.db"  # not yet in WAL mode, and SQLite's own waiting does not cover the change to it
    storage = UnifiedStorage(f"sqlite:///{path}")
    found: list[object] = []
    with held(path) as process:
        with pytest.raises(errors.Busy), deadline(0.2):
            storage.sync.kv.get("k")
        thread = threading.Thread(target=lambda: found.append(storage.sync.kv.incr("k")))
        thread.start()
        time.sleep(0.1)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        thread.join()
    assert found == [1]
    storage.close()
