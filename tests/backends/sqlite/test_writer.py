"""The writer: order, group commit, neighbours' failures, leases."""

import asyncio
import contextvars
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

import ambidex.backends.sqlite
from ambidex.backends.sqlite import SqliteBackend
from ambidex.core.dual import drive
from ambidex.core.runtime import deadline
from ambidex.errors import AlreadyExists, AmbidexError, Busy, Closed, DeadlineExceeded, LeaseLost, UsageError
from tests.backends.sqlite.support import COUNT_TO, FOR_EVER, backend, database

SOURCES = os.path.dirname(ambidex.backends.sqlite.__file__)
INSERT = "INSERT INTO t (x) VALUES (?)"


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteBackend:
    made = backend(tmp_path / "writer.db")
    drive(made.blocking.script([("CREATE TABLE t (n INTEGER PRIMARY KEY, x UNIQUE)", ())]))
    return made


def stored(made: SqliteBackend) -> list[Any]:
    return [x for (x,) in drive(made.blocking.rows("SELECT x FROM t ORDER BY n"))]


def count_commits(made: SqliteBackend) -> list[int]:
    """Return a list that grows by one with each transaction that changed something."""
    commits: list[int] = []

    def hook() -> bool:
        commits.append(1)
        return False

    conn = database(made).writer._conn
    assert conn is not None
    conn.set_commit_hook(hook)
    return commits


async def side_by_side(calls: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Run the calls in tasks of their own, each outside of the caller's transaction."""

    async def one(call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(one(call), context=contextvars.Context()) for call in calls]
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_many_tasks_share_commits(sqlite: SqliteBackend) -> None:
    commits = count_commits(sqlite)

    async def main() -> None:
        await asyncio.gather(*(sqlite.aio.write(INSERT, (i,)) for i in range(200)))

    asyncio.run(main())
    assert stored(sqlite) == list(range(200))
    assert len(commits) <= 20


def test_one_after_another_each_has_its_own_commit(sqlite: SqliteBackend) -> None:
    commits = count_commits(sqlite)
    for i in range(20):
        drive(sqlite.blocking.write(INSERT, (i,)))
    assert len(commits) == 20


def test_writes_take_effect_in_the_order_of_their_submission(sqlite: SqliteBackend) -> None:
    async def main() -> None:
        calls: list[Coroutine[Any, Any, Any]] = []
        for i in range(0, 300, 3):
            calls.append(sqlite.aio.write(INSERT, (i,)))
            calls.append(sqlite.aio.script([(INSERT, (i + 1,)), (INSERT, (i + 2,))]))
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert stored(sqlite) == list(range(300))


def test_a_failing_job_takes_nothing_of_its_neighbours_with_it(sqlite: SqliteBackend) -> None:
    async def main() -> list[Any]:
        aio = sqlite.aio
        # A transaction holds the writer, so that all the others are queued together behind it.
        async with aio.transaction():
            waiting = asyncio.ensure_future(
                side_by_side(
                    [
                        lambda: aio.write(INSERT, ("a",)),
                        lambda: aio.script([(INSERT, ("half",)), (INSERT, ("a",))]),  # not unique
                        lambda: aio.write("INSERT INTO nowhere VALUES (1)"),
                        lambda: aio.write("this is not SQL"),
                        lambda: aio.script([(INSERT, ("half",)), ("nor is this", ())]),
                        lambda: aio.write_many(INSERT, [("half",), ("a",)]),
                        lambda: aio.write(INSERT, (object(),)),  # cannot be bound
                        lambda: aio.write_many(INSERT, [("half",), (object(),)]),
                        lambda: aio.write(INSERT, (2**70,)),
                        lambda: aio.script([(INSERT, ("b",)), (INSERT, ("c",))]),
                        lambda: aio.write(INSERT, ("d",)),
                    ]
                )
            )
            await asyncio.sleep(0.05)
        return await waiting

    results = asyncio.run(main())
    assert [isinstance(result, AmbidexError) for result in results] == [False] + [True] * 8 + [False, False]
    assert [type(r).__module__ for r in results[1:9]] == ["ambidex.errors"] * 8
    assert stored(sqlite) == ["a", "b", "c", "d"]


def test_a_failing_script_costs_its_neighbours_no_commit_of_their_own(sqlite: SqliteBackend) -> None:
    commits = count_commits(sqlite)

    async def main() -> None:
        aio = sqlite.aio
        async with aio.transaction():
            calls: list[Callable[[], Awaitable[Any]]] = [
                partial(aio.script, [(INSERT, (i,)), (INSERT, (i // 2 * 2,))])
                if i % 2
                else partial(aio.write, INSERT, (i,))
                for i in range(20)
            ]
            waiting = asyncio.ensure_future(side_by_side(calls))
            await asyncio.sleep(0.05)
        assert [isinstance(result, AmbidexError) for result in await waiting] == [False, True] * 10

    asyncio.run(main())
    assert stored(sqlite) == list(range(0, 20, 2))
    assert len(commits) == 2  # the empty transaction's, and one for all


def test_one_of_many_alike_that_is_refused_costs_the_others_neither_effect_nor_commits(sqlite: SqliteBackend) -> None:
    commits = count_commits(sqlite)

    async def main() -> list[Any]:
        aio = sqlite.aio
        async with aio.transaction():
            values = [*range(10), 3, *range(10, 20)]
            waiting = asyncio.ensure_future(side_by_side([partial(aio.write, INSERT, (value,)) for value in values]))
            await asyncio.sleep(0.05)
        return await waiting

    results = asyncio.run(main())
    assert [type(result) for result in results] == [list] * 10 + [AlreadyExists] + [list] * 10
    assert stored(sqlite) == list(range(20))
    assert len(commits) == 2  # that of the empty transaction is the first


def test_many_alike_that_return_rows_get_their_own(sqlite: SqliteBackend) -> None:
    async def main() -> list[Any]:
        aio = sqlite.aio
        async with aio.transaction():
            calls: list[Callable[[], Awaitable[Any]]] = [
                partial(aio.write, f"{INSERT} RETURNING x * 2", (value,)) for value in range(10)
            ]
            waiting = asyncio.ensure_future(side_by_side(calls))
            await asyncio.sleep(0.05)
        return await waiting

    assert asyncio.run(main()) == [[(value * 2,)] for value in range(10)]


def test_a_lone_statement_waits_for_another_process_and_can_be_withdrawn_meanwhile(
    sqlite: SqliteBackend, tmp_path: Path
) -> None:
    drive(sqlite.blocking.write(INSERT, ("first",)))
    other = apsw.Connection(str(tmp_path / "writer.db"))
    other.execute("BEGIN IMMEDIATE")

    async def main() -> None:
        with pytest.raises(Busy), deadline(0.2):
            await sqlite.aio.write(INSERT, ("never",))
        given_up = asyncio.ensure_future(sqlite.aio.write(INSERT, ("nor this",)))
        await asyncio.sleep(0.1)
        given_up.cancel()
        waiting = asyncio.ensure_future(sqlite.aio.write(INSERT, ("then",)))
        await asyncio.sleep(0.1)
        other.execute("COMMIT")
        await waiting

    asyncio.run(main())
    other.close()
    assert stored(sqlite) == ["first", "then"]


def test_jobs_that_share_a_commit_that_fails_are_done_one_by_one(sqlite: SqliteBackend) -> None:
    """A job that makes SQLite undo the whole transaction still fails alone."""

    async def main() -> list[Any]:
        aio = sqlite.aio
        async with aio.transaction():
            waiting = asyncio.ensure_future(
                side_by_side(
                    [
                        lambda: aio.write(INSERT, ("a",)),
                        lambda: aio.write("INSERT OR ROLLBACK INTO t (x) VALUES ('a')"),
                        lambda: aio.script([(INSERT, ("b",)), (INSERT, ("c",))]),
                    ]
                )
            )
            await asyncio.sleep(0.05)
        return await waiting

    results = asyncio.run(main())
    assert [isinstance(result, AmbidexError) for result in results] == [False, True, False]
    assert stored(sqlite) == ["a", "b", "c"]


def test_a_write_without_end_stops_at_its_deadline_and_its_neighbours_are_done(sqlite: SqliteBackend) -> None:
    async def endless() -> None:
        with deadline(0.3):
            await sqlite.aio.write(f"INSERT INTO t (x) {FOR_EVER}")

    async def main() -> list[Any]:
        return await side_by_side(
            [lambda: sqlite.aio.write(INSERT, (1,)), endless, lambda: sqlite.aio.write(INSERT, (2,))]
        )

    results = asyncio.run(main())
    assert [type(result) for result in results] == [list, DeadlineExceeded, list]
    assert stored(sqlite) == [1, 2]


def test_errors_of_one_batch_are_not_one_object(sqlite: SqliteBackend) -> None:
    async def main() -> list[Any]:
        async with sqlite.aio.transaction():
            waiting = asyncio.ensure_future(
                side_by_side([lambda: sqlite.aio.write("nonsense"), lambda: sqlite.aio.write("nonsense")])
            )
            await asyncio.sleep(0.05)
        return await waiting

    first, second = asyncio.run(main())
    assert first is not second


@pytest.fixture
def impatient(tmp_path: Path) -> SqliteBackend:
    made = backend(tmp_path / "leases.db", lease_timeout=0.3)
    drive(made.blocking.script([("CREATE TABLE t (n INTEGER PRIMARY KEY, x UNIQUE)", ())]))
    return made


def test_a_transaction_that_dawdles_loses_its_lease_and_others_go_on(impatient: SqliteBackend) -> None:
    async def dawdle() -> None:
        async with impatient.aio.transaction():
            await impatient.aio.write(INSERT, ("lost",))
            await asyncio.sleep(1)
            await impatient.aio.write(INSERT, ("late",))

    async def main() -> list[Any]:
        return await side_by_side([dawdle, lambda: impatient.aio.write(INSERT, ("other",))])

    lost, other = asyncio.run(main())
    assert isinstance(lost, LeaseLost)
    assert "lease_timeout" in str(lost)
    assert other == []
    assert stored(impatient) == ["other"]


def test_a_statement_without_end_loses_the_lease(impatient: SqliteBackend) -> None:
    async def main() -> None:
        async with impatient.aio.transaction():
            await impatient.aio.write(INSERT, ("lost",))
            await impatient.aio.rows(FOR_EVER)

    with pytest.raises(LeaseLost):
        asyncio.run(main())
    assert stored(impatient) == []
    drive(impatient.blocking.write(INSERT, ("next",)))


def test_blocking_code_loses_its_lease_too(impatient: SqliteBackend) -> None:
    async def unit() -> None:
        async with impatient.blocking.transaction():
            await impatient.blocking.write(INSERT, ("lost",))
            time.sleep(0.6)  # noqa: ASYNC251  # driven without a loop

    with pytest.raises(LeaseLost):
        drive(unit())
    assert stored(impatient) == []


def test_a_blocking_statement_without_end_loses_the_lease(impatient: SqliteBackend) -> None:
    async def unit() -> None:
        async with impatient.blocking.transaction():
            await impatient.blocking.write(INSERT, ("lost",))
            await impatient.blocking.rows(FOR_EVER)

    with pytest.raises(LeaseLost):
        drive(unit())
    assert stored(impatient) == []
    drive(impatient.blocking.write(INSERT, ("next",)))


def test_a_statement_inside_a_statement_of_a_blocking_transaction_is_refused(sqlite: SqliteBackend) -> None:
    blocking = sqlite.blocking

    async def unit() -> None:
        async with blocking.transaction():
            await blocking.write(INSERT, ("kept",))
            with pytest.raises(UsageError, match="under way"):
                await blocking.change(lambda _conn: drive(blocking.write(INSERT, ("inner",))))
            await blocking.write(INSERT, ("kept, too",))

    drive(unit())
    assert stored(sqlite) == ["kept", "kept, too"]


def test_blocking_transactions_of_many_threads_take_turns(sqlite: SqliteBackend) -> None:
    async def unit() -> None:
        async with sqlite.blocking.transaction():
            ((most,),) = await sqlite.blocking.rows("SELECT coalesce(max(x), 0) FROM t")
            await sqlite.blocking.write(INSERT, (most + 1,))

    def work() -> None:
        for _ in range(25):
            drive(unit())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored(sqlite) == list(range(1, 101))


def test_a_waiter_behind_a_lease_ends_at_its_own_deadline_and_is_never_applied(sqlite: SqliteBackend) -> None:
    async def impatiently() -> None:
        with deadline(0.1):
            await sqlite.aio.write(INSERT, ("never",))

    async def main() -> list[Any]:
        async with sqlite.aio.transaction():
            await sqlite.aio.write(INSERT, ("first",))
            threaded = threading.Thread(target=blocking)
            threaded.start()
            results = await side_by_side([impatiently])
            await asyncio.to_thread(threaded.join)
            return results

    errors: list[BaseException] = []

    def blocking() -> None:
        try:
            with deadline(0.1):
                drive(sqlite.blocking.write(INSERT, ("never",)))
        except DeadlineExceeded as error:
            errors.append(error)

    results = asyncio.run(main())
    for error in (*results, *errors):
        assert isinstance(error, DeadlineExceeded)
        assert error.applied == "no"
    assert len(errors) == 1
    assert stored(sqlite) == ["first"]


def test_a_transaction_that_sqlite_undid_does_not_go_on_by_halves(sqlite: SqliteBackend) -> None:
    async def main() -> None:
        async with sqlite.aio.transaction():
            await sqlite.aio.write(INSERT, ("before",))
            with pytest.raises(AmbidexError):
                await sqlite.aio.write("INSERT OR ROLLBACK INTO t (x) VALUES ('before')")
            await sqlite.aio.write(INSERT, ("after",))

    with pytest.raises(AmbidexError):
        asyncio.run(main())
    assert stored(sqlite) == []


def test_a_child_task_cannot_use_a_transaction_after_its_end(sqlite: SqliteBackend) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def child() -> None:
            await sqlite.aio.write(INSERT, ("inside",))
            await ended.wait()
            for call in (sqlite.aio.write(INSERT, ("outside",)), sqlite.aio.rows("SELECT 1")):
                with pytest.raises(Closed, match="ended"):
                    await call

        async with sqlite.aio.transaction():
            task = asyncio.create_task(child())
            await asyncio.sleep(0.05)
        ended.set()
        await task

    asyncio.run(main())
    assert stored(sqlite) == ["inside"]


def test_inner_transactions_of_two_tasks_at_once_are_refused(sqlite: SqliteBackend) -> None:
    async def main() -> None:
        async def inner(name: str, pause: float) -> None:
            async with sqlite.aio.transaction():
                await sqlite.aio.write(INSERT, (name,))
                await asyncio.sleep(pause)

        async with sqlite.aio.transaction():
            await asyncio.gather(inner("a", 0.05), inner("b", 0.2), return_exceptions=True)

    with pytest.raises(UsageError, match="one after the other"):
        asyncio.run(main())
    assert stored(sqlite) == []


def test_a_lease_granted_to_a_task_that_was_just_cancelled_is_given_back(sqlite: SqliteBackend) -> None:
    async def unit() -> None:
        async with sqlite.aio.transaction():
            await sqlite.aio.write(INSERT, ("never",))

    async def main() -> None:
        task = asyncio.create_task(unit())
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251  # the writer grants the lease, and the loop does not hear of it yet
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with deadline(5):  # less than the lease's ten seconds
            await sqlite.aio.write(INSERT, ("next",))

    asyncio.run(main())
    assert stored(sqlite) == ["next"]


def test_an_inner_transaction_is_undone_however_often_its_task_is_cancelled(sqlite: SqliteBackend) -> None:
    aio = sqlite.aio

    async def inner() -> None:
        async with aio.transaction():
            await aio.write(INSERT, ("inner",))
            await asyncio.sleep(60)

    async def main() -> None:
        async with aio.transaction():
            task = asyncio.create_task(inner())
            await asyncio.sleep(0.1)
            slow = asyncio.create_task(aio.rows(COUNT_TO.format(2_000_000)))  # keeps the writer from undoing at once
            await asyncio.sleep(0)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await asyncio.gather(task, return_exceptions=True)
            await slow
            await aio.write(INSERT, ("outer",))

    asyncio.run(main())
    assert stored(sqlite) == ["outer"]


def interrupt(call: Callable[[], Awaitable[Any]], moment: int) -> tuple[bool, bool]:
    """Drive a call and raise KeyboardInterrupt at a moment of it; return whether it was, and whether it came out.

    Python handles signals where a function begins and after a call of C code.
    """
    left = moment

    def profiler(frame: Any, event: str, _arg: Any) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(SOURCES):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    sys.setprofile(profiler)
    try:
        drive(call())  # type: ignore[arg-type]
    except KeyboardInterrupt:
        return True, True
    finally:
        sys.setprofile(None)
    return left <= 0, False


def test_ctrl_c_at_any_moment_of_a_blocking_write_leaves_the_writer_usable(sqlite: SqliteBackend) -> None:
    interrupted = turn = 0
    for turn in range(1, 500):
        raised, came_out = interrupt(partial(sqlite.blocking.write, INSERT, (turn,)), turn)
        interrupted += came_out
        with deadline(5):
            drive(sqlite.blocking.write(INSERT, (f"after {turn}",)))
        if not raised:
            break  # it came to its end without an interruption
    assert interrupted > 20
    assert [x for x in stored(sqlite) if isinstance(x, str)] == [f"after {i}" for i in range(1, turn + 1)]
    assert turn in stored(sqlite)


def test_ctrl_c_at_any_moment_of_a_blocking_transaction_leaves_all_of_it_or_nothing(sqlite: SqliteBackend) -> None:
    async def unit(turn: int) -> None:
        async with sqlite.blocking.transaction():
            await sqlite.blocking.write(INSERT, (turn,))
            await sqlite.blocking.script([(INSERT, (-turn,)), ("DELETE FROM t WHERE x = 'before'", ())])

    interrupted = turn = 0
    for turn in range(1, 2000, 3):
        raised, came_out = interrupt(partial(unit, turn), turn)
        interrupted += came_out
        with deadline(5):
            drive(sqlite.blocking.write(INSERT, (f"after {turn}",)))
        if not raised:
            break
    assert interrupted > 20
    found = stored(sqlite)
    assert [x for x in found if isinstance(x, str)] == [f"after {i}" for i in range(1, turn + 1, 3)]
    assert {x for x in found if isinstance(x, int) and x > 0} == {-x for x in found if isinstance(x, int) and x < 0}
    assert turn in found


def test_a_writer_that_is_never_idle_can_be_brought_to_rest_and_closed(sqlite: SqliteBackend) -> None:
    stop = threading.Event()

    def write(me: int) -> None:
        i = me
        while not stop.is_set():
            i += 100
            drive(sqlite.blocking.write(INSERT, (i,)))

    threads = [threading.Thread(target=write, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    writer = database(sqlite).writer
    try:
        for _ in range(20):
            token = writer.rest(time.monotonic() + 10)
            assert token is not None
            assert writer._conn is None
            writer.resume(token)
            drive(sqlite.blocking.close())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    drive(sqlite.blocking.close())


def test_close_finishes_what_is_queued(sqlite: SqliteBackend) -> None:
    async def main() -> None:
        writes = asyncio.gather(*(sqlite.aio.write(INSERT, (i,)) for i in range(50)))
        await asyncio.sleep(0)
        await sqlite.aio.close()
        await writes

    asyncio.run(main())
    assert stored(sqlite) == list(range(50))
    drive(sqlite.blocking.close())
