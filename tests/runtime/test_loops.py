"""Resources of one process and loop."""

import asyncio
import gc
import os

import pytest

from ambidex.runtime.loops import PerLoop
from ambidex.runtime.process import ForkLock, reset_after_fork


def test_each_loop_has_its_own_value_and_keeps_it() -> None:
    values: PerLoop[object] = PerLoop(object)

    async def twice() -> tuple[object, object]:
        return values.get(), values.get()

    one, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert one is again
    assert one is not other


def test_a_value_goes_with_its_loop() -> None:
    values: PerLoop[list[int]] = PerLoop(list)

    async def use() -> None:
        values.get().append(1)

    asyncio.run(use())
    gc.collect()
    assert values.drain() == []


def test_outside_a_loop_there_is_no_value() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        PerLoop(object).get()


def test_drain_gives_every_value_once() -> None:
    values: PerLoop[list[int]] = PerLoop(list)

    async def use() -> None:
        values.get().append(1)
        loop = asyncio.get_running_loop()
        assert values.drain() == [(loop, [1])]
        assert values.drain() == []
        assert values.get() == []

    asyncio.run(use())


def test_a_child_starts_with_free_locks_and_is_told() -> None:
    class Resource:
        told = False

        def after_fork(self) -> None:
            self.told = True

    lock, resource = ForkLock(), Resource()
    reset_after_fork(resource)
    with lock, lock:  # re-entrant
        pid = os.fork()
        if pid == 0:  # pragma: no cover  # in the child
            import threading

            taken: list[bool] = []

            def take() -> None:
                with lock:
                    taken.append(True)

            thread = threading.Thread(target=take, daemon=True)
            thread.start()
            thread.join(20)
            os._exit(0 if taken and resource.told else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not resource.told
