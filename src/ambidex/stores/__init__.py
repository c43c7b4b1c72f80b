"""What an application stores, each written once over ports; ``ambidex.storage`` and ``ambidex.face`` make the rooms.

So any backend serves each in both modes. The invariant: importing this imports no room. A name below is loaded when it
is first used, also where an annotation that names it is read at run time; who needs one room pays for that one.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for True

if TYPE_CHECKING:
    from typing import Any

    from ambidex.core.embedding import Embedder
    from ambidex.core.messages import Message
    from ambidex.stores.cache import QueryCache
    from ambidex.stores.conversations import BlockingConversations, Conversations, DetectingConversations
    from ambidex.stores.documents import BlockingDocuments, DetectingDocuments, Documents
    from ambidex.stores.kv import TTL, BlockingKeyValue, DetectingKeyValue, KeyValue
    from ambidex.stores.log import BlockingLog, DetectingLog, Log
    from ambidex.stores.media import BlockingMedia, DetectingMedia, Media
    from ambidex.stores.outbox import Outbox, Shared, Target
    from ambidex.stores.outbox_admin import BlockingOutboxAdmin, DetectingOutboxAdmin, OutboxAdmin
    from ambidex.stores.repository import BlockingRepository, DetectingRepository, Repository
    from ambidex.stores.scope import Scope
    from ambidex.stores.search import BlockingIndex, DetectingIndex, Index

__all__ = [
    "TTL",
    "BlockingConversations",
    "BlockingDocuments",
    "BlockingIndex",
    "BlockingKeyValue",
    "BlockingLog",
    "BlockingMedia",
    "BlockingOutboxAdmin",
    "BlockingRepository",
    "Conversations",
    "DetectingConversations",
    "DetectingDocuments",
    "DetectingIndex",
    "DetectingKeyValue",
    "DetectingLog",
    "DetectingMedia",
    "DetectingOutboxAdmin",
    "DetectingRepository",
    "Documents",
    "Embedder",
    "Index",
    "KeyValue",
    "Log",
    "Media",
    "Message",
    "Outbox",
    "OutboxAdmin",
    "QueryCache",
    "Repository",
    "Scope",
    "Shared",
    "Target",
]

_HOME = {
    "BlockingConversations": "stores.conversations",
    "BlockingDocuments": "stores.documents",
    "BlockingIndex": "stores.search",
    "BlockingKeyValue": "stores.kv",
    "BlockingLog": "stores.log",
    "BlockingMedia": "stores.media",
    "BlockingOutboxAdmin": "stores.outbox_admin",
    "BlockingRepository": "stores.repository",
    "Conversations": "stores.conversations",
    "DetectingConversations": "stores.conversations",
    "DetectingDocuments": "stores.documents",
    "DetectingIndex": "stores.search",
    "DetectingKeyValue": "stores.kv",
    "DetectingLog": "stores.log",
    "DetectingMedia": "stores.media",
    "DetectingOutboxAdmin": "stores.outbox_admin",
    "DetectingRepository": "stores.repository",
    "Documents": "stores.documents",
    "Embedder": "core.embedding",
    "Index": "stores.search",
    "KeyValue": "stores.kv",
    "Log": "stores.log",
    "Media": "stores.media",
    "Message": "core.messages",
    "Outbox": "stores.outbox",
    "OutboxAdmin": "stores.outbox_admin",
    "QueryCache": "stores.cache",
    "Repository": "stores.repository",
    "Scope": "stores.scope",
    "Shared": "stores.outbox",
    "TTL": "stores.kv",
    "Target": "stores.outbox",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ambidex.stores' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(f"ambidex.{_HOME[name]}"), name)
    return value
