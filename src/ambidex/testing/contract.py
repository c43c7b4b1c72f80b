"""What every contract stands on: the two modes, the storage under test, and how a test is run; contracts subclass it.

The invariant: a contract's ``async def test_…`` is run once per mode from the same source. In asynchronous mode it
runs on a loop of its own over the asynchronous leaf; in blocking mode it is driven on the calling thread over the
blocking leaf, where anything that suspends fails the test. Each test works under a tenant of its own, so one server can
serve them all.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pytest

from ambidex.core.dual import drive
from ambidex.core.ports import BlobPort, Capability
from ambidex.face import Face
from ambidex.storage import UnifiedStorage
from ambidex.stores.kv import KeyValue
from ambidex.stores.log import Log
from ambidex.stores.media import Media
from ambidex.stores.search import Index

__all__ = ["Contract", "Mode", "Subject"]

T = TypeVar("T")

_NEEDS = "__ambidex_needs__"
_PATIENCE = 30.0
"""Seconds that something which must happen by itself (an expiry) may take: only a broken backend takes that long."""


class Mode(enum.StrEnum):
    """How the coroutine of a test is run."""

    ASYNC = "async"
    BLOCKING = "blocking"


class Subject:
    """The storage under test as one mode sees it: the stores have their asynchronous shape in both modes.

    Args:
        storage: what the backend's URL opened.
        mode: over which leaf to work.
        tenant: whose data; a fresh one by default.
    """

    def __init__(self, storage: UnifiedStorage, mode: Mode, tenant: str = "") -> None:
        self.root = storage
        self.mode = mode
        self.tenant = tenant or self.fresh_name()
        self.storage = storage.tenant(self.tenant)

    def __repr__(self) -> str:
        return f"Subject({self.root!r}, {self.mode})"

    @property
    def face(self) -> Face:
        """The flat methods, as coroutines."""
        return self.storage.aio if self.mode is Mode.ASYNC else cast("Face", self.storage.sync._twin)

    @property
    def kv(self) -> KeyValue:
        """The key-value store, as coroutines."""
        return self.storage.aio.kv if self.mode is Mode.ASYNC else cast("KeyValue", self.storage.sync.kv._twin)

    @property
    def log(self) -> Log:
        """The streams, as coroutines."""
        return self.storage.aio.events if self.mode is Mode.ASYNC else cast("Log", self.storage.sync.events._twin)

    @property
    def index(self) -> Index:
        """The search index, as coroutines."""
        return self.storage.aio.index if self.mode is Mode.ASYNC else cast("Index", self.storage.sync.index._twin)

    @property
    def media(self) -> Media:
        """The files, as coroutines."""
        return self.storage.aio.media if self.mode is Mode.ASYNC else cast("Media", self.storage.sync.media._twin)

    @property
    def blobs(self) -> BlobPort:
        """The port under the files."""
        return self.root._core.leaf(Capability.BLOBS, self.mode is Mode.BLOCKING).blobs

    def repository(self, cls: Any) -> Any:
        """The repository of a model class, as coroutines."""
        if self.mode is Mode.ASYNC:
            return self.storage.aio.repository(cls)
        return self.storage.sync.repository(cls)._twin

    @staticmethod
    def fresh_name() -> str:
        """Return a tenant's name that nobody has used."""
        return f"t-{uuid.uuid4().hex}"

    def of_tenant(self, name: str) -> Subject:
        """Return the same storage as another tenant sees it."""
        return Subject(self.root, self.mode, name)

    async def sleep(self, seconds: float) -> None:
        """Wait as the mode does."""
        await self.root._core.runtime(self.mode is Mode.BLOCKING).sleep(seconds)

    async def until(self, happened: Callable[[], Awaitable[bool]], what: str) -> None:
        """Poll until something has happened; fail the test if it never does."""
        loops = int(_PATIENCE / 0.02)
        for _ in range(loops):
            if await happened():
                return
            await self.sleep(0.02)
        pytest.fail(f"{what} did not happen within {_PATIENCE:g} seconds")

    async def together(self, calls: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        """Run calls at the same time (tasks, or threads that each drive one) and return their results in order."""
        if self.mode is Mode.ASYNC:
            return list(await asyncio.gather(*(_fresh(call) for call in calls)))
        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(lambda call: drive(call()), calls))

    async def elsewhere(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run one call as an unrelated task or thread would: in no transaction of this one."""
        return (await self.together([call]))[0]

    def run(self, body: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function in this mode, then close the storage."""
        if self.mode is Mode.ASYNC:
            return asyncio.run(self._run(body))
        try:
            return drive(body())
        finally:
            self.root.sync.close()

    async def _run(self, body: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await body()
        finally:
            await self.root.aio.close()


def _fresh(call: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(call(), context=Context())


class Contract:
    """A set of tests about one thing that a backend can do. Subclasses are mixed into a class named ``Test…``.

    Attributes:
        capabilities: what the backend is meant to declare; None to accept whatever it does.
    """

    capabilities: ClassVar[frozenset[Capability] | None] = None

    def __init_subclass__(cls, *, needs: Sequence[Capability] = (), **kwargs: Any) -> None:
        """Make plain tests of the coroutines; ``needs`` names what a backend must declare for them to run."""
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if name.startswith("test_") and inspect.isfunction(value):
                test = _driven(value) if inspect.iscoroutinefunction(value) else value
                setattr(test, _NEEDS, frozenset(needs))
                setattr(cls, name, test)
        _refuse_hidden_tests(cls)

    def make_url(self, tmp_path: Path) -> str:
        """Return the URL of the backend under test; a folder is given for those that need a file."""
        raise NotImplementedError(f"{type(self).__name__} needs make_url(tmp_path), which returns a storage URL")

    def make_storage(self, tmp_path: Path) -> UnifiedStorage:
        """Return the storage under test; override it where a URL does not say enough."""
        return UnifiedStorage(self.make_url(tmp_path), embedder="none")

    @pytest.fixture
    def storage(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UnifiedStorage]:
        """The storage under test, closed afterwards; skips what the backend does not declare."""
        storage = self.make_storage(tmp_path)
        try:
            declared = frozenset(storage._core.configured())
            needed: frozenset[Capability] = getattr(request.function, _NEEDS, frozenset())
            missing = needed - declared
            if missing:
                pytest.skip(f"{_backend_name(storage)} does not declare {', '.join(sorted(missing))}")
            yield storage
        finally:
            storage.close()

    @pytest.fixture(params=list(Mode), ids=str)
    def subject(self, request: pytest.FixtureRequest, storage: UnifiedStorage) -> Subject:
        """The storage under test as one mode sees it."""
        return Subject(storage, request.param)


def _driven(fn: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(fn)
    def test(self: Contract, subject: Subject, **fixtures: Any) -> None:
        subject.run(lambda: fn(self, subject, **fixtures))

    return test


def _refuse_hidden_tests(cls: type) -> None:
    """Refuse a class in which a test of one contract hides another contract's test of the same name."""
    owners: dict[str, type] = {}
    for owner in cls.__mro__:
        for name in vars(owner):
            if name.startswith("test_"):
                first = owners.setdefault(name, owner)
                if not issubclass(first, owner):
                    raise TypeError(
                        f"{first.__qualname__}.{name} hides {owner.__qualname__}.{name} in {cls.__qualname__}"
                    )


def _backend_name(storage: UnifiedStorage) -> str:
    """Name the backend without its address, so that a summary folds the skips of many servers into one line."""
    return f"the backend {storage.settings.url.backend!r}"
