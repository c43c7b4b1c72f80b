"""The arrays behind SQLite's search: always equal to the rows, whoever wrote them, whatever happened to the file."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from ambidex import SyncStorage, UnifiedStorage
from ambidex.backends.sqlite import search, search_gone, search_space
from ambidex.core.ports import IndexItem

numpy = pytest.importorskip("numpy")

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrt"]


def some(numbers: range, seed: int = 0) -> list[IndexItem]:
    chance = random.Random(seed)
    return [
        IndexItem(
            str(n),
            chance.choice(VOCABULARY),
            " ".join(chance.choices(VOCABULARY, k=12)),
            {"n": n % 100},
            [chance.gauss(0, 1) for _ in range(16)],
        )
        for n in numbers
    ]


def opened(tmp_path: Path, name: str = "a.db") -> SyncStorage:
    return UnifiedStorage(f"sqlite:///{tmp_path}/{name}").sync


def exact(items: dict[str, IndexItem], vector: list[float], count: int = 10, **wanted: Any) -> list[str]:
    chosen = [item for item in items.values() if all(item.metadata[name] == value for name, value in wanted.items())]
    if not chosen:
        return []
    matrix = numpy.array([item.vector for item in chosen])
    cosines = matrix @ numpy.array(vector) / numpy.linalg.norm(matrix, axis=1)
    return [chosen[place].id for place in cosines.argsort()[::-1][:count]]


def agree(storage: SyncStorage, items: dict[str, IndexItem], seed: int = 1) -> None:
    """Compare with what the rows say, by vector and by words."""
    chance = random.Random(seed)
    for _ in range(5):
        vector = [chance.gauss(0, 1) for _ in range(16)]
        assert [hit.id for hit in storage.index.search("", vector=vector)] == exact(items, vector)
        n = chance.randrange(100)
        for _repeated in range(3):
            found = storage.index.search("", vector=vector, filters={"n": n}, top_k=5)
            assert [hit.id for hit in found] == exact(items, vector, 5, n=n)
            storage.invalidate_cache()
        word = chance.choice(VOCABULARY)
        wanted = {item.id for item in items.values() if word in f"{item.title} {item.text}".split()}
        assert {hit.id for hit in storage.index.search(word, top_k=1000)} == wanted


def test_two_processes_see_each_others_writes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_space, "_SAVED", 100)
    ours, theirs = opened(tmp_path), opened(tmp_path)
    items: dict[str, IndexItem] = {}
    chance = random.Random(5)
    for turn, storage in enumerate((ours, theirs, ours, theirs, theirs, ours, ours, theirs, ours, ours, theirs, ours)):
        new = some(range(turn * 60, turn * 60 + 90), seed=turn)  # a third replaces what is there
        storage.index.add_many(new)
        items.update((item.id, item) for item in new)
        gone = chance.sample(sorted(items), 15)
        assert storage.index.remove(*gone) == 15
        for one in gone:
            del items[one]
        for each in (ours, theirs):
            agree(each, items, turn)
    assert list((tmp_path / "a.db.search").iterdir())
    fresh = opened(tmp_path)
    agree(fresh, items)
    assert fresh.index.reset() == len(items)
    assert ours.index.search("", vector=[1.0] * 16) == []
    ours.index.add_many(some(range(3)))
    agree(theirs, {item.id: item for item in some(range(3))})
    for each in (ours, theirs, fresh):
        each.close()


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "nonsense", "folder"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(search_space, "_SAVED", 100)
    items = {item.id: item for item in some(range(300))}
    storage = opened(tmp_path)
    storage.index.add_many(items.values())
    agree(storage, items)
    storage.close()
    (file,) = (tmp_path / "a.db.search").iterdir()
    data = file.read_bytes()
    changed = {"empty": b"", "cut": data[: len(data) // 2], "changed": data[:-1] + bytes([data[-1] ^ 1])}
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(changed.get(damage, b"nonsense"))
    agree(storage, items)
    storage.close()


def test_a_restored_backup_is_not_taken_for_what_came_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_space, "_SAVED", 100)
    storage = opened(tmp_path)
    first = {item.id: item for item in some(range(200))}
    storage.index.add_many(first.values())
    storage.close()
    shutil.copy(tmp_path / "a.db", tmp_path / "backup.db")
    storage.index.add_many(some(range(200, 500), seed=2))
    agree(storage, first | {item.id: item for item in some(range(200, 500), seed=2)})
    storage.close()
    shutil.copy(tmp_path / "backup.db", tmp_path / "a.db")
    other = {item.id: item for item in some(range(200, 500), seed=9)}
    storage.index.add_many(other.values())
    agree(storage, first | other)
    storage.close()


def test_an_older_copy_brings_back_what_was_deleted_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_space, "_SAVED", 100)
    storage = opened(tmp_path)
    items = {item.id: item for item in some(range(300))}
    storage.index.add_many(items.values())
    storage.index.remove("7")
    del items["7"]
    agree(storage, items)
    storage.close()
    shutil.copy(tmp_path / "a.db", tmp_path / "backup.db")
    storage.index.remove(*map(str, range(100, 250)))
    agree(storage, {id_: item for id_, item in items.items() if not 100 <= int(id_) < 250})
    storage.close()
    shutil.copy(tmp_path / "backup.db", tmp_path / "a.db")
    agree(storage, items)
    storage.index.remove("8")
    del items["8"]
    agree(storage, items)
    storage.close()


def test_a_deletion_costs_no_look_at_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_space, "_SAVED", 100)
    items = {item.id: item for item in some(range(400))}
    ours, theirs = opened(tmp_path), opened(tmp_path)
    ours.index.add_many(items.values())
    for each in (ours, theirs):
        agree(each, items)
    monkeypatch.setattr(search_space, "_LIVE", "SELECT nothing")
    newest = opened(tmp_path)  # knows the file only
    for turn, gone in enumerate((["399"], ["3"], ["398", "397"], ["4"], [])):  # the last one, too
        ours.index.remove(*gone)
        ours.index.add_many(some(range(5), seed=turn))  # which replaces these
        items.update((item.id, item) for item in some(range(5), seed=turn))
        for id_ in {*gone} - {*map(str, range(5))}:
            del items[id_]
        for each in (ours, theirs, newest):
            agree(each, items, turn)
    for each in (ours, theirs, newest):
        each.close()


def test_more_deletions_than_the_log_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_gone, "_MOST_ITEMS", 20)
    items = {item.id: item for item in some(range(200))}
    ours, theirs = opened(tmp_path), opened(tmp_path)
    ours.index.add_many(items.values())
    for gone in (range(10, 20), range(20, 50), range(50, 55)):
        agree(theirs, items)
        ours.index.remove(*map(str, gone))
        for one in gone:
            del items[str(one)]
        agree(ours, items)
    agree(theirs, items)
    for each in (ours, theirs):
        each.close()


def test_small_writes_between_queries_leave_few_segments(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    storage.index.add("first", "")
    conn = apsw.Connection(str(tmp_path / "a.db"))

    def read(sql: str, args: Any) -> Any:
        return conn.execute(sql, args).fetchall()

    space = search_space.Space(1, str(tmp_path / "none"))
    made: list[int] = []
    for turn in range(150):
        storage.index.add(str(turn), "some words", vector=[1.0, 2.0])
        before = {id(part) for part in space._view.parts}
        ((stamp,),) = read("SELECT stamp FROM ambidex_spaces", ())
        view = space.view(read, stamp)
        assert view.total == turn + 2
        assert len(view.parts) <= search_space._MOST_PARTS
        made += [len(part.items) for part in view.parts if id(part) not in before]
    assert sum(made) < 150 * 8  # an item is merged a few times, not at each write
    conn.close()
    storage.close()


def test_a_sketched_segment_is_mapped_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ambidex.backends.sqlite import search_segment, search_sketch

    monkeypatch.setattr(search_sketch, "_LEAST_ROWS", 100)
    chance = numpy.random.default_rng(3)
    rows = [(n, chance.normal(size=80).astype("f").tobytes(), None, "a title", f"text {n}") for n in range(1, 301)]
    pages = [search_segment.Page.made(rows[:200]), search_segment.Page.made(rows[200:])]
    made = search_segment.Segment.made(pages).sketched()
    search_segment.save(made, str(tmp_path / "a.segment"), 17)
    loaded = search_segment.load(str(tmp_path / "a.segment"))
    assert loaded is not None
    mapped, gone = loaded
    assert gone == 17
    for name in ("items", "lengths", "terms", "starts", "docs", "counts"):
        assert numpy.array_equal(getattr(made, name), getattr(mapped, name))
    (one,), (other,) = made.vectors, mapped.vectors
    assert one.sketch is not None
    assert other.sketch is not None
    for name in ("bits", "usual", "spread"):
        assert numpy.array_equal(getattr(one.sketch, name), getattr(other.sketch, name))
        assert not getattr(other.sketch, name).flags.owndata
    assert numpy.array_equal(one.codes, other.codes)
    assert not other.codes.flags.owndata


def test_a_transaction_sees_its_own_writes_and_nobody_else_does(tmp_path: Path) -> None:
    storage, other = opened(tmp_path), opened(tmp_path)
    storage.index.add("1", "zebra", vector=[1.0, 0.0])
    with pytest.raises(KeyError), storage.transaction():
        storage.index.add("2", "zebra", vector=[0.0, 1.0])
        storage.index.remove("1")
        assert [hit.id for hit in storage.index.search("zebra")] == ["2"]
        assert [hit.id for hit in storage.index.search("", vector=[1.0, 0.0])] == ["2"]
        assert [hit.id for hit in other.index.search("zebra")] == ["1"]
        raise KeyError
    for each in (storage, other):
        assert [hit.id for hit in each.index.search("zebra", vector=[1.0, 0.0])] == ["1"]
        each.close()


def test_without_numpy_the_same_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = {item.id: item for item in some(range(1500))}
    storage = opened(tmp_path)
    storage.index.add_many(items.values())
    fast = [hit.id for hit in storage.index.search("bal fet kon", vector=[1.0] * 16)]
    storage.invalidate_cache()
    monkeypatch.setattr(search, "_has_numpy", lambda: False)
    assert [hit.id for hit in storage.index.search("bal fet kon", vector=[1.0] * 16)] == fast
    agree(storage, items)
    storage.close()


def test_numpy_is_not_needed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from ambidex import UnifiedStorage\n"
        "s = UnifiedStorage(sys.argv[1], embedder='auto').sync\n"
        "s.index.add('1', 'a zebra', vector=[1.0, 2.0]); print([h.id for h in s.search('zebras')])"
    )
    run = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/a.db"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "['1']\n"


def test_a_file_of_the_first_form_is_brought_up_to_date(tmp_path: Path) -> None:
    from ambidex.backends.sqlite import schema

    with sqlite3.connect(tmp_path / "a.db") as old:
        for version, statements in enumerate(schema.MIGRATIONS[:2], 1):
            for statement in statements:
                old.execute(statement)
            old.execute("CREATE TABLE IF NOT EXISTS ambidex_schema (version INTEGER PRIMARY KEY, at TEXT NOT NULL)")
            old.execute("INSERT INTO ambidex_schema VALUES (?, '')", (version,))
        vector = numpy.array([1.0, 2.0], "f").tobytes()
        put = "INSERT INTO ambidex_items (namespace, id, title, text, metadata, vector) VALUES (?, ?, ?, ?, ?, ?)"
        old.execute(put, ("ix::default:", "1", "Africa", "a zebra runs", '{"n": 1}', vector))
    old.close()
    storage = opened(tmp_path)
    for query in ("zebras", "africa"):
        assert [hit.id for hit in storage.index.search(query, vector=[1.0, 2.0], filters={"n": 1})] == ["1"]
    (item,) = storage.index.fetch(["1"])
    assert item == IndexItem("1", "Africa", "a zebra runs", {"n": 1}, [1.0, 2.0])
    storage.close()


def test_many_words_of_a_query_count_as_often_as_they_stand_there(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    for n in range(20):
        storage.index.add(f"filler{n}", "nothing of interest")
    storage.index.add("a", "alpha and more words here")
    storage.index.add("b", "bravo and more words here")
    assert [hit.id for hit in storage.index.search("alpha bravo bravo")] == ["b", "a"]
    assert [hit.id for hit in storage.index.search("alpha alpha bravo")] == ["a", "b"]
    storage.close()


def test_whole_numbers_rank_as_floats_do() -> None:
    from ambidex.backends.sqlite import search_segment

    chance = numpy.random.default_rng(3)
    made = search_segment.Vectors.made(numpy.arange(700), chance.normal(size=(700, 48)).astype("f"))
    query = chance.normal(size=48).astype("f")
    query /= numpy.linalg.norm(query)
    expected = made.codes.astype("f") @ query
    for dots in (search_segment._plain_dots, search_segment._dots):
        assert abs(dots(made.codes, query) - expected).max() < 0.02 * abs(expected).max()
        assert len(dots(made.codes[:0], query)) == 0


def test_the_full_text_index_holds_exactly_the_texts(tmp_path: Path) -> None:
    """Nothing but the code keeps it in step: there is no trigger."""
    storage = opened(tmp_path)
    storage.index.add_many(some(range(300)))
    storage.index.add_many(some(range(100, 200), seed=5))  # replaced
    storage.index.add_many(some(range(50)), namespace="other")
    storage.index.remove(*map(str, range(150, 250)))
    storage.index.reset(namespace="other")
    with storage.transaction():
        storage.index.add("new", "kumquat", title="fruit")
        assert [hit.id for hit in storage.index.search("kumquats")] == ["new"]
    storage.close()
    conn = apsw.Connection(str(tmp_path / "a.db"))
    conn.execute("INSERT INTO ambidex_fts (ambidex_fts, rank) VALUES ('integrity-check', 1)").fetchall()
    assert conn.execute("SELECT count(*) FROM ambidex_fts").fetchall() == [(201,)]
    conn.execute("INSERT INTO ambidex_texts VALUES (1, NULL, NULL, '', 'unknown to it')").fetchall()
    with pytest.raises(apsw.Error):
        conn.execute("INSERT INTO ambidex_fts (ambidex_fts, rank) VALUES ('integrity-check', 1)").fetchall()
