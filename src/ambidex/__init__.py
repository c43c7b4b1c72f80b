"""One storage layer for Python that works the same from synchronous and asynchronous code.

The public names; each is loaded when it is first used, so importing the package opens nothing and imports no driver.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for True; importing typing would double the cost of importing this

if TYPE_CHECKING:
    from typing import Any

    from ambidex import errors
    from ambidex.core.dual import Blocking, context, operation, stream
    from ambidex.core.runtime import deadline, operation_id
    from ambidex.settings import Settings
    from ambidex.storage import AsyncStorage, StorageBackend, SyncStorage, UnifiedStorage, register_backend

    unified_storage: UnifiedStorage

__version__ = "0.1.0"

_HOME = {
    "AsyncStorage": "storage",
    "Blocking": "core.dual",
    "Settings": "settings",
    "StorageBackend": "storage",
    "SyncStorage": "storage",
    "UnifiedStorage": "storage",
    "context": "core.dual",
    "deadline": "core.runtime",
    "operation": "core.dual",
    "operation_id": "core.runtime",
    "register_backend": "storage",
    "stream": "core.dual",
}

__all__ = [
    "AsyncStorage",
    "Blocking",
    "Settings",
    "StorageBackend",
    "SyncStorage",
    "UnifiedStorage",
    "context",
    "deadline",
    "errors",
    "operation",
    "operation_id",
    "register_backend",
    "stream",
    "unified_storage",
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
