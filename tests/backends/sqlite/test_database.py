"""Where a database lives: paths with any character, private databases, the default's folder; opening and closing."""

import asyncio
import os
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from ambidex import UnifiedStorage
from tests.backends.sqlite.support import backend, database

NAMES = ["with space.db", "a?b.db", "a#b.db", "a%41b.db", "ünïcödé 数据.db", "a&b=c.db", "quo'te\".db", "a;b.db"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_may_hold_any_character(name: str, tmp_path: Path) -> None:
    url = f"sqlite:///{quote(str(tmp_path / name))}"
    with UnifiedStorage(url) as storage:
        storage.kv.set("k", name)
    assert os.listdir(tmp_path) == [name]
    assert asyncio.run(_get(url)) == name


async def _get(url: str) -> object:
    async with UnifiedStorage(url) as storage:
        return await storage.kv.get("k")


@pytest.mark.parametrize("name", ["a?b.db", "a#b.db", "a%41b.db"])
def test_such_a_path_can_be_read_from_a_read_only_folder_too(name: str, tmp_path: Path) -> None:
    from ambidex.backends.sqlite import connection

    with UnifiedStorage(f"sqlite:///{quote(str(tmp_path / name))}") as storage:
        storage.kv.set("k", 1)
    conn = connection.open_immutable(str(tmp_path / name))
    assert conn.execute("SELECT value FROM ambidex_kv").fetchall() == [(1,)]
    conn.close()


def test_a_relative_path_stays_where_it_was_first_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = UnifiedStorage("sqlite:///relative.db")
    storage.kv.set("k", 1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert storage.kv.get("k") == 1
    storage.close()
    assert storage.kv.get("k") == 1
    storage.close()
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite://:memory:"])
def test_a_private_database_is_shared_by_threads_and_loops_of_its_object_only(url: str) -> None:
    one, two = UnifiedStorage(url), UnifiedStorage(url)
    one.kv.set("k", 1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(one.kv.get("k")))
    thread.start()
    thread.join()

    async def get() -> object:
        return await one.kv.get("k")

    assert [*found, asyncio.run(get())] == [1, 1]
    assert two.kv.get("k") is None
    one.close()
    assert one.kv.get("k") is None
    one.close()
    two.close()


def test_a_private_database_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    closed, dropped = UnifiedStorage("sqlite://"), UnifiedStorage("sqlite://")
    closed.kv.set("k", 1)
    dropped.kv.set("k", 1)
    assert len(os.listdir(tmp_path)) == 2
    closed.close()
    dropped.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["plain", "with # and %"])
def test_the_default_makes_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMBIDEX_URL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / name))
    with UnifiedStorage() as storage:
        storage.kv.set("k", 1)
    assert (tmp_path / name / "ambidex" / "ambidex.db").exists()


def test_a_url_with_a_stray_fragment_is_refused_rather_than_cut_short(tmp_path: Path) -> None:
    from ambidex.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="%23"):
        UnifiedStorage(f"sqlite:///{tmp_path}/a#b.db")


def test_threads_that_end_take_their_connections_along(tmp_path: Path) -> None:
    made = backend(tmp_path / "threads.db")
    db = database(made)
    with UnifiedStorage(f"sqlite:///{tmp_path}/threads.db") as storage:
        storage.kv.set("k", 1)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            thread = threading.Thread(target=storage.kv.get, args=("k",))
            thread.start()
            thread.join()
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert db.readers.all() == []


def test_closing_while_others_read_and_write_harms_nobody(tmp_path: Path) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/closing.db", durability="relaxed")
    errors: list[BaseException] = []
    stop = threading.Event()

    def use(me: int) -> None:
        i = 0
        try:
            while not stop.is_set():
                i += 1
                storage.sync.kv.set(f"{me}", i)
                assert storage.sync.kv.get(f"{me}") == i
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        storage.close()
    stop.set()
    for thread in threads:
        thread.join()
    storage.close()
    assert errors == []
