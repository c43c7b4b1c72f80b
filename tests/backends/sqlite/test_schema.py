"""Migrations forward, files from the future, and the clearing of what has expired."""

import threading
from pathlib import Path
from typing import Any

import apsw
import pytest

from ambidex import UnifiedStorage
from ambidex.backends.sqlite import SqliteBackend, schema
from ambidex.core.dual import drive
from ambidex.core.ports import When
from ambidex.errors import ConfigurationError
from tests.backends.sqlite.support import backend, database


def tables(path: Path) -> set[tuple[str, str]]:
    conn = apsw.Connection(str(path))
    found = conn.execute(
        "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name LIKE 'ambidex%'"
    ).fetchall()
    conn.close()
    return set(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", range(len(schema.MIGRATIONS) + 1))
def test_a_file_of_any_older_version_becomes_a_current_one(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        conn = apsw.Connection(str(tmp_path / "old.db"))
        schema.migrate(conn, "old.db")
        if version:
            conn.execute("INSERT INTO ambidex_kv VALUES ('kv:::old', 1, 1, NULL)")
        conn.close()
    for name in ("old.db", "new.db"):
        with UnifiedStorage(f"sqlite:///{tmp_path}/{name}") as storage:
            assert storage.kv.get("old") == (1 if version and name == "old.db" else None)
    assert tables(tmp_path / "old.db") == tables(tmp_path / "new.db")


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with UnifiedStorage(f"sqlite:///{tmp_path}/kept.db") as storage:
        storage.kv.set("k", 1)
    before = tables(tmp_path / "kept.db")
    with monkeypatch.context() as broken:
        broken.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE ambidex_x (y)", "nonsense")))
        with pytest.raises(Exception, match=r"kept\.db"):
            UnifiedStorage(f"sqlite:///{tmp_path}/kept.db").kv.get("k")
    assert tables(tmp_path / "kept.db") == before
    with UnifiedStorage(f"sqlite:///{tmp_path}/kept.db") as storage:
        assert storage.kv.get("k") == 1


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "future.db"
    with UnifiedStorage(f"sqlite:///{path}") as storage:
        storage.kv.set("k", 1)
    conn = apsw.Connection(str(path))
    conn.execute("INSERT INTO ambidex_schema VALUES (999, 'later')")
    conn.close()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"future\.db has schema version 999.*upgrade ambidex"):
            UnifiedStorage(f"sqlite:///{path}").kv.get("k")


def test_many_threads_may_open_a_fresh_file_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def open_() -> None:
        try:
            barrier.wait()
            with UnifiedStorage(f"sqlite:///{tmp_path}/fresh.db") as storage:
                storage.kv.incr("n")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with UnifiedStorage(f"sqlite:///{tmp_path}/fresh.db") as storage:
        assert storage.kv.get("n") == 8


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteBackend:
    return backend(tmp_path / "reclaim.db")


def count(made: SqliteBackend, table: str) -> int:
    ((rows,),) = drive(made.blocking.rows(f"SELECT count(*) FROM {table}"))
    return int(rows)


def maintain(made: SqliteBackend) -> None:
    """Write once, at a moment when housekeeping is due."""
    database(made).writer._maintenance = 0.0
    drive(made.blocking.kv.put("tick", 1, None, When.ALWAYS))


def expire(made: SqliteBackend, table: str, what: str = "true") -> None:
    drive(made.blocking.write(f"UPDATE {table} SET expires = 1 WHERE {what}"))


def test_expired_keys_are_deleted_in_bounded_steps_and_living_ones_are_not(sqlite: SqliteBackend) -> None:
    keys: list[Any] = [(f"k{i}", 1) for i in range(1200)]
    drive(sqlite.blocking.kv.put_many(keys, 3_600_000))
    drive(sqlite.blocking.kv.put("living", 1, 3_600_000, When.ALWAYS))
    expire(sqlite, "ambidex_kv", "key LIKE 'k%'")
    left = []
    for _ in range(4):
        maintain(sqlite)
        left.append(count(sqlite, "ambidex_kv") - 2)
    assert left == [700, 200, 0, 0]
    assert drive(sqlite.blocking.kv.get("living")) == 1


def test_events_of_expired_streams_are_swept_and_places_never_repeat(sqlite: SqliteBackend) -> None:
    log = sqlite.blocking.log
    for name in ("dead", "empty", "living"):
        drive(log.append(name, [b"x"] * 700, 3_600_000))
    drive(log.trim("empty", 0))
    expire(sqlite, "ambidex_streams", "stream <> 'living'")
    left = []
    for _ in range(3):
        maintain(sqlite)
        left.append(count(sqlite, "ambidex_events") - 700)
    assert left == [200, 0, 0]
    # A stream that is dead and empty is not looked at again.
    assert drive(sqlite.blocking.rows("SELECT stream FROM ambidex_streams WHERE expires > 0")) == [("living",)]
    assert drive(log.length("dead")) == 0
    assert drive(log.tail("dead", 5)) == []
    assert drive(log.expire("dead", 1000)) is False
    assert drive(log.append("dead", [b"y"], None)) == [701]
    assert [event.seq for event in drive(log.tail("dead", 5))] == [701]
    assert drive(log.length("living")) == 700


def test_the_search_for_expired_streams_uses_the_index(sqlite: SqliteBackend) -> None:
    drive(sqlite.blocking.open())
    plan = drive(sqlite.blocking.rows(f"EXPLAIN QUERY PLAN {schema._DEAD}"))
    assert "ambidex_streams_expires" in str(plan)


def test_a_backlog_is_worked_off_soon(sqlite: SqliteBackend) -> None:
    conn = database(sqlite)._connect(lambda _tries: True)
    assert schema.reclaim(conn) == 1.0
    conn.executemany("INSERT INTO ambidex_kv VALUES (?, 1, 1, 1)", [(str(i),) for i in range(600)]).fetchall()
    assert schema.reclaim(conn) < 0.1
    assert schema.reclaim(conn) == 1.0
    conn.close()
