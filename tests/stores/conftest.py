"""Runs one test body in both modes on several placings of the capabilities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive

Body = Callable[[Any], Awaitable[Any]]
Run = Callable[[Body], Any]


class Awaited:
    """A synchronous object whose methods can be awaited, so that one test body serves both modes."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._blocking, name)
        if not callable(value):
            return Awaited(value)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if name in ("namespace", "chunked", "with_tokeniser", "tenant"):
                return Awaited(result)
            return _iterated(result) if hasattr(result, "__next__") else _value(result)

        return call


async def _value(value: Any) -> Any:
    return value


async def _iterated(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.fixture(params=["memory", "sqlite", "split"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UnifiedStorage]:
    """Everything in memory; everything in one SQLite file; records and index in two files without one transaction."""
    if request.param == "memory":
        made = UnifiedStorage("memory://")
    elif request.param == "sqlite":
        made = UnifiedStorage(f"sqlite:///{tmp_path}/all.db")
    else:
        made = UnifiedStorage(f"sqlite:///{tmp_path}/records.db", search=f"sqlite:///{tmp_path}/index.db")
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, storage: UnifiedStorage) -> Run:
    """Run a body with the storage's face of one mode."""

    def both(body: Body) -> Any:
        if request.param == "sync":
            return drive(body(Awaited(storage.sync)))  # type: ignore[arg-type]
        return asyncio.run(body(storage.aio))  # type: ignore[arg-type]

    return both
