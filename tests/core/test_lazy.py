"""Lazy attributes: made once, one for all threads, and never under a lock that a fork could copy."""

import os
import threading

import pytest

from ambidex.core.lazy import lazy


class Room:
    """A room."""

    def __init__(self) -> None:
        self.made = 0

    @lazy
    def table(self) -> list[int]:
        """The table."""
        self.made += 1
        return []


def test_it_is_made_at_the_first_use_and_kept() -> None:
    room = Room()
    assert room.made == 0
    assert room.table is room.table
    assert room.made == 1
    assert Room().table is not room.table
    assert Room.table.__doc__ == "The table."


def test_threads_that_come_at_once_get_one_value() -> None:
    barrier = threading.Barrier(8)

    class Slow:
        @lazy
        def value(self) -> object:
            barrier.wait()
            return object()

    slow = Slow()
    seen: list[object] = []
    threads = [threading.Thread(target=lambda: seen.append(slow.value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_makes_it_can_make_its_own() -> None:
    begun, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow:
        @lazy
        def value(self) -> int:
            if os.getpid() == parent:
                begun.set()
                go_on.wait()
            return 1

    slow = Slow()
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    begun.wait()
    pid = os.fork()
    if pid == 0:
        os._exit(slow.value)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
