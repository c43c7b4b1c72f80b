"""Which storage a command works on: the options that name it, and its opening and closing; commands use it.

The invariant: a storage that :func:`opened` yields is closed however the command ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambidex import SyncStorage, UnifiedStorage

__all__ = ["HERE", "Places", "opened"]


@dataclass(frozen=True)
class Places:
    """Where data is kept, and how it is searched: options that several commands share.

    Args:
        url: the storage.
        search: a storage for the search index, if it is another.
        records: a storage for typed records, if it is another.
        blobs: a storage for large files, if it is another.
        kv: a storage for keys and values, if it is another.
        log: a storage for streams, if it is another.
        embedder: what makes vectors of texts: auto, none, wordllama, minilm or minilm:FOLDER.
    """

    url: str | None = None
    search: str | None = None
    records: str | None = None
    blobs: str | None = None
    kv: str | None = None
    log: str | None = None
    embedder: str | None = None

    def storage(self) -> UnifiedStorage:
        """Return a storage object over these places."""
        from ambidex import UnifiedStorage

        return UnifiedStorage(self.url, **self.options())

    def options(self) -> dict[str, Any]:
        """Return what was chosen beside the URL, as keywords of a storage object."""
        options = asdict(self)
        del options["url"]
        return options


HERE = Places()


@contextmanager
def opened(places: Places, tenant: str) -> Iterator[SyncStorage]:
    """Open the storage for one command, bound to a tenant if one is named."""
    storage = places.storage().sync
    try:
        yield storage.tenant(tenant) if tenant else storage
    finally:
        storage.close()
