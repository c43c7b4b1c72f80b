"""Answers of searches kept: never one that a write has ended, by whomever; bounded; forgotten by a glob."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.ports import Hit
from ambidex.errors import InvalidQuery, Unavailable
from ambidex.stores.cache import QueryCache
from tests.stores.conftest import EMBEDDED, Run, open_place
from tests.torture.sqlite import command


@pytest.fixture(params=EMBEDDED)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UnifiedStorage]:
    """Where the search stands itself; a server without search adds nothing to it."""
    with closing(open_place(request.param, "", tmp_path)) as made:
        yield made


def count_queries(storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every query that reaches a port."""
    asked: list[str] = []
    faces: list[Any] = [storage.sync, storage.aio]
    for port in {id(face._index._port): face._index._port for face in faces}.values():
        query = port.query

        async def noting(namespace: str, wanted: Any, query: Any = query) -> Any:
            asked.append(wanted.text)
            return await query(namespace, wanted)

        monkeypatch.setattr(port, "query", noting, raising=False)
    return asked


def test_an_answer_is_kept_until_its_namespace_is_written_to(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count_queries(storage, monkeypatch)

    async def body(s: Any) -> None:
        await s.index.add("1", "zebra")
        await s.index.add("1", "zebra", namespace="other")
        first = await s.search("zebra")
        assert await s.search("zebra") == first
        assert len(asked) == 1
        first[0].metadata["mine"] = True
        assert (await s.search("zebra"))[0].metadata == {}
        await s.index.add("2", "horse", namespace="other")
        assert len(await s.search("zebra")) == 1
        assert len(asked) == 1
        for write, args in (
            (s.index.add, ("2", "zebra")),
            (s.index.remove, ("2",)),
            (s.index.reset, ()),
            (s.store_document, ("zebra", {"path": "p"})),
            (s.store_document, ("horse", {"path": "p"})),
        ):
            before = [hit.id for hit in await s.search("zebra")]
            await write(*args)
            assert [hit.id for hit in await s.search("zebra")] != before

    run(body)


@pytest.mark.parametrize(
    "other",
    [{"top_k": 1}, {"namespace": "n"}, {"filters": {"n": 1}}, {"filters": {"n": True}}, {"vector": [1.0]}],
    ids=str,
)
def test_every_part_of_a_query_counts(
    run: Run, storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    asked = count_queries(storage, monkeypatch)

    async def body(s: Any) -> None:
        await s.index.add("1", "zebra")
        await s.search("zebra")
        await s.search("zebra", **other)
        assert len(asked) == 2
        await s.tenant("t").search("zebra")
        await s.search("a\0b")
        await s.search("\ud800")

    run(body)


def test_a_write_by_another_process_ends_an_answer(tmp_path: Path) -> None:
    ours, theirs = (UnifiedStorage(f"sqlite:///{tmp_path}/a.db").sync for _ in range(2))
    ours.index.add("1", "zebra")
    assert len(ours.search("zebra")) == 1
    theirs.index.add("2", "zebra")
    assert len(ours.search("zebra")) == 2
    ours.close()
    theirs.close()


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_what_was_seen_in_an_undone_transaction_is_not_kept(tmp_path: Path, url: str) -> None:
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/a.db" if url == "sqlite" else url).sync
    storage.index.add("1", "zebra")
    with pytest.raises(KeyError), storage.transaction():
        storage.index.add("2", "zebra")
        assert len(storage.search("zebra")) == 2
        raise KeyError
    assert len(storage.search("zebra")) == 1
    storage.close()


def test_a_failed_write_ends_the_answers_too(storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    index: Any = storage.sync.index
    index.add("1", "zebra")
    index.search("zebra")
    original = index._port.index

    async def written_but_no_reply(*args: Any) -> None:
        await original(*args)
        raise Unavailable("the reply was lost")

    monkeypatch.setattr(index._port, "index", written_but_no_reply, raising=False)
    with pytest.raises(Unavailable):
        index.add("2", "zebra")
    assert len(index.search("zebra")) == 2


def test_those_who_ask_at_once_share_one_search(storage: UnifiedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count_queries(storage, monkeypatch)
    storage.sync.index.add("1", "zebra")
    aio: Any = storage.aio._index._port
    query = aio.query

    async def slow(*args: Any) -> Any:
        await asyncio.sleep(0.05)
        return await query(*args)

    monkeypatch.setattr(aio, "query", slow, raising=False)

    async def all_at_once() -> Any:
        return await asyncio.gather(*(storage.aio.search("zebra") for _ in range(20)))

    answers = asyncio.run(all_at_once())
    assert len(asked) == 1
    assert all(len(answer) == 1 for answer in answers)
    assert len({id(answer[0].metadata) for answer in answers}) == 20


def test_forgetting_by_glob(run: Run) -> None:
    async def body(s: Any) -> None:
        for query in ("zebra", "zoo", "horse", "a[b]c"):
            await s.search(query)
        await s.search("zebra", namespace="other")
        await s.tenant("t").search("zebra")
        assert await s.invalidate_cache("search:default:z*") == 3
        assert await s.invalidate_cache("search:default:z*") == 0
        assert await s.invalidate_cache("*:a[b]?") == 1
        await s.tenant("t").search("zebra")
        assert await s.tenant("t").invalidate_cache() == 1
        assert await s.invalidate_cache("nothing") == 0
        assert await s.invalidate_cache() == 2
        assert await s.invalidate_cache() == 0

    run(body)


def test_a_pattern_is_text() -> None:
    wrong: Any = 5
    with pytest.raises(InvalidQuery, match="pattern"):
        UnifiedStorage("memory://").invalidate_cache(wrong)


def test_the_cache_is_bounded_and_forgets_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("ambidex.stores.cache.time.monotonic", lambda: now)
    cache = QueryCache(seconds=300, entries=3)
    hit = [Hit("1", 1.0, "", "x", {})]
    for name in "abcd":
        cache.put(name.encode(), 1, hit, "", name)
        cache.get(b"a", 1)
    assert [cache.get(name.encode(), 1) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.get(b"a", 2) is None
    cache.put(b"x" * 5000, 1, hit, "", "long")
    assert cache.get(b"x" * 5000, 1) is None
    now = 299.9
    assert cache.get(b"c", 1) == hit
    now = 300.0
    assert cache.get(b"c", 1) is None


def test_the_cache_bears_many_threads() -> None:
    cache = QueryCache(entries=5)
    errors: list[BaseException] = []

    def work(who: int) -> None:
        try:
            for n in range(3000):
                key = str((n * who) % 11).encode()
                cache.put(key, n % 3, [], "", "x")
                cache.get(key, n % 3)
                if n % 50 == 0:
                    cache.invalidate("x")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_restored_backup_does_not_bring_old_answers_back(tmp_path: Path) -> None:
    """The cache outlives the file's exchange: an answer stands for the content under its stamp, and for no other."""
    path, backup = tmp_path / "a.db", tmp_path / "backup.db"
    storage = UnifiedStorage(f"sqlite:///{path}")

    def found() -> list[str]:
        there = sorted(hit.id for hit in storage.sync.search("zebra"))
        assert asyncio.run(_ids(storage)) == there
        return there

    storage.sync.index.add("1", "zebra")
    assert found() == ["1"]
    storage.close()
    shutil.copyfile(path, backup)
    for number in ("2", "3"):
        storage.sync.index.add(number, "zebra")
        assert found() == ["1", "2", "3"][: int(number)]
    storage.close()
    shutil.copyfile(backup, path)
    assert found() == ["1"]
    storage.sync.index.add("4", "zebra")  # as many writes since the backup as the first time, and other ones
    assert found() == ["1", "4"]
    storage.sync.index.remove("1")
    assert found() == ["4"]
    storage.close()


async def _ids(storage: UnifiedStorage) -> list[str]:
    ids = sorted(hit.id for hit in await storage.aio.search("zebra"))
    await storage.aio.close()
    return ids


@pytest.mark.parametrize("durability", ["durable", "relaxed"])
def test_answers_are_right_after_every_acknowledged_write_of_a_process_that_is_killed(
    tmp_path: Path, durability: str
) -> None:
    """Each time the writer says that it has written, an answer that was kept before is not given again."""
    url = f"sqlite:///{tmp_path}/a.db?durability={durability}"
    code = """
        import sys
        from ambidex import SyncStorage
        storage = SyncStorage(sys.argv[1])
        for line in sys.stdin:
            storage.index.add(line.strip(), "zebra")
            print(line.strip(), flush=True)
    """
    ours = UnifiedStorage(url).sync
    expected: list[str] = []
    for turn in range(2):
        with subprocess.Popen(command(code, url), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            for number in range(5):
                expected.append(f"{turn}-{number}")
                child.stdin.write(f"{expected[-1]}\n".encode())
                child.stdin.flush()
                assert child.stdout.readline().decode().strip() == expected[-1]
                for _ in range(2):  # the second time from the cache
                    assert sorted(hit.id for hit in ours.search("zebra", top_k=100)) == expected
            child.kill()
        assert sorted(hit.id for hit in ours.search("zebra", top_k=100)) == expected
    ours.close()
