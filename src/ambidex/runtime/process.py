"""What belongs to one process: resources that start anew in a forked child, and a lock that no fork can leave held.

Leaf drivers and ``ambidex.storage`` use this. The invariant: after ``os.fork()`` every registered resource is told
before any other code of the child uses it; one that must be at rest while the process is copied is told before, too.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol

__all__ = ["ForkLock", "reset_after_fork", "rest_during_fork"]


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


class _Restable(_Forkable, Protocol):
    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...


_resources: weakref.WeakSet[_Forkable] = weakref.WeakSet()
_restable: weakref.WeakSet[_Restable] = weakref.WeakSet()
_resting: list[_Restable] = []


def reset_after_fork(resource: _Forkable) -> None:
    """Have ``resource.after_fork()`` called in every child made by ``os.fork()`` (the resource is held weakly)."""
    _resources.add(resource)


def rest_during_fork(resource: _Restable) -> None:
    """Have the resource told around every ``os.fork()`` (it is held weakly).

    ``before_fork`` is called first, then ``after_fork_in_parent`` there and ``after_fork`` in the child.
    """
    _restable.add(resource)
    _resources.add(resource)


def _before() -> None:
    _resting[:] = list(_restable)  # the same ones are told afterwards, and none can vanish in between
    for resource in _resting:
        resource.before_fork()


def _in_parent() -> None:
    for resource in _resting:
        resource.after_fork_in_parent()
    _resting.clear()


def _in_child() -> None:
    _resting.clear()
    for resource in list(_resources):
        resource.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


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
