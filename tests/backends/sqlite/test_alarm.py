"""One timer for many deadlines: each future is done at its own, in whatever order they were added."""

import asyncio
import time
from functools import partial

from ambidex.backends.sqlite.alarm import Alarm, Alarms


def _note(order: list[float], seconds: float, _future: object) -> None:
    order.append(seconds)


def test_each_future_is_done_at_its_deadline() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(loop)
        now = time.monotonic()
        order: list[float] = []
        futures = []
        for seconds in (0.06, 0.02, 0.04, -1.0, 30.0):
            future = loop.create_future()
            future.add_done_callback(partial(_note, order, seconds))
            alarm.add(future, now + seconds)
            futures.append(future)
        async with asyncio.timeout(20):
            await asyncio.gather(*futures[:4])
        assert order == [-1.0, 0.02, 0.04, 0.06]
        assert time.monotonic() >= now + 0.06
        assert not futures[4].done()
        alarm.remove(futures[4])

    asyncio.run(main())


def test_a_removed_future_is_left_alone_and_a_done_one_does_no_harm() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(loop)
        removed, done, last = loop.create_future(), loop.create_future(), loop.create_future()
        until = time.monotonic() + 0.01
        for future in (removed, done):
            alarm.add(future, until)
        alarm.add(last, until + 0.02)
        alarm.remove(removed)
        done.set_result(None)
        async with asyncio.timeout(20):
            await last
        assert not removed.done()
        alarm.remove(removed)

    asyncio.run(main())


def test_each_loop_has_its_own() -> None:
    alarms = Alarms()

    async def main() -> Alarm:
        loop = asyncio.get_running_loop()
        alarm = alarms.of(loop)
        assert alarms.of(loop) is alarm
        assert alarm.loop is loop
        return alarm

    assert asyncio.run(main()) is not asyncio.run(main())
