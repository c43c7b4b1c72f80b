"""Postings and quantised vectors of a run of items, as arrays; a namespace's view of the index is made of these.

A segment is made from rows, or merged from others, or mapped from a file, and never changes. The invariant: it is
derived from rows that never change either (see ``search_schema.py``), so it can be dropped and made again at any time;
whether an item still exists is not its business.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from ambidex.backends.sqlite.search_schema import words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = ["Segment", "Vectors", "load", "save"]

_MAGIC = b"ambidex segment 1\n"
_BLOCK = 512
"""Vectors widened at a time: the block stays in the processor's cache, which is five times as fast as all at once."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of one dimension, each scaled to length 1 and then to whole numbers from -127 to 127."""

    rows: Array
    codes: Array
    scales: Array

    @classmethod
    def made(cls, rows: Array, vectors: Array) -> Vectors:
        """Quantise vectors; ``rows`` says to which items of the segment they belong."""
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(lengths > 0, lengths, 1.0)
        peaks = np.abs(unit).max(axis=1, keepdims=True)
        steps = np.where(peaks > 0, peaks / 127.0, 1.0)
        return cls(rows, np.rint(unit / steps).astype(np.int8), steps[:, 0].astype(np.float32))

    def cosines(self, query: Array, chosen: Array | None) -> tuple[Array, Array]:
        """Return rows of the segment and their approximate cosines with a vector of length 1.

        Args:
            query: float32.
            chosen: a flag for each item of the segment, or None for all.
        """
        if chosen is None:
            return self.rows, _dots(self.codes, query) * self.scales
        places = np.flatnonzero(chosen[self.rows])
        if len(places) * 4 > len(self.rows):
            return self.rows[places], (_dots(self.codes, query) * self.scales)[places]
        return self.rows[places], _dots(self.codes[places], query) * self.scales[places]


@dataclass(frozen=True, slots=True)
class Segment:
    """Items in the order of their numbers, the postings of each stem, and the vectors by dimension."""

    items: Array
    lengths: Array
    """Words of each item."""
    terms: Array
    """The hashes of the stems, sorted; the postings of the one at ``i`` stand from ``starts[i]`` to ``starts[i+1]``."""
    starts: Array
    docs: Array
    counts: Array
    vectors: tuple[Vectors, ...]

    def postings(self, term: int) -> tuple[Array, Array]:
        """Return the rows that hold a stem and how often each does."""
        place = int(np.searchsorted(self.terms, np.uint32(term)))
        if place == len(self.terms) or self.terms[place] != term:
            return self.docs[:0], self.counts[:0]
        part = slice(self.starts[place], self.starts[place + 1])
        return self.docs[part], self.counts[part]

    def flags(self, items: Array) -> Array:
        """Return for each item of the segment whether its number is among the sorted ``items``."""
        if not len(items):
            return np.zeros(len(self.items), bool)
        places = np.searchsorted(items, self.items)
        found: Array = items[np.minimum(places, len(items) - 1)] == self.items
        return found

    @classmethod
    def made(cls, rows: Sequence[tuple[Any, ...]]) -> Segment:
        """Make a segment of rows ``(item, vector, words, title, text)`` in the order of their numbers.

        ``title`` and ``text`` are needed only where ``words`` is None.
        """
        words = [row[2] if row[2] is not None else words_of(row[3], row[4]) for row in rows]
        sizes = np.array([(len(one) - 4) // 5 for one in words], np.int64)
        hashes = np.frombuffer(b"".join([w[4 : 4 + 4 * n] for w, n in zip(words, sizes, strict=True)]), np.uint32)
        counts = np.frombuffer(b"".join([w[4 + 4 * n :] for w, n in zip(words, sizes, strict=True)]), np.uint8)
        lengths = np.frombuffer(b"".join([w[:4] for w in words]), "<u4").astype(np.float32)
        docs = np.repeat(np.arange(len(rows), dtype=np.int32), sizes)
        items = np.array([row[0] for row in rows], np.int64)
        return cls(items, lengths, *_postings(hashes, docs, counts), _vectors(rows))

    @classmethod
    def merged(cls, parts: Sequence[Segment], keep: Sequence[Array]) -> Segment:
        """Make one segment of several, in order, without the items whose flag in ``keep`` is not set."""
        hashes, docs, counts = [], [], []
        vectors: dict[int, list[tuple[Array, Array, Array]]] = {}
        base = 0
        for part, alive in zip(parts, keep, strict=True):
            place = np.cumsum(alive, dtype=np.int64) - 1 + base
            chosen = alive[part.docs]
            hashes.append(np.repeat(part.terms, np.diff(part.starts))[chosen])
            docs.append(place[part.docs[chosen]].astype(np.int32))
            counts.append(part.counts[chosen])
            for one in part.vectors:
                kept = alive[one.rows]
                moved = (place[one.rows[kept]].astype(np.int32), one.codes[kept], one.scales[kept])
                vectors.setdefault(one.codes.shape[1], []).append(moved)
            base += int(alive.sum())
        joined = np.concatenate
        return cls(
            joined([part.items[alive] for part, alive in zip(parts, keep, strict=True)]),
            joined([part.lengths[alive] for part, alive in zip(parts, keep, strict=True)]),
            *_postings(joined(hashes), joined(docs), joined(counts)),
            tuple(Vectors(*map(joined, zip(*group, strict=True))) for group in vectors.values()),
        )


def _postings(hashes: Array, docs: Array, counts: Array) -> tuple[Array, Array, Array, Array]:
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    first = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] + np.uint32(1))) if len(hashes) else np.zeros(0, np.int64)
    starts = np.append(first, len(hashes)).astype(np.int64)
    return hashes[first], starts, docs[order], counts[order]


def _vectors(rows: Sequence[tuple[Any, ...]]) -> tuple[Vectors, ...]:
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        if row[1] is not None:
            groups.setdefault(len(row[1]) // 4, []).append(place)
    return tuple(
        Vectors.made(
            np.array(places, np.int32),
            np.frombuffer(b"".join([rows[place][1] for place in places]), np.float32).reshape(-1, size),
        )
        for size, places in groups.items()
    )


def _dots(codes: Array, query: Array) -> Array:
    dots = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _BLOCK):
        dots[start : start + _BLOCK] = codes[start : start + _BLOCK].astype(np.float32) @ query
    return dots


# ---------------------------------------------------------------- files


def save(segment: Segment, path: str) -> None:
    """Write a segment to a file in one step: whoever opens the path sees the old one or the new one.

    Raises:
        OSError: it cannot be written there.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(segment, file)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _write(segment: Segment, file: BinaryIO) -> None:
    arrays = [segment.items, segment.lengths, segment.terms, segment.starts, segment.docs, segment.counts]
    for one in segment.vectors:
        arrays += [one.rows, one.codes, one.scales]
    check = 0
    for array in arrays:
        check = zlib.crc32(np.ascontiguousarray(array).data.cast("B") if array.size else b"", check)
    head = json.dumps({"arrays": [[array.dtype.str, list(array.shape)] for array in arrays], "check": check}).encode()
    file.write(_MAGIC + len(head).to_bytes(4, "little") + head)
    for array in arrays:
        file.write(b"\x00" * (-file.tell() % 64))
        file.write(np.ascontiguousarray(array).data)


def load(path: str) -> Segment | None:
    """Map a segment's file into memory; None where there is none, or none that is whole."""
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _read(mapped)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _read(mapped: mmap.mmap) -> Segment | None:
    begin = len(_MAGIC) + 4
    if mapped[: len(_MAGIC)] != _MAGIC:
        return None
    place = begin + int.from_bytes(mapped[len(_MAGIC) : begin], "little")
    head = json.loads(mapped[begin:place])
    arrays: list[Array] = []
    check = 0
    for kind, shape in head["arrays"]:
        place += -place % 64
        dtype = np.dtype(kind)
        count = int(np.prod(shape))
        array = np.frombuffer(mapped, dtype, count, place).reshape(shape) if count else np.empty(shape, dtype)
        check = zlib.crc32(array.data.cast("B") if count else b"", check)
        arrays.append(array)
        place += count * dtype.itemsize
    if check != head["check"]:
        return None
    items, lengths, terms, starts, docs, counts = arrays[:6]
    vectors = tuple(Vectors(*arrays[at : at + 3]) for at in range(6, len(arrays), 3))
    return Segment(items, lengths, terms, starts, docs, counts, vectors)
