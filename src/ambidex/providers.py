"""Repositories by the name of a backend, for applications that choose it in their environment.

Web frameworks build on this: ``async with get_provider("sqlite") as provider: users = provider.get_repository(User)``.
The invariant: one storage object a URL and set of options in this process, shared by both modes and kept open between
uses.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from ambidex import BlockingRepository, Repository
from ambidex.errors import ConfigurationError, Unavailable
from ambidex.settings import parse_url
from ambidex.storage import AsyncStorage, SyncStorage, UnifiedStorage

__all__ = [
    "AsyncProvider",
    "RepositoryProvider",
    "SyncProvider",
    "SyncRepositoryProvider",
    "close_providers",
    "get_provider",
    "get_sync_provider",
    "url_of",
]

T = TypeVar("T")

_VARIABLES = {"postgres": "POSTGRES_DATABASE_URL", "sqlite": "SQLITE_DATABASE_URL", "redis": "REDIS_URL"}
_BACKENDS = (*_VARIABLES, "memory")


@runtime_checkable
class RepositoryProvider(Protocol):
    """Gives asynchronous repositories."""

    def get_repository(self, model_cls: type[T]) -> Repository[T]:
        """Return the repository of a model class."""
        ...


@runtime_checkable
class SyncRepositoryProvider(Protocol):
    """Gives synchronous repositories."""

    def get_repository(self, model_cls: type[T]) -> BlockingRepository[T]:
        """Return the repository of a model class."""
        ...


class AsyncProvider:
    """Implements :class:`RepositoryProvider` over a storage, which is also at hand as ``storage``."""

    def __init__(self, storage: AsyncStorage) -> None:
        self.storage = storage

    def get_repository(self, model_cls: type[T]) -> Repository[T]:
        """Return the repository of a model class."""
        return self.storage.repository(model_cls)


class SyncProvider:
    """Implements :class:`SyncRepositoryProvider` over a storage, which is also at hand as ``storage``."""

    def __init__(self, storage: SyncStorage) -> None:
        self.storage = storage

    def get_repository(self, model_cls: type[T]) -> BlockingRepository[T]:
        """Return the repository of a model class."""
        return self.storage.repository(model_cls)


def url_of(backend: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Return the URL that the environment gives for a backend.

    Args:
        backend: "postgres", "sqlite", "redis" or "memory"; None means ``STORAGE_BACKEND``, else "sqlite".
        environ: the environment; None means the process's.

    Raises:
        ConfigurationError: an unknown backend, or its variable (POSTGRES_DATABASE_URL, SQLITE_DATABASE_URL, REDIS_URL)
            is not set, or holds no URL of that backend.
    """
    env = os.environ if environ is None else environ
    name = backend or env.get("STORAGE_BACKEND") or "sqlite"
    if name == "memory":
        return "memory://"
    if name not in _VARIABLES:
        raise ConfigurationError(f"unknown backend {name!r}; there are: {', '.join(_BACKENDS)}")
    url = env.get(_VARIABLES[name])
    if not url:
        raise ConfigurationError(f"the backend {name!r} needs the environment variable {_VARIABLES[name]} (a URL)")
    place, _own = parse_url(url)
    if place.backend != name:
        raise ConfigurationError(
            f"{_VARIABLES[name]} is a URL of {place.backend}, not of {name}: {place.display!r}; "
            "correct it, or choose the other backend in STORAGE_BACKEND"
        )
    return url


@asynccontextmanager
async def get_provider(backend: str | None = None, **options: Any) -> AsyncIterator[AsyncProvider]:
    """Give asynchronous repositories of a backend; the storage behind them stays open for the next use.

    Args:
        backend: see :func:`url_of`.
        **options: ``pool_size`` (20) and ``max_overflow`` (30): connections to a server that are kept, and that may be
            opened beyond them; ``pre_ping`` (True): make a round trip before the provider is given; and the settings
            of :class:`ambidex.Settings`, among them ``json_serializer``.

    Raises:
        ConfigurationError: see :func:`url_of`, or an unknown option.
        Unavailable: the backend does not answer.
    """
    pre_ping, options = _split(options)
    storage = _storage(backend, options)
    await storage.initialize_async()
    if pre_ping and not all((await storage.aio.health_check()).values()):
        raise Unavailable(f"{storage!r} does not answer")
    yield AsyncProvider(storage.aio)


@contextmanager
def get_sync_provider(backend: str | None = None, **options: Any) -> Iterator[SyncProvider]:
    """Give synchronous repositories of a backend. See :func:`get_provider`; async driver URLs are translated."""
    pre_ping, options = _split(options)
    storage = _storage(backend, options)
    storage.initialize()
    if pre_ping and not all(storage.sync.health_check().values()):
        raise Unavailable(f"{storage!r} does not answer")
    yield SyncProvider(storage.sync)


def close_providers() -> None:
    """Close every storage that providers have opened; they open again at their next use."""
    for storage in list(_storages.values()):
        storage.close()


_storages: dict[tuple[Any, ...], UnifiedStorage] = {}


def _split(options: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Return whether to ping, and the settings of the storage."""
    settings = {"pool_size": 20, "max_overflow": 30, **options}
    return bool(settings.pop("pre_ping", True)), settings


def _storage(backend: str | None, options: Mapping[str, Any]) -> UnifiedStorage:
    url = url_of(backend)
    # Making one opens nothing, so of two that are made at once, one may be dropped.
    return _storages.setdefault((url, *sorted(options.items())), UnifiedStorage(url, **options))
