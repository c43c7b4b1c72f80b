"""The tables: made once however many start at once, refused when newer, and freed of what has expired."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres.schema import MIGRATIONS
from ambidex.errors import ConfigurationError
from tests.services import postgres
from tests.services.postgres import PostgresServer


def _admin(place: str) -> psycopg.Connection:
    schema = place.rpartition("=")[2]
    return psycopg.connect(place.split("?", maxsplit=1)[0], autocommit=True, options=f"-c search_path={schema}")


def test_many_start_at_the_same_moment(place: str) -> None:
    storages = [UnifiedStorage(place) for _ in range(12)]

    def first(number: int) -> None:
        if number % 2:
            storages[number].sync.kv.incr("starts")
        else:
            asyncio.run(storages[number].aio.kv.incr("starts"))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(first, range(12)))
    assert storages[0].sync.kv.get("starts") == 12
    with _admin(place) as admin:
        versions = admin.execute("SELECT version FROM ambidex_schema ORDER BY version").fetchall()
        assert versions == [(number,) for number in range(1, len(MIGRATIONS) + 1)]
    for storage in storages:
        storage.close()


def test_a_newer_database_is_refused(place: str) -> None:
    storage = UnifiedStorage(place)
    storage.sync.kv.set("key", 1)
    storage.close()
    with _admin(place) as admin:
        admin.execute("INSERT INTO ambidex_schema VALUES (99)")
    with pytest.raises(ConfigurationError, match="upgrade"):
        UnifiedStorage(place).sync.kv.get("key")


def test_a_user_who_may_not_create_tables_can_use_them(place: str) -> None:
    UnifiedStorage(place).sync.kv.set("key", 1)
    schema = place.rpartition("=")[2]
    with _admin(place) as admin:
        admin.execute("DROP ROLE IF EXISTS modest")
        admin.execute("CREATE ROLE modest LOGIN")
        admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO modest")
        admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO modest")
    storage = UnifiedStorage(place.replace("postgres@", "modest@"))
    assert storage.sync.kv.incr("key") == 2
    storage.close()
    with _admin(place) as admin:
        admin.execute("DROP OWNED BY modest")
        admin.execute("DROP ROLE modest")


def test_prefixes_are_found_by_the_index(storage: UnifiedStorage, place: str) -> None:
    storage.sync.kv.set_many({f"k{number}": 1 for number in range(2000)})
    with _admin(place) as admin:
        admin.execute("ANALYZE ambidex_kv")
        plan = admin.execute("EXPLAIN SELECT key FROM ambidex_kv WHERE key >= 'kv:a' AND key < 'kv:b'").fetchall()
    assert "Index" in str(plan)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_expired_rows_are_reclaimed_in_bounded_steps(
    storage: UnifiedStorage, place: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ambidex.backends.postgres.database._MAINTENANCE_SECONDS", 0.0)
    storage.sync.kv.set_many({f"gone{number}": 1 for number in range(1200)}, ttl=0.001)
    storage.sync.events.append("stream", 1, ttl=0.001)

    def rows() -> tuple[int, int]:
        with _admin(place) as admin:
            row = admin.execute("SELECT (SELECT count(*) FROM ambidex_kv), (SELECT count(*) FROM ambidex_events)")
            kept, events = row.fetchone() or (0, 0)
            return kept, events

    before = rows()[0]

    async def write() -> None:
        await storage.aio.kv.set("new", 1)
        await asyncio.sleep(0.3)
        await storage.aio.close()

    counts = [before]
    for _ in range(4):
        if mode == "async":
            asyncio.run(write())
        else:
            storage.sync.kv.set("new", 1)
        counts.append(rows()[0])
    assert all(earlier - later <= 1000 for earlier, later in pairwise(counts))
    assert rows() == (1, 0)


def test_a_server_that_forgets_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    if reason := postgres.unavailable("wheel"):
        pytest.skip(reason)
    with PostgresServer("wheel", settings={"fsync": "off", "synchronous_commit": "off"}) as server:
        with caplog.at_level(logging.WARNING, "ambidex"):
            storage = UnifiedStorage(server.url)
            storage.sync.kv.set("key", 1)
            asyncio.run(storage.aio.kv.get("key"))
            storage.close()
            relaxed = UnifiedStorage(server.url, durability="relaxed")
            relaxed.sync.kv.set("key", 1)
            relaxed.close()
        (record,) = [record for record in caplog.records if "acknowledged" in record.getMessage()]
        assert "fsync=off" in record.getMessage()
