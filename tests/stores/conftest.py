"""Runs one test body in both modes on several placings of the capabilities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.dual import drive
from ambidex.core.ports import Capability
from ambidex.stores.outbox import Outbox
from tests.services.catalogue import KINDS

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
            if name in ("namespace", "chunked", "with_tokeniser", "tenant", "repository"):
                return Awaited(result)
            return _iterated(result) if hasattr(result, "__next__") else _value(result)

        return call


class Face(Awaited):
    """A synchronous face with the contexts of an asynchronous one."""

    def __getattr__(self, name: str) -> Any:
        if name == "repository":
            return lambda model: Records(self._blocking.repository(model))
        return super().__getattr__(name)

    @asynccontextmanager
    async def transaction(self) -> Any:
        with self._blocking.transaction():
            yield

    def atomically(self, unit: Any) -> Any:
        async def run() -> Any:
            return self._blocking.atomically(lambda: drive(unit()))

        return run()


class Records(Awaited):
    """A synchronous repository whose methods can be awaited."""

    def with_deleted(self) -> Records:
        return Records(self._blocking.with_deleted())


async def _value(value: Any) -> Any:
    return value


async def _iterated(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


_numbers = count()

EMBEDDED = ("memory", "sqlite", "split")
"""Everything in memory; everything in one SQLite file; records and index in two files without one transaction."""

SERVERS = ("postgres", "redis")
"""A server, with the index in a file where it has no search."""


def open_place(kind: str, url: str, folder: Path) -> UnifiedStorage:
    """Return a storage of one kind; ``url`` is the server's, for those that have one."""
    if kind == "memory":
        return UnifiedStorage("memory://")
    if kind == "sqlite":
        return UnifiedStorage(f"sqlite:///{folder}/all.db")
    if kind == "split":
        return UnifiedStorage(f"sqlite:///{folder}/records.db", search=f"sqlite:///{folder}/index.db")
    whole = UnifiedStorage(url)
    if Capability.SEARCH in whole._core.configured():
        return whole
    return UnifiedStorage(url, search=f"sqlite:///{folder}/index.db")


def _served(kind: str) -> Iterator[str]:
    flavour = KINDS[kind].flavours[0]
    if reason := KINDS[kind].unavailable(flavour):
        pytest.skip(f"{kind}: {reason}")
    with KINDS[kind].create(flavour) as service:
        yield service.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """One flavour is enough: the contract of the ports has run on all of them."""
    for url in _served("postgres"):
        yield f"{url}?schema=stores"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """See :func:`postgres_url`."""
    for url in _served("redis"):
        yield f"{url}?durability=relaxed"


class Port:
    """A port with other methods in the place of its own; what guards a server's port stays beneath."""

    def __init__(self, port: Any, **methods: Any) -> None:
        self._port = port
        self.__dict__ |= methods

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


@pytest.fixture(params=[*EMBEDDED, *SERVERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UnifiedStorage]:
    """Where things are kept, bound to no tenant."""
    url = request.getfixturevalue(f"{request.param}_url") if request.param in SERVERS else ""
    with closing(open_place(request.param, url, tmp_path)) as made:
        yield made


@pytest.fixture
def storage(place: UnifiedStorage, own: str) -> UnifiedStorage:
    """The place; on a server bound to a tenant that no other test uses, because servers outlive a test."""
    return place.tenant(own) if place.settings.url.backend in SERVERS else place


@pytest.fixture
def own() -> str:
    """A name that no other test has."""
    return f"test-{next(_numbers)}"


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, storage: UnifiedStorage) -> Run:
    """Run a body with the storage's face of one mode."""
    return in_mode(request.param, storage)


@pytest.fixture(params=["sync", "async"])
def run_unbound(request: pytest.FixtureRequest, place: UnifiedStorage) -> Run:
    """Run a body with the place's face of one mode, which can be bound to tenants."""
    return in_mode(request.param, place)


def in_mode(mode: str, storage: UnifiedStorage) -> Run:
    """Return what runs a body with the storage's face of a mode."""

    def both(body: Body) -> Any:
        if mode == "sync":
            return drive(body(Awaited(storage.sync)))  # type: ignore[arg-type]
        return asyncio.run(body(storage.aio))  # type: ignore[arg-type]

    return both


def in_units(mode: str, storage: UnifiedStorage) -> Run:
    """Return what runs a body with the face of a mode, units of work included, and closes the storage of async mode."""

    def both(body: Body) -> Any:
        if mode == "sync":
            return drive(body(Face(storage.sync)))  # type: ignore[arg-type]

        async def main() -> Any:
            try:
                return await body(storage.aio)
            finally:
                await storage.aio.close()

        return asyncio.run(main())

    return both


def stop_applying(patch: pytest.MonkeyPatch) -> None:
    """Apply nothing after a commit, and let nobody have a lease: what a crash at that moment leaves, a while later."""

    async def crash(self: Outbox, row: Any) -> None:
        await self._release(row.name)

    async def nobody(self: Outbox) -> None:
        pass

    patch.setattr(Outbox, "_after", crash)
    patch.setattr(Outbox, "recover_if_due", nobody)
