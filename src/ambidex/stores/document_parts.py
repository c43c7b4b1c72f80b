"""What a stored document consists of, without I/O: its record, its keys, its entries of the index.

``stores.documents`` uses this. The invariant: whatever belongs to a document can be named from its record alone, so
it can be deleted, replaced and repaired without searching for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ambidex.core.chunking import Chunk, chunk_id
from ambidex.core.codec import pack
from ambidex.core.keys import escape
from ambidex.core.ports import Hit, IndexItem
from ambidex.stores.search_tags import INDEXED_FROM, tag_mark

__all__ = [
    "Document",
    "DocumentInfo",
    "FoundDocument",
    "Head",
    "claim_of",
    "index_items",
]

_PLAIN = {str, int, float, bool, type(None)}


class Head(NamedTuple):
    """The record of a document's current version, as it is stored; the content stands in a record of its own."""

    id: str
    version: int
    body: str
    path: str | None
    title: str
    category: str | None
    tags: list[str]
    content_hash: str
    fingerprint: str
    length: int
    chunks: int
    indexed: bool
    chunk_size: int
    chunk_overlap: int
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime

    @property
    def base(self) -> str:
        """What the names of the chunks begin with."""
        return self.id if self.path is None else self.path

    def info(self) -> DocumentInfo:
        """Return what callers see of it."""
        return DocumentInfo(**self._seen())

    def document(self, content: str) -> Document:
        """Return it with its content."""
        return Document(**self._seen(), content=content)

    def _seen(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in DocumentInfo.__dataclass_fields__}

    @property
    def claim(self) -> str:
        """What makes a document the only one with its path, or else with its content."""
        return claim_of(self.path, self.fingerprint)

    def packed(self, metadata: Any, created_at: Any, updated_at: Any, max_bytes: int) -> bytes:
        """Return the record as it is stored, a list of its fields; the last three are given as parts by ``raw``."""
        return pack((*self[:-3], metadata, created_at, updated_at), max_bytes)

    def chunk_ids(self) -> list[str]:
        """Return the names of the chunks in the index."""
        return [chunk_id(self.base, place) for place in range(self.chunks)] if self.indexed else []


@dataclass(frozen=True)
class DocumentInfo:
    """What is known of a document.

    Attributes:
        id: its name, made at its first storing.
        version: 1 for the first.
        path: its path, if it was stored with one.
        title: from the metadata.
        category: from the metadata.
        tags: from the metadata.
        metadata: as it was given.
        content_hash: SHA-256 of the content, in hexadecimal.
        length: characters of the content.
        chunks: how many pieces stand in the index.
        created_at: when its first version was stored.
        updated_at: when this version was stored.
    """

    id: str
    version: int
    path: str | None
    title: str
    category: str | None
    tags: list[str]
    metadata: dict[str, Any]
    content_hash: str
    length: int
    chunks: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Document(DocumentInfo):
    """A document with its content."""

    content: str


class FoundDocument(NamedTuple):
    """A document that a search found: ``score`` is that of its best chunk, ``chunks`` are those found, best first."""

    document: Document
    score: float
    chunks: list[Hit]


def claim_of(path: str | None, fingerprint: str) -> str:
    """Return the name of the claim by which a document is the only one with its path, or else with its content."""
    return f"f:{fingerprint}" if path is None else f"p:{escape(path)}"


def index_items(
    head: Head, chunks: Sequence[Chunk], vectors: Sequence[Sequence[float] | None] | None = None
) -> list[IndexItem]:
    """Return a version's entries of the index, with the vectors of its chunks if they were made before."""
    version, base, title = head.version, head.base, head.title
    about = {key: value for key, value in head.metadata.items() if type(value) in _PLAIN}
    about["doc_id"], about["indexed_from"], about["tags"] = head.id, INDEXED_FROM, "".join(map(tag_mark, head.tags))
    return [
        IndexItem(
            chunk_id(base, place),
            title,
            text,
            # what the caller calls by such a name is what a filter of the caller's means
            {"version": version, "chunk": place, "start": start, "end": end, **about},
            None if vectors is None else vectors[place],
        )
        for place, (text, start, end) in enumerate(chunks)
    ]
