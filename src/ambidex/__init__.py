"""One storage layer for Python that works the same from synchronous and asynchronous code.

The public names; each is loaded when it is first used, so importing the package opens nothing and imports no driver.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for True; importing typing would double the cost of importing this

if TYPE_CHECKING:
    from typing import Any

    from ambidex import errors
    from ambidex.assembly import register_backend
    from ambidex.core.dual import Blocking, context, operation, stream
    from ambidex.core.ids import uuid7
    from ambidex.core.runtime import deadline, operation_id
    from ambidex.core.spec import CreatedAt, DeletedAt, Id, Indexed, Unique, UpdatedAt, Version
    from ambidex.migrations import metadata
    from ambidex.providers import RepositoryProvider, SyncRepositoryProvider, get_provider, get_sync_provider
    from ambidex.settings import Settings
    from ambidex.storage import AsyncStorage, StorageBackend, SyncStorage, UnifiedStorage
    from ambidex.stores.abstract import BaseRepository, BaseSyncRepository
    from ambidex.stores.repository import BlockingRepository, Page, Repository

    unified_storage: UnifiedStorage

__version__ = "0.1.0"

_HOME = {
    "AsyncStorage": "storage",
    "BaseRepository": "stores.abstract",
    "BaseSyncRepository": "stores.abstract",
    "Blocking": "core.dual",
    "BlockingRepository": "stores.repository",
    "CreatedAt": "core.spec",
    "DeletedAt": "core.spec",
    "Id": "core.spec",
    "Indexed": "core.spec",
    "Page": "stores.repository",
    "Repository": "stores.repository",
    "RepositoryProvider": "providers",
    "Settings": "settings",
    "StorageBackend": "storage",
    "SyncRepositoryProvider": "providers",
    "SyncStorage": "storage",
    "UnifiedStorage": "storage",
    "Unique": "core.spec",
    "UpdatedAt": "core.spec",
    "Version": "core.spec",
    "context": "core.dual",
    "deadline": "core.runtime",
    "get_provider": "providers",
    "get_sync_provider": "providers",
    "metadata": "migrations",
    "operation": "core.dual",
    "operation_id": "core.runtime",
    "register_backend": "assembly",
    "stream": "core.dual",
    "uuid7": "core.ids",
}

__all__ = [
    "AsyncStorage",
    "BaseRepository",
    "BaseSyncRepository",
    "Blocking",
    "BlockingRepository",
    "CreatedAt",
    "DeletedAt",
    "Id",
    "Indexed",
    "Page",
    "Repository",
    "RepositoryProvider",
    "Settings",
    "StorageBackend",
    "SyncRepositoryProvider",
    "SyncStorage",
    "UnifiedStorage",
    "Unique",
    "UpdatedAt",
    "Version",
    "context",
    "deadline",
    "errors",
    "get_provider",
    "get_sync_provider",
    "metadata",
    "operation",
    "operation_id",
    "register_backend",
    "stream",
    "unified_storage",
    "uuid7",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "errors":
        return importlib.import_module("ambidex.errors")
    if name == "unified_storage":
        value: Any = importlib.import_module("ambidex.storage").UnifiedStorage()
    elif name in _HOME:
        value = getattr(importlib.import_module(f"ambidex.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'ambidex' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
