"""Documents to be stored, checked and cut; ``stores.documents`` makes them of what callers give.

The invariant: whatever could not be kept, be a key or come back the same is refused here, before any I/O; the caller's
metadata is copied, never changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from ambidex.core.chunking import Chunk, chunk_id, split
from ambidex.core.codec import Stored, canonical, decode, encode, pack, raw
from ambidex.core.keys import escape
from ambidex.errors import InvalidKey, UnsupportedValue
from ambidex.stores.document_parts import Head, claim_of

__all__ = ["Draft", "cut", "draft"]

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
    claim: str
    """See :attr:`ambidex.stores.document_parts.Head.claim`."""

    def head(self, id_: str, before: Head | None, now: datetime, chunks: int) -> Head:
        """Return the record of this draft as a document's first version, or as the one after ``before``."""
        return Head(
            id_,
            1 if before is None else before.version + 1,
            os.urandom(8).hex(),  # of its own, so that a writer who loses a race has not overwritten the winner's
            self.path,
            self.title,
            self.category,
            self.tags,
            self.content_hash,
            self.fingerprint,
            len(self.content),
            chunks,
            self.indexed,
            self.size,
            self.overlap,
            self.metadata,
            now if before is None else before.created_at,
            now,
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
    if metadata is not None and type(metadata) is not dict and not isinstance(metadata, Mapping):
        raise UnsupportedValue(f"a document's metadata is a dictionary, not {type(metadata).__name__}")
    packed = encode(metadata if type(metadata) is dict else dict(metadata or {}))
    about: dict[str, Any] = decode(packed)  # a deep copy, checked
    encode(content)
    title, path, category = _text(about, "title"), _text(about, "path"), _text(about, "category")
    if path is not None:
        _check_path(path)
    if category is not None:
        _check_label(category)
    tags = _tags(about["tags"]) if "tags" in about else []
    hashed = hashlib.sha256(content.encode()).hexdigest()
    fingerprint = _fingerprint(hashed, packed)
    return Draft(
        content,
        about,
        path,
        title or "",
        category,
        tags,
        hashed,
        fingerprint,
        index,
        size,
        overlap,
        packed,
        claim_of(path, fingerprint),
    )


def _text(about: Mapping[str, Any], name: str) -> str | None:
    value = about.get(name)
    if value is not None and not isinstance(value, str):
        raise UnsupportedValue(f"metadata {name!r} of a document is text, not {type(value).__name__}")
    return value or None


def _tags(value: Any) -> list[str]:
    if value is None:
        return []
    if type(value) is not list and (isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable)):
        raise UnsupportedValue(f"metadata 'tags' of a document is a list of texts, not {type(value).__name__}")
    tags = list(dict.fromkeys(value))
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise UnsupportedValue(f"a document's tag is a text that is not empty, not {tag!r}")
        _check_label(tag)
    return tags


@lru_cache(1024)  # the same few come again and again
def _check_label(label: str) -> None:
    """Refuse a tag or category that makes too long a key together with the document's id."""
    size = len(escape(label))
    if size > _LONGEST_LABEL:
        raise InvalidKey(f"the label {label[:40]!r}… takes {size} bytes when escaped, the limit is {_LONGEST_LABEL}")


def _check_path(path: str) -> None:
    escape(chunk_id(path, _MOST_CHUNKS))
    try:
        UUID(path)
    except ValueError:
        return
    raise InvalidKey(f"the path {path!r} reads like a document's id; put a folder or a suffix to it")


def _fingerprint(hashed: str, packed: Stored) -> str:
    """Return what is equal for two documents with the same content and metadata, in whatever order of keys."""
    return hashlib.sha256(pack((hashed, raw(canonical(packed))))).hexdigest()
