"""The faces that applications hold.

A URL becomes backends, backends become stores; nothing else in the package knows which backend is behind a port.

``AsyncStorage`` and ``SyncStorage`` are the typed faces, ``UnifiedStorage`` the one that looks whether an event loop
is running. The invariant: all faces of one object share its settings, backends and connections; making one opens
nothing, and everything opens by itself at first use in either mode, after a close and after a fork.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from ambidex import stores
from ambidex.core.dual import Blocking, Detecting, drive
from ambidex.core.lazy import lazy
from ambidex.core.ports import Backend, Capability, Leaf
from ambidex.core.runtime import Runtime, time_limit
from ambidex.errors import CapabilityMissing, ConfigurationError
from ambidex.face import Face, StorageBackend
from ambidex.runtime.process import ForkLock
from ambidex.settings import OVERRIDES, BackendUrl, Settings, extra_for, register_scheme

__all__ = ["AsyncStorage", "StorageBackend", "SyncStorage", "UnifiedStorage", "register_backend"]

T = TypeVar("T")

_CLASSES = {
    "memory": ("ambidex.backends.memory", "MemoryBackend"),
    "sqlite": ("ambidex.backends.sqlite", "SqliteBackend"),
    "redis": ("ambidex.backends.redis", "RedisBackend"),
    "postgres": ("ambidex.backends.postgres", "PostgresBackend"),
    "files": ("ambidex.backends.files", "FilesBackend"),
    "objects": ("ambidex.backends.objects", "ObjectsBackend"),
}
_third_party: dict[str, Callable[[BackendUrl, Settings], Backend]] = {}


def register_backend(scheme: str, make: Callable[[BackendUrl, Settings], Backend]) -> None:
    """Let URLs of a scheme open a third party's backend.

    Args:
        scheme: what stands before ``://``.
        make: called with the parsed URL and the settings; returns the backend, opens nothing.
    """
    register_scheme(scheme, scheme)
    _third_party[scheme] = make


class _Core:
    """What all faces of one storage object share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._backends: dict[BackendUrl, Backend] = {}
        self._leaves: dict[tuple[int, bool], Leaf] = {}
        self._deferring: dict[tuple[int, bool], Leaf] = {}
        self._outboxes: dict[bool, stores.Outbox] = {}
        self._policies: dict[int, tuple[Any, Any]] = {}
        self._runtimes: dict[bool, Runtime] = {}
        self._announced = False
        self._guard = ForkLock()

    @lazy
    def cache(self) -> stores.QueryCache:
        """Where answers of searches are kept."""
        return stores.QueryCache()

    @lazy
    def _shared(self) -> stores.Shared:
        return stores.Shared()

    @lazy
    def embedder(self) -> stores.Embedder | None:
        """What makes vectors of texts, or None."""
        from ambidex.embedders import embedder_for

        return embedder_for(self.settings.embedder)

    def backend(self, capability: Capability) -> Backend:
        """Return the backend that has been chosen for a capability."""
        place = self.settings.overrides.get(str(capability), self.settings.url)
        backend = self._at(place)
        if capability not in backend.capabilities:
            raise CapabilityMissing(
                f"the backend {backend.name!r} at {place.display!r} has no {capability}; "
                f"it has {', '.join(sorted(backend.capabilities))}. {_remedy(place.display, str(capability))}"
            )
        return backend

    def local_blobs(self) -> Backend:
        """Return the folder of blobs for a main backend that can keep none."""
        return self._at(self.settings.local_blobs)

    def _at(self, place: BackendUrl) -> Backend:
        backend = self._backends.get(place)
        if backend is None:
            with self._guard:
                backend = self._backends.get(place)
                if backend is None:
                    backend = self._backends[place] = _make_backend(place, self.settings)
                self._announce()
        return backend

    def leaf(self, capability: Capability, blocking: bool) -> Leaf:
        """Return a colour of the backend for a capability; a remote one with retry and breaker around its ports."""
        backend = self.backend(capability)
        leaf = self._plain(backend, blocking)
        if not self._is_elsewhere(backend):
            return leaf
        from ambidex.stores.deferred import deferring

        found = self._deferring.get((id(backend), blocking))
        # setdefault, because stores compare leaves to see whether one backend holds two things
        return found or self._deferring.setdefault(
            (id(backend), blocking), deferring(leaf, self.outbox(blocking), self._place(backend))
        )

    def _plain(self, backend: Backend, blocking: bool) -> Leaf:
        leaf = backend.blocking if blocking else backend.aio
        return self._protected(backend, leaf, blocking) if getattr(backend, "remote", False) else leaf

    def _is_elsewhere(self, backend: Backend) -> bool:
        """Tell whether a backend is another one than that of transactions, if there are transactions at all."""
        if not self.settings.overrides:
            return False
        try:
            return self.backend(Capability.TRANSACTIONS) is not backend
        except (CapabilityMissing, ConfigurationError):
            return False

    def outbox(self, blocking: bool) -> stores.Outbox:
        """Return what runs units of work in a mode.

        Raises:
            CapabilityMissing: the main backend has no transactions.
        """
        outbox = self._outboxes.get(blocking)
        if outbox is None:
            home = self.backend(Capability.TRANSACTIONS)
            made = stores.Outbox(
                self._plain(home, blocking),
                home.capabilities,
                functools.partial(self._target, blocking),
                self.runtime(blocking),
                self._shared,
            )
            outbox = self._outboxes.setdefault(blocking, made)
        return outbox

    def _place(self, backend: Backend) -> str:
        """Return the first of the capabilities that are placed on a backend: its name in the outbox."""
        places = self.settings.overrides
        return next(name for name in OVERRIDES if name in places and self._backends.get(places[name]) is backend)

    def _target(self, blocking: bool, place: str) -> stores.Target:
        backend = self.backend(Capability(place)) if place in OVERRIDES else None
        if backend is None or not self._is_elsewhere(backend):
            raise ConfigurationError(
                f"a unit has left writes for the backend on which its process had placed {place!r}, and this one has "
                f"that on the backend of transactions; open both alike: UnifiedStorage(…, {place}=…)"
            )
        return stores.Target(self._plain(backend, blocking), backend.capabilities, backend.name)

    def _protected(self, backend: Backend, leaf: Leaf, blocking: bool) -> Leaf:
        """Both colours share the breaker and the retry budget, because both speak to the same server."""
        from ambidex.policies.breaker import Breaker
        from ambidex.policies.protect import Guard, protect
        from ambidex.policies.retry import Budget, Retry, RetrySettings
        from ambidex.runtime.guard import warn_if_in_loop

        with self._guard:
            protected = self._leaves.get((id(backend), blocking))
            if protected is None:
                limits = RetrySettings()
                breaker, budget = self._policies.setdefault(id(backend), (Breaker(), Budget(limits)))
                guard = Guard(
                    Retry(self.runtime(blocking), limits, budget),
                    breaker,
                    self.settings.timeout,
                    warn_if_in_loop if blocking else None,
                )
                protected = self._leaves[id(backend), blocking] = protect(leaf, guard)
            return protected

    def runtime(self, blocking: bool) -> Runtime:
        """Return the services of a mode."""
        runtime = self._runtimes.get(blocking)
        if runtime is None:
            name, cls = ("blocking", "BlockingRuntime") if blocking else ("aio", "AsyncRuntime")
            made = getattr(importlib.import_module(f"ambidex.runtime.{name}"), cls)()
            runtime = self._runtimes.setdefault(blocking, made)
        return runtime

    def configured(self) -> dict[Capability, Backend]:
        """Return the capabilities that a backend stands behind."""
        found: dict[Capability, Backend] = {}
        for capability in Capability:
            try:
                found[capability] = self.backend(capability)
            except CapabilityMissing:
                continue
        return found

    def every_backend(self) -> list[Backend]:
        """Return each configured backend once."""
        return list({id(backend): backend for backend in self.configured().values()}.values())

    def opened(self) -> list[Backend]:
        """Return the backends that were made so far."""
        return list(self._backends.values())

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            if "logging" in sys.modules:  # else nobody listens
                sys.modules["logging"].getLogger("ambidex").info("UnifiedStorage initialized")


def _remedy(main: str, capability: str) -> str:
    if capability in OVERRIDES:
        return (
            f"Place {capability} elsewhere with a keyword, "
            f"e.g. UnifiedStorage({main!r}, {capability}='sqlite:///data.db')"
        )
    return (
        f"Only the main backend gives {capability}: make it one that has them, and place the rest on this one, "
        f"e.g. UnifiedStorage('sqlite:///data.db', kv={main!r})"
    )


def _make_backend(place: BackendUrl, settings: Settings) -> Backend:
    make = _third_party.get(place.backend)
    if make is not None:
        return make(place, settings)
    module, name = _CLASSES[place.backend]
    try:
        cls = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        extra = extra_for(place.backend)
        remedy = f"pip install 'ambidex[{extra}]'" if extra else "this version of ambidex does not have it"
        raise ConfigurationError(
            f"the backend for {place.scheme}:// needs the module {error.name!r}: {remedy}"
        ) from None
    backend: Backend = cls(place, settings)
    return backend


class AsyncStorage(Face):
    """The asynchronous face, fully typed.

    Every operation is a coroutine function. Made by ``storage.aio`` or from a URL.

    Args:
        url: see :class:`UnifiedStorage`.
        **settings: see :class:`ambidex.settings.Settings`.
    """

    _core: _Core

    def __init__(self, url: str | _Core | None = None, tenant: str = "", **settings: Any) -> None:
        super().__init__(_core_of(url, settings), tenant)

    @property
    def kv(self) -> stores.KeyValue:
        """Values by key."""
        return self._kv

    @property
    def events(self) -> stores.Log:
        """Append-only streams."""
        return self._events

    @property
    def index(self) -> stores.Index:
        """Full text and vectors."""
        return self._index

    @property
    def conversations(self) -> stores.Conversations:
        """Chats."""
        return self._conversations

    @property
    def documents(self) -> stores.Documents:
        """Texts with versions, found by their best pieces."""
        return self._documents

    def repository(self, model: type[T]) -> stores.Repository[T]:
        """Return the repository of a model class."""
        return stores.Repository(self, model)

    @property
    def media(self) -> stores.Media:
        """Files by content."""
        return self._media

    @property
    def outbox(self) -> stores.OutboxAdmin:
        """What transactions have left for other backends."""
        return self._outbox

    def tenant(self, name: str) -> AsyncStorage:
        """Return the same face bound to a tenant: it sees that tenant's data and no other."""
        return AsyncStorage(self._core, _tenant(self._tenant, name))

    async def initialize(self) -> None:
        """Connect now rather than at first use, so that errors show early."""
        with time_limit(self._timeout):
            for backend in self._core.every_backend():
                await backend.aio.open()

    async def close(self) -> None:
        """Release every connection, of both modes; the object opens again at its next use."""
        for backend in self._core.opened():
            await backend.aio.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class SyncStorage(Blocking, Face):
    """The synchronous face, fully typed: every operation returns its value. Made by ``storage.sync`` or from a URL.

    Args:
        url: see :class:`UnifiedStorage`.
        **settings: see :class:`ambidex.settings.Settings`.
    """

    _is_blocking = True

    _core: _Core

    def __init__(self, url: str | _Core | None = None, tenant: str = "", **settings: Any) -> None:
        super().__init__(_core_of(url, settings), tenant)

    @lazy
    def kv(self) -> stores.BlockingKeyValue:
        """Values by key."""
        return stores.BlockingKeyValue(self._scope(Capability.KV))

    @lazy
    def events(self) -> stores.BlockingLog:
        """Append-only streams."""
        return stores.BlockingLog(self._scope(Capability.LOG))

    @lazy
    def index(self) -> stores.BlockingIndex:
        """Full text and vectors."""
        return stores.BlockingIndex(self._scope(Capability.SEARCH))

    @lazy
    def conversations(self) -> stores.BlockingConversations:
        """Chats."""
        return stores.BlockingConversations(*self._conversations._scopes)

    @lazy
    def documents(self) -> stores.BlockingDocuments:
        """Texts with versions, found by their best pieces."""
        return stores.BlockingDocuments(*self._documents._bound)

    def repository(self, model: type[T]) -> stores.BlockingRepository[T]:
        """Return the repository of a model class."""
        return stores.BlockingRepository(self, model)

    @lazy
    def media(self) -> stores.BlockingMedia:
        """Files by content."""
        return stores.BlockingMedia(*self._media._bound)

    @lazy
    def outbox(self) -> stores.BlockingOutboxAdmin:
        """What transactions have left for other backends."""
        made = self._outbox
        return stores.BlockingOutboxAdmin(made._outbox, made._timeout)

    def tenant(self, name: str) -> SyncStorage:
        """Return the same face bound to a tenant: it sees that tenant's data and no other."""
        return SyncStorage(self._core, _tenant(self._tenant, name))

    def initialize(self) -> None:
        """Connect now rather than at first use, so that errors show early."""
        with time_limit(self._timeout):
            for backend in self._core.every_backend():
                drive(backend.blocking.open())

    def close(self) -> None:
        """Release every connection, of both modes; the object opens again at its next use."""
        for backend in self._core.opened():
            drive(backend.blocking.close())

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UnifiedStorage(Detecting, Face, StorageBackend):  # type: ignore[misc]  # the abstract search takes any keywords
    """One object for both modes: its methods return values, or awaitables inside a running event loop.

    ``storage.sync`` and ``storage.aio`` are the explicit, typed faces over the same connections; prefer them where the
    mode is known. ``with storage`` gives the first, ``async with storage`` the second.

    Args:
        url: ``memory://``, ``sqlite:///path``, ``postgresql://…``, ``redis://…``; None: ``AMBIDEX_URL``, else an
            embedded SQLite file in the
            user's data folder. Options stand behind it: ``?timeout=5&durability=relaxed``.
        settings: ready-made settings instead of a URL and keywords.
        **options: the keywords of :class:`ambidex.settings.Settings`, among them a URL for a capability kept
            elsewhere: ``search="sqlite:///i.db"``.

    Raises:
        ConfigurationError: the URL or an option cannot work.
    """

    _core: _Core

    def __init__(self, url: str | None = None, *, settings: Settings | None = None, **options: Any) -> None:
        if settings is not None and (url is not None or options):
            raise ConfigurationError("give UnifiedStorage either settings or a URL with options, not both")
        self._core = _Core(Settings(url, **options) if settings is None else settings)
        self._tenant = ""

    @lazy
    def sync(self) -> SyncStorage:
        """The synchronous face."""
        return SyncStorage(self._core, self._tenant)

    @lazy
    def aio(self) -> AsyncStorage:
        """The asynchronous face."""
        return AsyncStorage(self._core, self._tenant)

    @property
    def _sync(self) -> SyncStorage:
        return self.sync

    @property
    def _aio(self) -> AsyncStorage:
        return self.aio

    @lazy
    def kv(self) -> stores.DetectingKeyValue:
        """Values by key."""
        return stores.DetectingKeyValue(self.aio.kv, self.sync.kv)

    @lazy
    def events(self) -> stores.DetectingLog:
        """Append-only streams."""
        return stores.DetectingLog(self.aio.events, self.sync.events)

    @lazy
    def index(self) -> stores.DetectingIndex:
        """Full text and vectors."""
        return stores.DetectingIndex(self.aio.index, self.sync.index)

    @lazy
    def conversations(self) -> stores.DetectingConversations:
        """Chats."""
        return stores.DetectingConversations(self.aio.conversations, self.sync.conversations)

    @lazy
    def documents(self) -> stores.DetectingDocuments:
        """Texts with versions, found by their best pieces."""
        return stores.DetectingDocuments(self.aio.documents, self.sync.documents)

    @lazy
    def media(self) -> stores.DetectingMedia:
        """Files by content."""
        return stores.DetectingMedia(self.aio.media, self.sync.media)

    @lazy
    def outbox(self) -> stores.DetectingOutboxAdmin:
        """What transactions have left for other backends."""
        return stores.DetectingOutboxAdmin(self.aio.outbox, self.sync.outbox)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._core.settings

    def repository(self, model: type[T]) -> stores.DetectingRepository[T]:
        """Return the repository of a model class."""
        return stores.DetectingRepository(self.aio.repository(model), self.sync.repository(model))

    def tenant(self, name: str) -> UnifiedStorage:
        """Return the same face bound to a tenant: it sees that tenant's data and no other."""
        return _restore(self._core, _tenant(self._tenant, name))

    def initialize(self) -> None:
        """Connect now, blocking; the object is then usable from both modes.

        Idempotent and thread-safe; runs by itself at first use.
        """
        self.sync.initialize()

    async def initialize_async(self) -> None:
        """Connect now, awaitable; the object is then usable from both modes.

        Idempotent and thread-safe; runs by itself at first use.
        """
        await self.aio.initialize()

    def close(self) -> None:
        """Release every connection of both modes; the object opens again at its next use."""
        self.sync.close()

    async def close_async(self) -> None:
        """Release every connection of both modes; the object opens again at its next use."""
        await self.aio.close()

    def __enter__(self) -> SyncStorage:
        return self.sync.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> AsyncStorage:
        return await self.aio.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close_async()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self._core.settings, self._tenant)

    def __copy__(self) -> UnifiedStorage:
        return _restore(self._core, self._tenant)


def _restore(core: _Core, tenant: str) -> UnifiedStorage:
    storage = UnifiedStorage.__new__(UnifiedStorage)
    storage._core, storage._tenant = core, tenant
    return storage


def _unpickle(settings: Settings, tenant: str) -> UnifiedStorage:
    return _restore(_Core(settings), tenant)


def _core_of(url: str | _Core | None, options: Mapping[str, Any]) -> _Core:
    return url if isinstance(url, _Core) else _Core(Settings(url, **options))


def _tenant(bound: str, name: str) -> str:
    from ambidex.core.keys import escape
    from ambidex.errors import TenantMismatch

    if not name or (bound and bound != name):
        raise TenantMismatch(
            f"cannot bind the tenant {name!r}"
            + (f": this handle is bound to {bound!r}" if bound else ": it has no name")
        )
    escape(name)
    return name
