"""Long texts in pieces that can be found: where to cut, with exact places; ``stores.documents`` uses it.

The default (800 characters at the ends of sentences, no overlap) was measured best on 472 questions over five
collections. The invariant: ``text[chunk.start:chunk.end] == chunk.text``, chunks stand in order, none is longer than
``size``, and together they hold every character that is not white space.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from ambidex.errors import InvalidQuery

__all__ = ["DEFAULT_OVERLAP", "DEFAULT_SIZE", "Chunk", "chunk_id", "split"]

DEFAULT_SIZE = 800
DEFAULT_OVERLAP = 0
_SMALLEST = 16

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
# Where a text may be cut, the best first; a cut stands at the end of the match.
_BREAKS = (
    re.compile(r"\n(?=#{1,6} )|\n(?=[^\n]+\n(?:=+|-+) *\n)"),  # before a heading
    re.compile(r"\n[ \t]*\n\s*"),  # between paragraphs
    re.compile(r"\n(?=\s*(?:[-*+]|\d+[.)])\s)"),  # before an item of a list
    re.compile(r"[.!?…]['\")\]»”’]*\s+|[。！？]+\s*"),  # after a sentence  # noqa: RUF001  # the signs themselves
    re.compile(r"\n"),
    re.compile(r"[,;:]\s+"),
    re.compile(r"\s+"),
)
_HEADING = 0
_EARLIEST = (4, 2, 2, 2, 2, 2, 1_000_000)
"""The part of ``size`` that a chunk has at least before it ends at each kind of break."""


class Chunk(NamedTuple):
    """A piece of a text and its place in it."""

    text: str
    start: int
    end: int


def chunk_id(path: str, place: int) -> str:
    """Return the name of the chunk at ``place`` (from 0) of a document."""
    return f"{path}#chunk_{place}"


def split(text: str, size: int = DEFAULT_SIZE, overlap: int = DEFAULT_OVERLAP) -> list[Chunk]:
    """Cut a text into chunks of at most ``size`` characters.

    Headings of Markdown, paragraphs, list items and sentences are kept whole where they fit, and a fenced block of
    code is not cut at what looks like a heading inside it.

    Args:
        text: anything; an empty text gives no chunk.
        size: the most characters of a chunk, at least 16.
        overlap: how many characters of the end of a chunk the next one repeats, from a word's beginning; below
            half of ``size``.

    Raises:
        InvalidQuery: size or overlap is out of range.
    """
    if type(size) is not int or size < _SMALLEST:
        raise InvalidQuery(f"a chunk's size is at least {_SMALLEST} characters, not {size!r}")
    if type(overlap) is not int or not 0 <= overlap < size / 2:
        raise InvalidQuery(f"an overlap is from 0 to below half of the size ({size}), not {overlap!r}")
    if len(text) <= size:  # not cut, so that it needs no look inside
        start = len(text) - len(text.lstrip())
        whole = text.strip()
        return [Chunk(whole, start, start + len(whole))] if whole else []
    fenced = list(_fences(text))
    chunks: list[Chunk] = []
    start = _skip_space(text, 0)
    while start < len(text):
        end = _cut(text, start, size, overlap, fenced)
        stop = len(text[start:end].rstrip()) + start
        chunks.append(Chunk(text[start:stop], start, stop))
        start = _skip_space(text, end)
        if overlap and start < len(text):
            start = _step_back(text, start, overlap, chunks[-1].start)
    return chunks


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _cut(text: str, start: int, size: int, overlap: int, fenced: list[tuple[int, int]]) -> int:
    """Return where the chunk that begins at ``start`` ends."""
    limit = start + size
    if limit >= len(text):
        return len(text)  # short sections stay together
    for level, pattern in enumerate(_BREAKS):
        best = 0
        for match in pattern.finditer(text, start + 1, limit + 1):
            if not (level == _HEADING and _inside(match.end(), fenced)):
                best = min(match.end(), limit)
        # An early break would make a tiny chunk, a later and weaker one keeps more together; and what is not longer
        # than the overlap would only repeat the chunk before.
        if best - start > max(overlap, size // _EARLIEST[level]):
            return best
    return limit


def _inside(place: int, fenced: list[tuple[int, int]]) -> bool:
    block = bisect_right(fenced, (place, 0)) - 1
    return block >= 0 and fenced[block][0] < place < fenced[block][1]


def _fences(text: str) -> Iterator[tuple[int, int]]:
    """Yield where fenced blocks of code begin and end."""
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = match
        elif match[1][0] == opened[1][0] and len(match[1]) >= len(opened[1]):
            yield opened.start(), match.end()
            opened = None
    if opened is not None:
        yield opened.start(), len(text)


def _step_back(text: str, start: int, overlap: int, earliest: int) -> int:
    """Return a beginning about ``overlap`` characters before ``start``, at a word, that is behind ``earliest``."""
    place = max(start - overlap, earliest + 1)
    while place < start and not text[place - 1].isspace():
        place += 1
    return _skip_space(text, place) if place < start else start
