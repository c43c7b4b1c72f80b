"""Documents to be stored, checked and cut; ``stores.documents`` makes them of what callers give.

The invariant: whatever could not be kept, be a key or come back the same is refused here, before any I/O; the caller's
metadata is copied, never changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ambidex.core.chunking import Chunk, chunk_id, split
from ambidex.core.codec import Encoded, Stored, canonical, decode, encode
from ambidex.core.keys import escape
from ambidex.errors import InvalidKey, UnsupportedValue
from ambidex.stores.document_parts import Head

__all__ = ["Draft", "cut", "draft"]

_TEXTS = ("title", "path", "category")
_MOST_CHUNKS = 999_999_999
_LONGEST_LABEL = 500


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
