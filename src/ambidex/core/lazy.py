"""An attribute that is made at its first use; the faces keep their rooms so.

The invariant: all threads see one value, and no lock is held while it is made. ``functools.cached_property`` has a
lock until Python 3.11, and a child that is forked while another thread holds it waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, cast, overload

__all__ = ["lazy"]

S = TypeVar("S")
T = TypeVar("T")


class lazy(Generic[S, T]):  # noqa: N801  # used as a decorator
    """Decorate a method that makes the value. Threads that come at once may each make one; the first is kept."""

    def __init__(self, make: Callable[[S], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, obj: None, owner: Any = ...) -> Self: ...
    @overload
    def __get__(self, obj: S, owner: Any = ...) -> T: ...
    def __get__(self, obj: S | None, owner: Any = None) -> Self | T:
        if obj is None:
            return self
        return cast("T", obj.__dict__.setdefault(self._name, self._make(obj)))
