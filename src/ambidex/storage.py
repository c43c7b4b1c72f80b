"""The faces that applications hold; ``ambidex.assembly`` puts together what is behind them.

``AsyncStorage`` and ``SyncStorage`` are the typed faces, ``UnifiedStorage`` the one that looks whether an event loop
is running. The invariant: all faces of one object share its settings, backends and connections; making one opens
nothing, and everything opens by itself at first use in either mode, after a close and after a fork.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from ambidex import stores
from ambidex.assembly import Core
from ambidex.core.dual import Blocking, Detecting, drive
from ambidex.core.lazy import lazy
from ambidex.core.ports import Capability
from ambidex.core.runtime import time_limit
from ambidex.errors import ConfigurationError
from ambidex.face import Face, StorageBackend
from ambidex.settings import Settings

__all__ = ["AsyncStorage", "StorageBackend", "SyncStorage", "UnifiedStorage"]

T = TypeVar("T")


class AsyncStorage(Face):
    """The asynchronous face, fully typed.

    Every operation is a coroutine function. Made by ``storage.aio`` or from a URL.

    Args:
        url: see :class:`UnifiedStorage`.
        **settings: see :class:`ambidex.settings.Settings`.
    """

    _core: Core

    def __init__(self, url: str | Core | None = None, tenant: str = "", **settings: Any) -> None:
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

    _core: Core

    def __init__(self, url: str | Core | None = None, tenant: str = "", **settings: Any) -> None:
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

    _core: Core

    def __init__(self, url: str | None = None, *, settings: Settings | None = None, **options: Any) -> None:
        if settings is not None and (url is not None or options):
            raise ConfigurationError("give UnifiedStorage either settings or a URL with options, not both")
        self._core = Core(Settings(url, **options) if settings is None else settings)
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


def _restore(core: Core, tenant: str) -> UnifiedStorage:
    storage = UnifiedStorage.__new__(UnifiedStorage)
    storage._core, storage._tenant = core, tenant
    return storage


def _unpickle(settings: Settings, tenant: str) -> UnifiedStorage:
    return _restore(Core(settings), tenant)


def _core_of(url: str | Core | None, options: Mapping[str, Any]) -> Core:
    return url if isinstance(url, Core) else Core(Settings(url, **options))


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
