"""What belongs to one process: resources that start anew in a forked child, and a lock that no fork can leave held.

Leaf drivers and ``ambidex.storage`` use this. The invariant: after ``os.fork()`` every registered resource is told
before any other code of the child uses it.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol

__all__ = ["ForkLock", "reset_after_fork"]


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_resources: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def reset_after_fork(resource: _Forkable) -> None:
    """Have ``resource.after_fork()`` called in every child made by ``os.fork()`` (the resource is held weakly)."""
    _resources.add(resource)


def _in_child() -> None:
    for resource in list(_resources):
        resource.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class ForkLock:
    """A re-entrant lock of the threads of one process; a child starts with it free."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget a lock that a thread of the parent may have held."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
