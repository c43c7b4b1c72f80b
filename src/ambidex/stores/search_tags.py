"""Tags of documents in the index, whose metadata holds no lists: written as one text, shown as they were given.

``document_parts`` writes them, ``documents`` asks for them and the search shows them. The invariant: a tag is found as
a whole, never as a part of another, and what callers have put into the index themselves is shown as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ambidex.core.keys import escape, unescape
from ambidex.core.ports import Hit
from ambidex.errors import InvalidKey

__all__ = ["INDEXED_FROM", "tag_mark", "with_tags"]

INDEXED_FROM = "unified_storage"
"""What the metadata of an entry says by ``indexed_from`` if it is one of a document."""


def tag_mark(tag: str) -> str:
    """Return how a tag stands in the metadata of an index entry, to be found by ``contains``."""
    return f"|{escape(tag)}|"


def with_tags(hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits with the tags of documents as lists."""
    return [_shown(hit) if hit.metadata.get("indexed_from") == INDEXED_FROM else hit for hit in hits]


def _shown(hit: Hit) -> Hit:
    id_, score, title, text, metadata = hit
    marks = metadata.get("tags")
    tags = _tags(marks) if isinstance(marks, str) else None
    return hit if tags is None else Hit(id_, score, title, text, {**metadata, "tags": list(tags)})


@lru_cache(1024)  # the same few come again and again
def _tags(marks: str) -> tuple[str, ...] | None:
    """Return the tags of which an entry has these marks; None: it has none of ours."""
    try:
        tags = [unescape(mark) for mark in marks[1:-1].split("||")] if marks else []
    except InvalidKey:
        return None
    return tuple(tags) if marks == "".join(map(tag_mark, tags)) else None
