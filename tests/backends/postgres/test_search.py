"""Search on PostgreSQL: exact whatever writers do at the same time, and the same before and after its upkeep."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres import search, search_graph, search_schema, search_upkeep, search_vectors, search_words
from ambidex.backends.postgres.database import Database
from ambidex.backends.postgres.search_vectors import unit_half
from ambidex.core.ports import Capability, IndexItem
from ambidex.errors import AmbidexError, Conflict
from tests.services.handle import Service

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrt"]


def some(numbers: range, seed: int = 0, size: int = 16) -> list[IndexItem]:
    chance = random.Random(seed)
    return [
        IndexItem(
            str(n),
            chance.choice(VOCABULARY),
            " ".join(chance.choices(VOCABULARY, k=12)),
            {"n": n % 100},
            [chance.gauss(0, 1) for _ in range(size)],
        )
        for n in numbers
    ]


@contextmanager
def admin(place: str) -> Iterator[psycopg.Connection]:
    """A connection of our own to the schema of a place."""
    url, _, schema = place.partition("?schema=")
    with psycopg.connect(url, autocommit=True, options=f"-c search_path={schema},public") as connection:
        yield connection


def database(storage: UnifiedStorage) -> Database:
    found: Any = storage._core.leaf(Capability.SEARCH, True)
    shared: Database = getattr(found, "_leaf", found)._db
    return shared


def check(place: str) -> int:
    """Compare everything that is derived with the texts; return how many items there are."""
    with admin(place) as connection:
        rows = connection.execute(
            "SELECT i.space, i.item, i.words, t.title, t.text"
            " FROM ambidex_items i LEFT JOIN ambidex_texts t USING (item)"
        ).fetchall()
        postings = connection.execute("SELECT space, term, docs FROM ambidex_postings").fetchall()
        gone = frozenset(connection.execute("SELECT space, item FROM ambidex_gone").fetchall())
        sums = connection.execute(
            "SELECT space, sum(items), sum(words) FROM ambidex_changes GROUP BY space HAVING sum(items) <> 0"
        ).fetchall()
        ((texts,),) = connection.execute("SELECT count(*) FROM ambidex_texts").fetchall()
        ((halves,),) = connection.execute("SELECT to_regclass('ambidex_vectors') IS NOT NULL").fetchall()
        if halves:
            assert connection.execute(
                "SELECT (SELECT array_agg(item ORDER BY item) FROM ambidex_vectors) IS NOT DISTINCT FROM"
                " (SELECT array_agg(item ORDER BY item) FROM ambidex_texts WHERE vector IS NOT NULL)"
            ).fetchall() == [(True,)]
    expected: Counter[tuple[int, int, int]] = Counter()
    lengths: dict[int, list[int]] = {}
    for space, item, words, title, text in rows:
        bag = search_words.bag_of(title, text)
        assert bag.words == words
        lengths.setdefault(space, []).append(words)
        expected.update((space, term, item << 24 | words << 8 | count) for term, count in bag.counts.items())
    found = Counter(
        (space, term, doc)
        for space, term, docs in postings
        for doc in search_words._stored(docs)
        if (space, doc >> 24) not in gone
    )
    assert found == expected
    assert texts == len(rows)
    assert {space: (items, words) for space, items, words in sums} == {
        space: (len(words), sum(words)) for space, words in lengths.items()
    }
    return len(rows)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upkeep happens where a test asks for it."""
    monkeypatch.setattr(search_upkeep, "_WRITES", math.inf)
    monkeypatch.setattr(search_upkeep, "_ITEMS", math.inf)
    monkeypatch.setattr(search_upkeep, "_QUERIES", math.inf)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upkeep finds work where there is little."""
    monkeypatch.setattr(search_upkeep, "_MANY_BATCHES", 3)
    monkeypatch.setattr(search_upkeep, "_MANY_GONE", 5)
    monkeypatch.setattr(search_schema, "LEVELS", (2, 8, 30))


def has_vectors(place: str) -> bool:
    with admin(place) as connection:
        return bool(connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchall())


def random_writes(storage: UnifiedStorage, seed: int, turns: int) -> None:
    """Add, replace and remove items that others write, too."""
    chance = random.Random(seed)
    for turn in range(turns):
        first = chance.randrange(40)
        kind = chance.randrange(6)
        if kind == 0:
            storage.sync.index.remove(*(str(chance.randrange(60)) for _ in range(4)))
        elif kind == 1:
            storage.sync.index.update_metadata([str(first), str(first + 1)], {"turn": turn})
        else:
            items = some(range(first, first + chance.randrange(1, 15)), seed * 1000 + turn)
            chance.shuffle(items)
            storage.sync.index.add_many(items)


def test_sixteen_writers_of_one_namespace(storage: UnifiedStorage, place: str, eager: None) -> None:
    storage.sync.index.add("0", "first")
    with ThreadPoolExecutor(17) as pool:
        writers = [pool.submit(random_writes, storage, seed, 12) for seed in range(16)]
        while not all(writer.done() for writer in writers):
            database(storage).upkeep.look_after(space_of(place))
        for writer in writers:
            writer.result()
    assert check(place) == storage.sync.index.count() > 0
    database(storage).upkeep.close()


def space_of(place: str) -> str:
    """The one namespace that a test has written to."""
    with admin(place) as connection:
        ((namespace,),) = connection.execute("SELECT namespace FROM ambidex_spaces").fetchall()
    return str(namespace)


def test_tasks_write_together(storage: UnifiedStorage, place: str) -> None:
    async def main() -> None:
        async with storage as aio:
            await asyncio.gather(
                *(aio.index.add_many(some(range(n, n + 10), seed=n)) for n in range(0, 100, 5)),
                *(aio.index.remove(str(n)) for n in range(0, 100, 7)),
            )

    asyncio.run(main())
    assert check(place) > 80


def test_units_of_work_on_one_namespace_do_not_meet(storage: UnifiedStorage, place: str) -> None:
    storage.sync.index.add_many(some(range(5)))
    inside, go = threading.Barrier(3), threading.Barrier(3)

    def unit(first: int) -> None:
        with storage.sync.transaction():
            storage.sync.index.add_many(some(range(first, first + 5), seed=first))
            inside.wait(20)
            storage.sync.index.remove(str(first))
            assert {hit.id for hit in storage.sync.index.search("", vector=[1.0] * 16, top_k=100)} >= {str(first + 1)}
            go.wait(20)

    with ThreadPoolExecutor(3) as pool:
        for unit_done in [pool.submit(unit, first) for first in (0, 100, 200)]:
            unit_done.result()
    assert check(place) == 12, "five, two times five more, less three"


def test_units_of_work_on_one_item_conflict(storage: UnifiedStorage, place: str) -> None:
    storage.sync.index.add_many(some(range(5)))
    with pytest.raises(Conflict), storage.sync.transaction():
        assert storage.sync.index.count() == 5
        with ThreadPoolExecutor(1) as pool:
            pool.submit(storage.sync.index.add, "3", "theirs").result()
        storage.sync.index.add("3", "ours")
    assert [item.text for item in storage.sync.index.fetch(["3"])] == ["theirs"]
    assert check(place) == 5


def test_a_unit_that_is_cut_off_leaves_nothing(storage: UnifiedStorage, place: str) -> None:
    storage.sync.index.add_many(some(range(20)))
    with pytest.raises(AmbidexError), storage.sync.transaction():
        storage.sync.index.add_many(some(range(10, 30), seed=1))
        storage.sync.index.remove("1")
        with admin(place) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            )
        storage.sync.index.remove("2")
    assert check(place) == 20


def test_emptying_a_namespace_under_writers(storage: UnifiedStorage, place: str) -> None:
    storage.sync.index.add("0", "first")
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(random_writes, storage, seed, 8) for seed in range(7)]
        for _ in range(4):
            storage.sync.index.reset()
        for writer in writers:
            writer.result()
    assert check(place) == storage.sync.index.count()
    storage.sync.index.reset()
    assert check(place) == 0
    assert storage.sync.index.search("bal") == []


def answers(storage: UnifiedStorage) -> list[Any]:
    storage.sync.invalidate_cache()
    found = [storage.sync.index.search(word, top_k=50) for word in VOCABULARY[::5]]
    found += [storage.sync.index.search(word, top_k=5, filters={"n__lt": 30}) for word in VOCABULARY[::5]]
    return [[(hit.id, round(hit.score, 9)) for hit in hits] for hits in found]


@pytest.mark.usefixtures("eager")
def test_upkeep_changes_no_answer(storage: UnifiedStorage, place: str) -> None:
    index = storage.sync.index
    for first in range(0, 60, 3):
        index.add_many(some(range(first, first + 4), seed=first))
    for n in range(0, 60, 9):
        index.remove(str(n))
        index.update_metadata(str(n + 1), {"seen": True})
    before = answers(storage)
    with admin(place) as connection:
        counts = "SELECT (SELECT count(*) FROM ambidex_postings), (SELECT count(*) FROM ambidex_changes)"
        ((rows, changes),) = connection.execute(counts).fetchall()
        sums = "SELECT sum(stamp) % 4611686018427387904 FROM ambidex_changes"
        stamps = connection.execute(sums).fetchall()
        database(storage).upkeep.look_after(space_of(place))
        ((rows_after, changes_after),) = connection.execute(counts).fetchall()
        assert rows_after < rows / 2
        assert changes_after < changes / 2
        assert connection.execute(sums).fetchall() == stamps
        assert connection.execute("SELECT count(*) FROM ambidex_gone").fetchall() == [(0,)]
    assert answers(storage) == before
    check(place)
    database(storage).upkeep.close()


def exact(items: list[IndexItem], vector: list[float], count: int = 10) -> set[str]:
    def cosine(item: IndexItem) -> float:
        assert item.vector is not None
        return sum(map(float.__mul__, map(float, item.vector), vector)) / math.hypot(*item.vector)

    return {item.id for item in sorted(items, key=cosine, reverse=True)[:count]}


def recall(storage: UnifiedStorage, items: list[IndexItem], **filters: Any) -> float:
    chance = random.Random(9)
    kept = [item for item in items if all(item.metadata[name] == value for name, value in filters.items())]
    found = 0
    storage.sync.invalidate_cache()
    for _ in range(10):
        vector = [chance.gauss(0, 1) for _ in range(16)]
        hits = storage.sync.index.search("", vector=vector, filters=filters)
        found += len(exact(kept, vector) & {hit.id for hit in hits})
    return found / (10 * min(10, len(kept)))


def test_vectors_by_a_graph(storage: UnifiedStorage, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    monkeypatch.setattr(search_graph, "_MANY", 500)
    monkeypatch.setattr(search, "_FEW", 100)
    items = some(range(1500))
    storage.sync.index.add_many(items)
    with admin(place) as connection:
        connection.execute(
            "CREATE INDEX ambidex_graph_1_16_7 ON ambidex_vectors USING hnsw ((half::halfvec(16)) halfvec_ip_ops)"
            " WHERE space = 1 AND dimension = 16 AND item <= 7"
        )
        connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ambidex_graph_1_16_7'::regclass")
        storage.sync.index.search("", vector=[1.0] * 16)
        database(storage).upkeep.look_after(space_of(place))
        names = "SELECT indexname FROM pg_indexes WHERE tablename = 'ambidex_vectors' AND schemaname = current_schema()"
        ((bound, name),) = connection.execute("SELECT bound, name FROM ambidex_graphs").fetchall()
        graphs = {name for (name,) in connection.execute(names) if "graph" in name}
        assert graphs == {name}, "what an interrupted builder left has gone"
        items += some(range(1500, 1700), seed=3)
        storage.sync.index.add_many(items[1500:])
        storage.sync.index.remove("3", "1600")
        items = [item for item in items if item.id not in ("3", "1600")]
        ask = search_graph.nearest(
            f"{place.partition('schema=')[2]}.",
            "public",
            search_graph.Graph(1, 16, bound),
            unit_half([1.0] * 16),
            ("", []),
            50,
        )
        sql, args = ask
        plan = str(connection.execute("EXPLAIN " + sql.replace("?", "%s"), [str([1.0] * 16)] * len(args)).fetchall())
        assert f"using {name}" in plan
    assert recall(storage, items) >= 0.95
    assert recall(storage, items, n=7) >= 0.99
    monkeypatch.setattr(search, "_FEW", 0)
    monkeypatch.setattr(search, "_FEW_SHARE", 0)
    assert recall(storage, items, n=7) >= 0.95, "the graph is read until enough meet the filter"
    check(place)
    database(storage).upkeep.close()


def test_a_small_namespace_does_not_read_a_large_one(storage: UnifiedStorage, place: str) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    storage.sync.index.add_many(some(range(3000)), namespace="large")
    storage.sync.index.add_many(some(range(30)), namespace="small")
    vectors = database(storage).vectors
    assert vectors.known is not None
    with admin(place) as connection:
        connection.execute("ANALYZE ambidex_vectors")
        rows = connection.execute("SELECT space FROM ambidex_vectors GROUP BY space ORDER BY count(*)").fetchall()
        sql, args = vectors.nearest(vectors.known, rows[0][0], [1.0] * 16, None, 10)
        plan = str(connection.execute("EXPLAIN " + sql.replace("?", "%s"), [str([1.0] * 16), *args[1:]]).fetchall())
    assert "ambidex_vectors_space" in plan
    assert len(storage.sync.index.search("", vector=[1.0] * 16, namespace="small", top_k=50)) == 30


def test_the_graph_gives_the_scores_that_comparing_all_gives(
    storage: UnifiedStorage, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    monkeypatch.setattr(search_graph, "_MANY", 500)
    index = storage.sync.index
    index.add_many(some(range(600)))

    def ask(top_k: int, words: str = "") -> list[Any]:
        storage.sync.invalidate_cache()
        hits = index.search(words, vector=[1.0, *[0.5] * 15], top_k=top_k)
        return [hit._replace(score=round(hit.score, 6)) for hit in hits]

    cases = [(10, ""), (200, ""), (1000, ""), (10, VOCABULARY[3])]
    compared = [ask(*case) for case in cases]
    database(storage).upkeep.look_after(space_of(place))
    monkeypatch.setattr(search, "_FEW", 0)
    for _ in range(2):  # the first request learns of the graph, the second asks it at once
        assert [ask(*case) for case in cases] == compared
    database(storage).upkeep.close()


def test_a_graph_that_was_replaced_or_lost_is_not_trusted(
    storage: UnifiedStorage, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    monkeypatch.setattr(search_graph, "_MANY", 500)
    monkeypatch.setattr(search, "_FEW", 0)
    vectors = database(storage).vectors
    items = some(range(600))
    storage.sync.index.add_many(items)
    space = space_of(place)
    database(storage).upkeep.look_after(space)
    assert recall(storage, items) >= 0.95
    known = vectors.graph(space, 16)
    assert known is not None
    items += some(range(600, 1200), seed=4)
    storage.sync.index.add_many(items[600:])
    database(storage).upkeep.look_after(space)
    assert recall(storage, items) >= 0.95
    replaced = vectors.graph(space, 16)
    assert replaced is not None
    assert replaced.bound > known.bound
    with admin(place) as connection:
        # As after the tables were made anew: the namespace has another number, and its old one is somebody else's.
        for table in ("items", "vectors", "postings", "changes", "graphs"):
            connection.execute(f"UPDATE ambidex_{table} SET space = 77")
        connection.execute("UPDATE ambidex_spaces SET namespace = 'other'")
        connection.execute(
            "INSERT INTO ambidex_spaces (space, namespace) OVERRIDING SYSTEM VALUE VALUES (77, %s)", [space]
        )
        assert recall(storage, items) >= 0.95
        assert vectors.graph(space, 16) == replaced._replace(space=77)
        connection.execute("DELETE FROM ambidex_graphs")
    assert recall(storage, items) == 1.0
    assert vectors.graph(space, 16) is None
    database(storage).upkeep.close()


def test_when_nobody_writes_the_graph_takes_in_the_last_vectors(
    storage: UnifiedStorage, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    monkeypatch.setattr(search_graph, "_MANY", 300)
    monkeypatch.setattr(search_graph, "_REST_MANY", 5)
    index, upkeep = storage.sync.index, database(storage).upkeep
    index.add_many(some(range(400)))
    space = space_of(place)

    def bound() -> int:
        with admin(place) as connection:
            return int(connection.execute("SELECT max(bound) FROM ambidex_graphs").fetchall()[0][0])

    def last() -> int:
        with admin(place) as connection:
            return int(connection.execute("SELECT max(item) FROM ambidex_vectors").fetchall()[0][0])

    assert upkeep.look_after(space) == {}
    assert bound() == last()
    index.add_many(some(range(400, 403)))
    assert upkeep.look_after(space) == {}, "too few to be worth it"
    index.add_many(some(range(403, 410)))
    seen = upkeep.look_after(space)
    assert seen == {16: last()}
    index.add_many(some(range(410, 411)))
    seen = upkeep.look_after(space, seen)
    assert seen == {16: last()}, "somebody wrote meanwhile"
    assert bound() < last()
    assert upkeep.look_after(space, seen) == {}
    assert bound() == last()
    monkeypatch.setattr(search_upkeep, "_ITEMS", 1)
    monkeypatch.setattr(search_upkeep, "_REST_SECONDS", 0.1)
    index.add_many(some(range(420, 440)))
    until(lambda: bound() == last())
    until(lambda: upkeep._thread is None)
    monkeypatch.setattr(search_upkeep, "_REST_SECONDS", 3600)
    index.add_many(some(range(440, 460)))
    until(lambda: bool(upkeep._resting))
    thread = upkeep._thread
    assert thread is not None
    storage.close()
    assert not thread.is_alive(), "closing does not wait for the rest"


def test_who_asks_builds_what_who_wrote_did_not(
    storage: UnifiedStorage, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    monkeypatch.setattr(search_graph, "_MANY", 300)
    monkeypatch.setattr(search_graph, "_REST_MANY", 5)
    monkeypatch.setattr(search_upkeep, "_REST_SECONDS", 0.0)
    vectors = database(storage).vectors
    storage.sync.index.add_many(some(range(400)))

    def seen_by_others() -> list[Any]:
        with admin(place) as connection:
            return connection.execute("SELECT bound FROM ambidex_graphs").fetchall()

    def ask() -> None:
        storage.sync.invalidate_cache()
        storage.sync.index.search("", vector=[1.0] * 16)

    ask()
    assert seen_by_others() == []
    with monkeypatch.context() as often:
        often.setattr(search_upkeep, "_WRITES", 1)
        ask()
        until(lambda: seen_by_others() == [(400,)])
    storage.sync.index.add_many(some(range(400, 420)))
    ask()
    assert vectors.graph(space_of(place), 16) is not None
    monkeypatch.setattr(search_upkeep, "_QUERIES", 1)
    ask()
    until(lambda: seen_by_others() == [(420,)])
    database(storage).upkeep.close()


def test_an_old_pgvector_is_asked_for_no_graph(
    storage: UnifiedStorage, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    monkeypatch.setattr(search_graph, "_MANY", 300)
    monkeypatch.setattr(search, "_FEW", 0)
    items = some(range(400))
    storage.sync.index.add_many(items)
    found = database(storage).vectors.known
    assert found is not None
    assert found.graphs
    database(storage).upkeep.look_after(space_of(place))
    assert recall(storage, items) >= 0.95
    database(storage).vectors.forget()
    monkeypatch.setattr(search_vectors, "_FIND", search_vectors._FIND.replace("{0,8}", "{99}"))
    monkeypatch.setattr(search_graph, "_SETTINGS", "set_config('hnsw.ef_search', ?, true), 1 / 0")
    storage.sync.index.add_many(some(range(400, 401)))
    assert recall(storage, items) == 1.0
    assert database(storage).upkeep.look_after(space_of(place)) == {}
    database(storage).upkeep.close()


def test_closing_interrupts_the_building_of_a_graph(
    storage: UnifiedStorage, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_vectors(place):
        pytest.skip("the server has no pgvector")
    monkeypatch.setattr(search_graph, "_MANY", 10)
    upkeep = database(storage).upkeep
    storage.sync.index.add_many(some(range(20)))
    with admin(place) as connection, connection.transaction():
        connection.execute("LOCK TABLE ambidex_vectors IN ROW EXCLUSIVE MODE")  # the builder waits for its end
        monkeypatch.setattr(search_upkeep, "_ITEMS", 1)
        storage.sync.index.add_many(some(range(20, 40)))
        thread = upkeep._thread
        assert thread is not None
        until(lambda: waits(place))
        storage.close()
        thread.join(20)
        assert not thread.is_alive()
    assert storage.sync.index.count() == 40


def waits(place: str) -> bool:
    with admin(place) as connection:
        return bool(
            connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%' AND wait_event_type = 'Lock'"
            ).fetchall()
        )


def until(happened: Callable[[], bool]) -> None:
    for _ in range(1000):
        if happened():
            return
        threading.Event().wait(0.02)
    pytest.fail("it did not happen")


@pytest.fixture
def modest(postgres_server: Service) -> Iterator[str]:
    """The URL of a database that a user may write to and make tables in, but no extension."""
    name = "nopgvector"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"CREATE ROLE {name} LOGIN")
    url = f"{postgres_server.url.rpartition('/')[0]}/{name}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA own AUTHORIZATION {name}")
    yield url.replace("postgres@", f"{name}@")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"DROP ROLE {name}")


def test_without_pgvector_words_and_vectors_are_found(
    modest: str, postgres_server: Service, caplog: pytest.LogCaptureFixture
) -> None:
    storage = UnifiedStorage(f"{modest}?schema=own")
    items = some(range(300))
    with caplog.at_level(logging.WARNING, "ambidex"):
        storage.sync.index.add_many(items)
        assert recall(storage, items) == 1.0
        assert recall(storage, items, n=7) == 1.0
    assert sum("CREATE EXTENSION vector" in record.message for record in caplog.records) == 1
    assert storage.sync.index.search(VOCABULARY[0])
    root = modest.replace("nopgvector@", "postgres@")
    if has_vectors(postgres_server.url + "?schema=public"):
        with psycopg.connect(root, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        storage.sync.index.remove("5")
        assert recall(storage, items[:5] + items[6:]) == 1.0
        with psycopg.connect(root, options="-c search_path=own") as connection:
            assert connection.execute("SELECT count(*) FROM ambidex_vectors").fetchall() == [(299,)]
    storage.close()
