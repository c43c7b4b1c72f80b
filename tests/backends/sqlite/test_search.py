"""The arrays behind SQLite's search: always equal to the rows, whoever wrote them, whatever happened to the file."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ambidex import SyncStorage, UnifiedStorage
from ambidex.backends.sqlite import search, search_space
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
