"""What a stored document consists of, without I/O: its record, its keys, its entries of the index.

``stores.documents`` uses this. The invariant: whatever belongs to a document can be named from its record alone, so
it can be deleted, replaced and repaired without searching for it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ambidex.core.chunking import Chunk, chunk_id, split
from ambidex.core.codec import Encoded, Stored, canonical, decode, encode
from ambidex.core.keys import escape
from ambidex.core.ports import Hit, IndexItem
from ambidex.errors import InvalidKey, UnsupportedValue

__all__ = [
    "INDEXED_FROM",
    "Document",
    "DocumentInfo",
    "Draft",
    "FoundDocument",
    "Head",
    "cut",
    "draft",
    "index_items",
    "tag_mark",
    "uuid7",
]

INDEXED_FROM = "unified_storage"
_PLAIN = (str, int, float, bool, type(None))
_TEXTS = ("title", "path", "category")
_MOST_CHUNKS = 999_999_999
_LONGEST_LABEL = 500


class Head(NamedTuple):
    """The record of a document's current version, as it is stored; the content stands in a record of its own."""

    id: str
    version: int
    body: str
    path: str | None
    title: str
    category: str | None
    tags: list[str]
    metadata: dict[str, Any]
    content_hash: str
    fingerprint: str
    length: int
    chunks: int
    indexed: bool
    created_at: datetime
    updated_at: datetime
    chunk_size: int
    chunk_overlap: int

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

    def stored(self) -> dict[str, Any]:
        """Return the record's fields; ``Head(**fields)`` undoes it."""
        return dict(zip(self._fields, self, strict=True))

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


class Draft(NamedTuple):
    """A document to be stored, checked."""

    content: str
    metadata: dict[str, Any]
    path: str | None
    title: str
    category: str | None
    tags: list[str]
    content_hash: str
    fingerprint: str
    indexed: bool
    size: int
    overlap: int
    packed: Stored
    """The metadata in stored form."""
    chunks: Sequence[Chunk] = ()
    """Made late, for they are as long as the content once more."""
    vectors: list[Sequence[float] | None] | None = None

    def cut(self) -> Draft:
        """Return it with its chunks, if it is to be indexed."""
        return self._replace(chunks=cut(self.content, self.size, self.overlap)) if self.indexed else self

    def head(self, id_: str, before: Head | None, now: datetime) -> Head:
        """Return the record of this draft as a document's first version, or as the one after ``before``."""
        return Head(
            id_,
            1 if before is None else before.version + 1,
            os.urandom(8).hex(),  # of its own, so that a writer who loses a race has not overwritten the winner's
            self.path,
            self.title,
            self.category,
            self.tags,
            self.metadata,
            self.content_hash,
            self.fingerprint,
            len(self.content),
            len(self.chunks),
            self.indexed,
            now if before is None else before.created_at,
            now,
            self.size,
            self.overlap,
        )


def cut(content: str, size: int, overlap: int) -> list[Chunk]:
    """Return the chunks of a content; an empty document has one, too, and is found by its title."""
    return split(content, size, overlap) or [Chunk("", 0, 0)]


def draft(content: Any, metadata: Mapping[str, Any] | None, index: bool, size: int, overlap: int) -> Draft:
    """Check a document before any I/O; the caller's metadata is copied, never changed.

    Raises:
        UnsupportedValue: the content is no text, or the metadata cannot be kept.
        InvalidKey: the path cannot be one.
    """
    if not isinstance(content, str):
        raise UnsupportedValue(
            f"a document's content is text, not {type(content).__name__}; decode bytes, or store them with store_media"
        )
    if not isinstance(metadata, (Mapping, type(None))):
        raise UnsupportedValue(f"a document's metadata is a dictionary, not {type(metadata).__name__}")
    packed = encode(dict(metadata or {}))
    about: dict[str, Any] = decode(packed)  # a deep copy, checked
    encode(content)
    texts = {name: _text(about, name) for name in _TEXTS}
    path = texts["path"]
    if path is not None:
        _check_path(path)
    if texts["category"] is not None:
        _check_label(texts["category"])
    hashed = hashlib.sha256(content.encode()).hexdigest()
    tags = _tags(about.get("tags"))
    return Draft(
        content,
        about,
        path,
        texts["title"] or "",
        texts["category"],
        tags,
        hashed,
        _fingerprint(hashed, packed),
        index,
        size,
        overlap,
        packed,
    )


def _text(about: Mapping[str, Any], name: str) -> str | None:
    value = about.get(name)
    if value is not None and not isinstance(value, str):
        raise UnsupportedValue(f"metadata {name!r} of a document is text, not {type(value).__name__}")
    return value or None


def _tags(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UnsupportedValue(f"metadata 'tags' of a document is a list of texts, not {type(value).__name__}")
    tags = list(dict.fromkeys(value))
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise UnsupportedValue(f"a document's tag is a text that is not empty, not {tag!r}")
        _check_label(tag)
    return tags


def _check_label(label: str) -> None:
    """Refuse a tag or category that makes too long a key together with the document's id."""
    if len(escape(label)) > _LONGEST_LABEL:
        raise InvalidKey(
            f"the label {label[:40]!r}… takes {len(escape(label))} bytes when escaped, the limit is {_LONGEST_LABEL}"
        )


def _check_path(path: str) -> None:
    escape(chunk_id(path, _MOST_CHUNKS))
    try:
        UUID(path)
    except ValueError:
        return
    raise InvalidKey(f"the path {path!r} reads like a document's id; put a folder or a suffix to it")


def _fingerprint(hashed: str, packed: Stored) -> str:
    """Return what is equal for two documents with the same content and metadata, in whatever order of keys."""
    stored = encode([hashed, Encoded(canonical(packed))])
    return hashlib.sha256(stored if isinstance(stored, bytes) else b"").hexdigest()


def tag_mark(tag: str) -> str:
    """Return how a tag stands in the metadata of an index entry, to be found by ``contains``."""
    return f"|{escape(tag)}|"


def index_items(
    head: Head, chunks: Sequence[Chunk], vectors: Sequence[Sequence[float] | None] | None = None
) -> list[IndexItem]:
    """Return a version's entries of the index, with the vectors of its chunks if they were made before."""
    about = {key: value for key, value in head.metadata.items() if isinstance(value, _PLAIN)}
    about |= {"doc_id": head.id, "indexed_from": INDEXED_FROM, "version": head.version}
    about["tags"] = "".join(map(tag_mark, head.tags))
    return [
        IndexItem(
            chunk_id(head.base, place),
            head.title,
            chunk.text,
            {**about, "chunk": place, "start": chunk.start, "end": chunk.end},
            None if vectors is None else vectors[place],
        )
        for place, chunk in enumerate(chunks)
    ]


def uuid7() -> str:
    """Return a new id that sorts by time (RFC 9562, version 7)."""
    bits = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
