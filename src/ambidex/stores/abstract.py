"""What any repository of objects can do, whoever wrote it; applications name these in annotations and implement them.

``Repository`` and ``BlockingRepository`` are of this shape. The invariant: nothing is inherited from here, so a
repository over a store of one's own (a web service, an old database) needs these five methods and nothing of ambidex.
"""

from __future__ import annotations

import builtins
from abc import abstractmethod
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["BaseRepository", "BaseSyncRepository"]

T = TypeVar("T")


@runtime_checkable
class BaseRepository(Protocol[T]):
    """Objects of one class, asynchronous. A subclass that lacks one of the methods cannot be made."""

    @abstractmethod
    async def get(self, id: Any) -> T | None:  # noqa: A002  # the field's own name
        """Return the object with an id, or None."""

    @abstractmethod
    async def create(self, model: T) -> T:
        """Store a new object and return it as stored."""

    @abstractmethod
    async def update(self, model: T) -> T:
        """Store an object that exists and return it as stored."""

    @abstractmethod
    async def delete(self, id: Any) -> bool:  # noqa: A002  # the field's own name
        """Delete an object; True if it existed."""

    @abstractmethod
    async def list(self, /, **filters: Any) -> builtins.list[T]:
        """Return the objects that meet all filters."""


@runtime_checkable
class BaseSyncRepository(Protocol[T]):
    """Objects of one class, synchronous. A subclass that lacks one of the methods cannot be made."""

    @abstractmethod
    def get(self, id: Any) -> T | None:  # noqa: A002  # the field's own name
        """Return the object with an id, or None."""

    @abstractmethod
    def create(self, model: T) -> T:
        """Store a new object and return it as stored."""

    @abstractmethod
    def update(self, model: T) -> T:
        """Store an object that exists and return it as stored."""

    @abstractmethod
    def delete(self, id: Any) -> bool:  # noqa: A002  # the field's own name
        """Delete an object; True if it existed."""

    @abstractmethod
    def list(self, /, **filters: Any) -> builtins.list[T]:
        """Return the objects that meet all filters."""
