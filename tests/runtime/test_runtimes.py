"""Both runtimes keep one contract: order of results, first error, locks, shared flights that always end."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from ambidex.core.dual import drive
from ambidex.core.runtime import Runtime, check_deadline, current_deadline, deadline
from ambidex.errors import DeadlineExceeded
from ambidex.runtime.aio import AsyncRuntime
from ambidex.runtime.blocking import BlockingRuntime

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["async", "blocking"])
def mode(request: pytest.FixtureRequest) -> tuple[Runtime, Run]:
    if request.param == "async":
        return AsyncRuntime(), asyncio.run
    return BlockingRuntime(), drive


async def _together(runtime: Runtime, calls: list[Callable[[], Coroutine[Any, Any, Any]]]) -> list[Any]:
    """Run calls as concurrent tasks or threads; errors are results."""
    if not runtime.blocking:
        return await asyncio.gather(*(call() for call in calls), return_exceptions=True)

    def outcome(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        try:
            return drive(call())
        except BaseException as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))


def test_gather_keeps_the_order(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode

    async def give(number: int) -> int:
        await runtime.sleep(0.02 if number == 0 else 0)
        return number

    async def main() -> list[int]:
        assert await runtime.gather([]) == []
        return await runtime.gather([partial(give, number) for number in range(5)])

    assert run(main()) == [0, 1, 2, 3, 4]


def test_gather_raises_the_first_error_and_leaves_nothing_running(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    finished: list[str] = []

    async def fail() -> None:
        raise LookupError("first")

    async def slow() -> None:
        await runtime.sleep(0.2)
        finished.append("slow")

    async def main() -> None:
        with pytest.raises(LookupError, match="first"):
            await runtime.gather([fail, slow])
        await runtime.sleep(0.3)

    run(main())
    assert finished == []


def test_side_by_side_waits_for_all_at_once_and_shares_the_deadline(mode: tuple[Runtime, Run]) -> None:
    """Each call waits for the others to have begun: one after another they would wait in vain."""
    runtime, run = mode
    begun: set[int] = set()
    deadlines: set[float] = set()

    async def meet(number: int) -> int:
        begun.add(number)
        deadlines.add(current_deadline(1000))
        for _ in range(1000):
            if len(begun) == 4:
                return number
            await runtime.sleep(0.01)
        raise AssertionError("the others never began")

    async def main() -> list[int]:
        assert await runtime.side_by_side([]) == []
        with deadline(100):
            return await runtime.side_by_side([partial(meet, number) for number in range(4)])

    assert run(main()) == [0, 1, 2, 3]
    assert len(deadlines) == 1


def test_side_by_side_raises_an_error_when_all_have_ended(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    ended: list[int] = []

    async def end(number: int, failing: bool) -> None:
        try:
            await runtime.sleep(0.05 * number)
            if failing:
                raise LookupError(number)
        finally:
            ended.append(number)

    for failing in ({0}, {1}, {2}, {1, 2}):
        ended.clear()
        with pytest.raises(LookupError):
            run(runtime.side_by_side([partial(end, number, number in failing) for number in range(3)]))
        assert sorted(ended) == [0, 1, 2]


def test_a_lock_lets_one_in(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    lock = runtime.lock()
    inside: list[int] = []
    most: list[int] = []

    async def enter() -> None:
        async with lock:
            inside.append(1)
            most.append(len(inside))
            await runtime.sleep(0.005)
            inside.pop()

    run(_together(runtime, [enter] * 5))
    assert most == [1] * 5


def test_a_lock_is_free_again_after_an_error(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    lock = runtime.lock()

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(LookupError):
                async with lock:
                    raise LookupError

    run(main())
    run(main())


def test_a_flight_is_shared(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    runs: list[int] = []

    async def work() -> int:
        runs.append(1)
        await runtime.sleep(0.1)
        return len(runs)

    results = run(_together(runtime, [lambda: runtime.single_flight("key", work)] * 6))
    assert results == [1] * 6
    assert run(runtime.single_flight("key", work)) == 2, "the next flight is a new one"


def test_flights_of_different_keys_are_apart(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode

    async def work(key: int) -> int:
        await runtime.sleep(0.01)
        return key

    calls = [partial(runtime.single_flight, key, partial(work, key)) for key in range(5)]
    assert run(_together(runtime, calls)) == [0, 1, 2, 3, 4]  # type: ignore[arg-type]


def test_a_flights_error_reaches_everyone_and_is_forgotten(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    runs: list[int] = []

    async def work() -> str:
        runs.append(1)
        await runtime.sleep(0.1)
        if len(runs) == 1:
            raise LookupError("no source")
        return "found"

    results = run(_together(runtime, [lambda: runtime.single_flight("key", work)] * 4))
    assert [type(result) for result in results] == [LookupError] * 4
    assert run(runtime.single_flight("key", work)) == "found"


def test_a_flight_that_asks_for_itself_ends(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    depth: list[int] = []

    async def work() -> int:
        depth.append(1)
        if len(depth) < 2:
            return 1 + await runtime.single_flight("key", work)
        return 1

    async def main() -> int:
        result: int = await runtime.single_flight("key", work)
        return result

    assert run(main()) == 2


def test_offload_returns_or_raises(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode

    def fail() -> None:
        raise LookupError

    async def main() -> int:
        with pytest.raises(LookupError):
            await runtime.offload(fail)
        return await runtime.offload(lambda: 5)

    assert run(main()) == 5


def test_offload_keeps_the_loop_free() -> None:
    runtime = AsyncRuntime()
    released = threading.Event()

    async def main() -> bool:
        waiting = asyncio.ensure_future(runtime.offload(lambda: released.wait(30)))
        await asyncio.sleep(0)
        released.set()
        return await waiting

    assert asyncio.run(main())


def test_a_cancelled_waiter_does_not_end_the_flight() -> None:
    runtime = AsyncRuntime()

    async def work() -> str:
        await asyncio.sleep(0.05)
        return "done"

    async def main() -> str:
        first = asyncio.ensure_future(runtime.single_flight("key", work))
        second = asyncio.ensure_future(runtime.single_flight("key", work))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(main()) == "done"


def test_a_waiter_of_a_flight_has_its_own_deadline(mode: tuple[Runtime, Run]) -> None:
    """The one with less time is refused at its deadline, and the runner goes on."""
    runtime, run = mode
    ended = []

    async def work() -> str:
        await runtime.sleep(1.0)
        ended.append("work")
        return "done"

    async def patient() -> str:
        return await runtime.single_flight("key", work)

    async def hurried() -> str:
        await runtime.sleep(0.1)  # let the other begin
        with pytest.raises(DeadlineExceeded) as caught, deadline(0.1):
            await runtime.single_flight("key", work)
        assert not ended
        return str(caught.value.applied)

    assert run(_together(runtime, [patient, hurried])) == ["done", "no"]


def test_the_short_deadline_of_a_runner_is_not_that_of_the_others(mode: tuple[Runtime, Run]) -> None:
    runtime, run = mode
    runs: list[int] = []

    async def work() -> str:
        runs.append(1)
        await runtime.sleep(0.3)
        check_deadline(current_deadline(100), "it")
        return "done"

    async def hurried() -> str:
        with pytest.raises(DeadlineExceeded), deadline(0.2):
            await runtime.single_flight("key", work)
        return "refused"

    async def patient() -> str:
        await runtime.sleep(0.1)
        return await runtime.single_flight("key", work)

    assert run(_together(runtime, [hurried, patient, patient])) == ["refused", "done", "done"]
    assert len(runs) == 2


def test_an_interrupted_runner_hands_its_flight_on() -> None:
    runtime = BlockingRuntime()
    started, runs = threading.Event(), []

    async def work() -> str:
        runs.append(1)
        if len(runs) == 1:
            started.set()
            await runtime.sleep(0.1)
            raise KeyboardInterrupt
        return "second"

    def first() -> Any:
        try:
            return drive(runtime.single_flight("key", work))
        except KeyboardInterrupt:
            return "interrupted"

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert started.wait(30)
        other = pool.submit(lambda: drive(runtime.single_flight("key", work)))
        assert one.result() == "interrupted"
        assert other.result() == "second"


def test_one_asynchronous_runtime_serves_many_loops() -> None:
    runtime = AsyncRuntime()
    lock = runtime.lock()

    async def main() -> int:
        async with lock:
            return await runtime.single_flight("key", partial(_give, 1))

    assert [asyncio.run(main()) for _ in range(3)] == [1, 1, 1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: asyncio.run(main()), range(8))) == [1] * 8


async def _give(value: int) -> int:
    return value


def test_a_child_does_not_wait_for_a_flight_of_its_parent() -> None:
    """Forked while another thread computes: that thread does not exist in the child, and nobody there ends its call."""
    runtime = BlockingRuntime()
    begun, go = threading.Event(), threading.Event()

    async def work() -> str:
        begun.set()
        assert go.wait(60)
        return "parent's"

    async def own() -> str:
        return "child's"

    with ThreadPoolExecutor(1) as pool:
        flight = pool.submit(lambda: drive(runtime.single_flight("key", work)))
        assert begun.wait(30)
        pid = os.fork()
        if pid == 0:  # pragma: no cover  # in the child
            with deadline(10):
                os._exit(0 if drive(runtime.single_flight("key", own)) == "child's" else 1)
        go.set()
        assert flight.result() == "parent's"
    assert os.waitpid(pid, 0)[1] == 0


def test_a_flight_that_forks_ends_in_both() -> None:
    runtime = BlockingRuntime()

    async def fork() -> int:
        return os.fork()

    pid = drive(runtime.single_flight("key", fork))
    if pid == 0:  # pragma: no cover  # in the child
        os._exit(drive(runtime.single_flight("key", partial(_give, 7))) - 7)
    assert os.waitpid(pid, 0)[1] == 0
    assert drive(runtime.single_flight("key", partial(_give, 1))) == 1
