"""The leaf pair: transactions in both colours, and how long or large reads leave the loop."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ambidex.backends.sqlite import SqliteBackend
from ambidex.backends.sqlite.aio import AsyncSqliteLeaf
from ambidex.backends.sqlite.connection import INLINE_BYTES, InlineReader, LongRead
from ambidex.backends.sqlite.database import Database
from ambidex.backends.sqlite.driver import BlockingSqliteLeaf
from ambidex.core.dual import drive
from ambidex.core.ports import When
from ambidex.core.runtime import deadline
from ambidex.errors import Closed, DeadlineExceeded
from tests.backends.sqlite.support import COUNT_TO, FOR_EVER, backend, database

Leaf = AsyncSqliteLeaf | BlockingSqliteLeaf
Body = Callable[[Leaf, Leaf], Awaitable[None]]


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteBackend:
    return backend(tmp_path / "driver.db")


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, sqlite: SqliteBackend) -> Callable[[Body], None]:
    """Run a body with the colour under test and, to look from outside, the other."""

    def in_colour(body: Body) -> None:
        if request.param == "sync":

            async def blocking() -> None:
                await body(sqlite.blocking, sqlite.blocking)

            drive(blocking())
        else:

            async def main() -> None:
                await body(sqlite.aio, sqlite.blocking)

            asyncio.run(main())

    return in_colour


def outside(leaf: Leaf, key: str) -> Any:
    """Read in a thread that knows nothing of the caller's transaction."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(drive(leaf.kv.get(key))))
    thread.start()
    thread.join()
    return found[0]


def test_a_transaction_sees_itself_and_is_seen_after_its_end(run: Callable[[Body], None]) -> None:
    async def body(leaf: Leaf, other: Leaf) -> None:
        async with leaf.transaction():
            await leaf.kv.put("k", 1, None, When.ALWAYS)
            assert await leaf.kv.get("k") == 1
            assert await leaf.kv.get_many(["k"]) == [1]
            assert outside(other, "k") is None
        assert outside(other, "k") == 1

    run(body)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_undoes_a_transaction(run: Callable[[Body], None], error: type[BaseException]) -> None:
    async def body(leaf: Leaf, other: Leaf) -> None:
        with pytest.raises(error):  # the block is what is undone
            async with leaf.transaction():
                await leaf.kv.put("k", 1, None, When.ALWAYS)
                raise error
        assert await leaf.kv.get("k") is None
        await leaf.kv.put("k", 2, None, When.ALWAYS)
        assert outside(other, "k") == 2

    run(body)


def test_inner_transactions_are_savepoints(run: Callable[[Body], None]) -> None:
    async def body(leaf: Leaf, other: Leaf) -> None:
        async with leaf.transaction():
            await leaf.kv.put("outer", 1, None, When.ALWAYS)
            with pytest.raises(ValueError, match="undo"):  # the block is what is undone
                async with leaf.transaction():
                    await leaf.kv.put("outer", 2, None, When.ALWAYS)
                    async with leaf.transaction():
                        await leaf.kv.put("innermost", 3, None, When.ALWAYS)
                    raise ValueError("undo")
            assert await leaf.kv.get_many(["outer", "innermost"]) == [1, None]
            async with leaf.transaction():
                await leaf.kv.put("kept", 4, None, When.ALWAYS)
        assert await leaf.kv.get_many(["outer", "innermost", "kept"]) == [1, None, 4]

    run(body)


def test_a_failed_statement_leaves_the_rest_of_a_transaction(run: Callable[[Body], None]) -> None:
    from ambidex.errors import AmbidexError

    async def body(leaf: Leaf, other: Leaf) -> None:
        async with leaf.transaction():
            await leaf.kv.put("a", 1, None, When.ALWAYS)
            with pytest.raises(AmbidexError):
                await leaf.script([("UPDATE ambidex_kv SET value = 2", ()), ("nonsense", ())])
            with pytest.raises(AmbidexError):
                await leaf.rows("nonsense")
            await leaf.kv.put("b", 3, None, When.ALWAYS)
        assert await leaf.kv.get_many(["a", "b"]) == [1, 3]

    run(body)


def test_a_thread_started_inside_a_transaction_takes_part_in_it(sqlite: SqliteBackend) -> None:
    async def main() -> None:
        async with sqlite.aio.transaction():
            await sqlite.aio.kv.put("k", 1, None, When.ALWAYS)
            assert await asyncio.to_thread(lambda: drive(sqlite.blocking.kv.get("k"))) == 1

    asyncio.run(main())


@pytest.fixture
def threads_of_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads on which queries came to their end, in order."""
    names: list[str] = []
    worker_rows, rows, row = Database.read, InlineReader.rows, InlineReader.row

    def spy(method: Callable[..., Any]) -> Callable[..., Any]:
        def spied(self: Any, *args: Any) -> Any:
            result = method(self, *args)
            names.append("loop" if threading.current_thread() is threading.main_thread() else "worker")
            return result

        return spied

    monkeypatch.setattr(Database, "read", spy(worker_rows))
    monkeypatch.setattr(InlineReader, "rows", spy(rows))
    monkeypatch.setattr(InlineReader, "row", spy(row))
    return names


def test_a_long_read_is_interrupted_on_the_loop_and_done_by_a_worker(
    sqlite: SqliteBackend, threads_of_reads: list[str]
) -> None:
    async def main() -> None:
        assert await sqlite.aio.rows(COUNT_TO.format(10)) == [(10,)]
        assert await sqlite.aio.rows(COUNT_TO.format(200_000)) == [(200_000,)]
        assert await sqlite.aio.row(COUNT_TO.format(200_000)) == (200_000,)
        assert await sqlite.aio.row(COUNT_TO.format(10)) == (10,)

    asyncio.run(main())
    assert threads_of_reads == ["loop", "worker", "worker", "loop"]


def test_short_reads_stay_on_the_loop_however_often_they_are_repeated(
    sqlite: SqliteBackend, threads_of_reads: list[str]
) -> None:
    """SQLite counts a statement's instructions over all its runs, and the limit must not."""

    async def main() -> None:
        await sqlite.aio.kv.put("k", 1, None, When.ALWAYS)
        for _ in range(2000):
            assert await sqlite.aio.kv.get("k") == 1

    asyncio.run(main())
    assert threads_of_reads == ["loop"] * 2000


def test_a_large_value_is_read_by_a_worker(sqlite: SqliteBackend, threads_of_reads: list[str]) -> None:
    large, small = b"\x01" * (INLINE_BYTES * 40), b"\x01" * (INLINE_BYTES // 2)

    async def main() -> None:
        await sqlite.aio.kv.put("large", large, None, When.ALWAYS)
        await sqlite.aio.kv.put("small", small, None, When.ALWAYS)
        assert await sqlite.aio.kv.get("large") == large
        assert await sqlite.aio.kv.get("small") == small
        assert await sqlite.aio.kv.get_many(["small", "large"]) == [small, large]

    asyncio.run(main())
    assert threads_of_reads == ["worker", "loop", "worker"]


def test_the_loop_goes_on_during_a_long_read(sqlite: SqliteBackend) -> None:
    """Without a clock: the read ends only because the loop was free to stop it."""

    async def main() -> None:
        reading = asyncio.create_task(sqlite.aio.rows(FOR_EVER))
        await asyncio.sleep(0.05)
        assert not reading.done()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await sqlite.aio.close()  # waits for the workers, so it ends only if theirs was stopped

    asyncio.run(main())


def test_reads_that_nobody_awaits_any_more_leave_their_workers(sqlite: SqliteBackend) -> None:
    async def main() -> None:
        reading = [asyncio.create_task(sqlite.aio.heavy(FOR_EVER)) for _ in range(8)]
        await asyncio.sleep(0.1)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        with deadline(10):
            assert await sqlite.aio.heavy(COUNT_TO.format(10)) == [(10,)]

    asyncio.run(main())


def test_a_deadline_stops_a_long_read(run: Callable[[Body], None]) -> None:
    async def body(leaf: Leaf, other: Leaf) -> None:
        for call in (leaf.rows, leaf.row, leaf.heavy):
            with deadline(0.1), pytest.raises(DeadlineExceeded) as caught:
                await call(FOR_EVER)
            assert caught.value.applied == "no"
        assert await leaf.kv.get("k") is None

    run(body)


def test_a_close_stops_long_reads_of_both_colours(sqlite: SqliteBackend) -> None:
    errors: list[BaseException] = []

    def blocking() -> None:
        try:
            drive(sqlite.blocking.rows(FOR_EVER))
        except Closed as error:
            errors.append(error)

    async def main() -> None:
        thread = threading.Thread(target=blocking)
        thread.start()
        reading = asyncio.create_task(sqlite.aio.rows(FOR_EVER))
        await asyncio.sleep(0.1)
        await sqlite.aio.close()
        with pytest.raises(Closed):
            await reading
        await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert len(errors) == 1
    assert drive(sqlite.blocking.kv.get("k")) is None  # usable again
    drive(sqlite.blocking.close())


def test_opening_does_not_outlast_the_deadline(sqlite: SqliteBackend) -> None:
    conn = database(sqlite)._connect(lambda _tries: False)
    conn.execute("DELETE FROM ambidex_schema")  # so that opening it needs the lock
    conn.execute("BEGIN IMMEDIATE")
    from ambidex.errors import Busy

    for leaf in (sqlite.aio, sqlite.blocking):

        async def get(leaf: Leaf = leaf) -> None:
            with deadline(0.2):
                await leaf.kv.get("k")

        start = time.monotonic()
        with pytest.raises(Busy):
            asyncio.run(get()) if leaf is sqlite.aio else drive(get())
        assert time.monotonic() - start < 5
    conn.execute("ROLLBACK")
    conn.close()


def test_a_read_that_was_stopped_before_it_began_is_not_begun(sqlite: SqliteBackend) -> None:
    read = LongRead(time.monotonic() + 60)
    read.stopped = True
    with pytest.raises(Closed):
        database(sqlite).read_in_worker("SELECT 1", (), read)
