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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from ambidex.backends.sqlite.search_sketch import Sketch
from ambidex.backends.sqlite.search_words import words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = ["MOST_ITEMS", "Page", "Segment", "Vectors", "load", "save"]

MOST_ITEMS = 1 << 24
"""How many items a segment can hold."""

_MAGIC = b"ambidex segment 2\n"
_BLOCK = 512
"""Vectors widened at a time: the block stays in the processor's cache, which is five times as fast as all at once."""
_MOST_AT_ONCE = 16_384
"""Vectors given to numkong at a time; between two times other threads of the process get their turn."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of one dimension, each scaled to length 1 and then to whole numbers from -127 to 127."""

    rows: Array
    codes: Array
    scales: Array
    sketch: Sketch | None = None

    @classmethod
    def made(cls, rows: Array, vectors: Array) -> Vectors:
        """Quantise vectors; ``rows`` says to which items of the segment they belong."""
        codes, scales = np.empty(vectors.shape, np.int8), np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), _BLOCK):
            some = vectors[start : start + _BLOCK]
            lengths = np.sqrt(np.einsum("ij,ij->i", some, some, dtype=np.float64))
            peaks = np.maximum(some.max(axis=1), -some.min(axis=1)).astype(np.float64)
            steps = np.where(peaks > 0, peaks / 127.0, 1.0)
            np.rint(some / steps[:, None].astype(np.float32), out=codes[start : start + _BLOCK], casting="unsafe")
            scales[start : start + _BLOCK] = steps / np.where(lengths > 0, lengths, 1.0)
        return cls(rows, codes, scales)

    @classmethod
    def joined(cls, parts: Sequence[Vectors]) -> Vectors:
        """Put vectors of one dimension behind each other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.scales for part in parts]),
        )

    def sketched(self) -> Vectors:
        """Return the same with a sketch, if it helps."""
        return self if self.sketch is not None else replace(self, sketch=Sketch.made(self.codes, self.scales))

    def nearest(self, query: Array, chosen: Array | None, sure: int) -> tuple[Array, Array]:
        """Return rows of the segment, the nearest among them, and their approximate cosines with the query.

        Args:
            query: float32, of length 1.
            chosen: a flag for each item of the segment, or None for all.
            sure: how many of the nearest must be among the rows.
        """

        def cosines(places: Array) -> Array:
            return _dots(self.codes.take(places, axis=0), query) * self.scales[places]

        flags = None
        if chosen is not None:
            flags = chosen if len(chosen) == len(self.rows) else chosen[self.rows]
            if np.count_nonzero(flags) * 16 <= len(flags):
                places = np.flatnonzero(flags)
                return self.rows[places], cosines(places)
        near = None if self.sketch is None else self.sketch.near(query, cosines, flags, sure)
        if near is not None:
            return self.rows[near], cosines(near)
        every = _dots(self.codes, query) * self.scales
        return (self.rows, every) if flags is None else (self.rows[flags], every[flags])


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
    def made(cls, pages: Sequence[Page]) -> Segment:
        """Make a segment of the rows of pages, in the order of their numbers."""
        bases = np.cumsum([0, *(len(page.items) for page in pages)])
        vectors: dict[int, list[Vectors]] = {}
        for page, base in zip(pages, bases.tolist(), strict=False):
            for one in page.vectors:
                vectors.setdefault(one.codes.shape[1], []).append(Vectors(one.rows + base, one.codes, one.scales))
        items = np.concatenate([page.items for page in pages])
        docs = np.repeat(np.arange(len(items)), np.concatenate([page.sizes for page in pages]))
        keys = _keys(
            np.concatenate([page.hashes for page in pages]), docs, np.concatenate([page.counts for page in pages])
        )
        return cls(
            items,
            np.concatenate([page.lengths for page in pages]),
            *_postings(keys),
            tuple(map(Vectors.joined, vectors.values())),
        )

    @classmethod
    def merged(cls, parts: Sequence[Segment], keep: Sequence[Array]) -> Segment:
        """Make one segment of several, in order, without the items whose flag in ``keep`` is not set."""
        keys = []
        vectors: dict[int, list[Vectors]] = {}
        base = 0
        for part, alive in zip(parts, keep, strict=True):
            place = np.cumsum(alive, dtype=np.int64) - 1 + base
            chosen = alive[part.docs]
            hashes = np.repeat(part.terms, np.diff(part.starts))[chosen]
            keys.append(_keys(hashes, place[part.docs[chosen]], part.counts[chosen]))
            for one in part.vectors:
                kept = alive[one.rows]
                moved = Vectors(place[one.rows[kept]].astype(np.int32), one.codes[kept], one.scales[kept])
                vectors.setdefault(one.codes.shape[1], []).append(moved)
            base += int(np.count_nonzero(alive))
        return cls(
            np.concatenate([part.items[alive] for part, alive in zip(parts, keep, strict=True)]),
            np.concatenate([part.lengths[alive] for part, alive in zip(parts, keep, strict=True)]),
            *_postings(np.concatenate(keys)),
            tuple(map(Vectors.joined, vectors.values())),
        )

    def sketched(self) -> Segment:
        """Return the same, its vectors with sketches where they help."""
        return replace(self, vectors=tuple(one.sketched() for one in self.vectors))


class Page(NamedTuple):
    """Some rows as arrays, from which a segment is made."""

    items: Array
    lengths: Array
    sizes: Array
    """Different stems of each item."""
    hashes: Array
    counts: Array
    vectors: tuple[Vectors, ...]

    @classmethod
    def made(cls, rows: Sequence[tuple[Any, ...]]) -> Page:
        """Take rows ``(item, vector, words, title, text)`` in the order of their numbers.

        ``title`` and ``text`` are needed only where ``words`` is None.
        """
        words = [row[2] if row[2] is not None else words_of(row[3], row[4]) for row in rows]
        sizes = np.fromiter(((len(one) - 4) // 5 for one in words), np.int64, len(words))
        joined = np.frombuffer(b"".join(words), np.uint8)
        # Each is four bytes of length, four a stem, and one a stem.
        spans = np.empty((len(words), 3), np.int64)
        spans[:, 0], spans[:, 1], spans[:, 2] = 4, 4 * sizes, sizes
        kinds = np.repeat(np.tile(np.array([0, 1, 2], np.uint8), len(words)), spans.ravel())
        return cls(
            np.fromiter((row[0] for row in rows), np.int64, len(rows)),
            joined[kinds == 0].view("<u4").astype(np.float32),
            sizes,
            joined[kinds == 1].view("<u4").astype(np.uint32),
            joined[kinds == 2],
            _vectors(rows),
        )


def _keys(hashes: Array, docs: Array, counts: Array) -> Array:
    """Return postings as numbers, for sorting these is many times as fast as sorting by one of several arrays."""
    keys = hashes.astype(np.uint64)
    keys <<= np.uint64(24)
    keys |= docs.astype(np.uint64)
    keys <<= np.uint64(8)
    keys |= counts
    return keys


def _postings(keys: Array) -> tuple[Array, Array, Array, Array]:
    """Return terms, starts, items and counts of postings in any order."""
    keys.sort()
    hashes = (keys >> np.uint64(32)).astype(np.uint32)
    changes = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=changes[1:])
    first = np.flatnonzero(changes)
    starts = np.append(first, len(hashes)).astype(np.int64)
    docs = ((keys >> np.uint64(8)) & np.uint64(MOST_ITEMS - 1)).astype(np.int32)
    return hashes[first], starts, docs, (keys & np.uint64(255)).astype(np.uint8)


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


def _plain_dots(codes: Array, query: Array) -> Array:
    dots = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _BLOCK):
        dots[start : start + _BLOCK] = codes[start : start + _BLOCK].astype(np.float32) @ query
    return dots


def _fast_dots() -> Callable[[Array, Array], Array] | None:
    """Return dot products in whole numbers through numkong, where it is installed."""
    try:
        import numkong
    except ImportError:
        return None

    def dots(codes: Array, query: Array) -> Array:
        if not len(codes):
            return np.zeros(0, np.float32)
        peak = float(np.abs(query).max()) or 1.0
        rounded = np.rint(query * (127.0 / peak)).astype(np.int8)[None, :]
        codes = np.ascontiguousarray(codes)
        parts = [
            np.asarray(numkong.cdist(rounded, codes[start : start + _MOST_AT_ONCE], metric="dot"))[0]
            for start in range(0, len(codes), _MOST_AT_ONCE)
        ]
        found: Array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found.astype(np.float32) * np.float32(peak / 127.0)

    return dots


_dots = _fast_dots() or _plain_dots


# ---------------------------------------------------------------- files

_NO_SKETCH = Sketch(np.empty(0, np.uint64), np.empty(0, np.float32), np.empty(0, np.float32))


def save(segment: Segment, path: str, gone: int) -> None:
    """Write a segment to a file in one step: whoever opens the path sees the old one or the new one.

    Args:
        segment: what to write.
        path: the file.
        gone: the last disappearance of items that the segment knows of.

    Raises:
        OSError: it cannot be written there.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(segment, file, gone)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _write(segment: Segment, file: BinaryIO, gone: int) -> None:
    arrays = [segment.items, segment.lengths, segment.terms, segment.starts, segment.docs, segment.counts]
    for one in segment.vectors:
        sketch = one.sketch or _NO_SKETCH
        arrays += [one.rows, one.codes, one.scales, sketch.bits, sketch.usual, sketch.spread]
    check = zlib.crc32(str(gone).encode())
    for array in arrays:
        check = zlib.crc32(np.ascontiguousarray(array).data.cast("B") if array.size else b"", check)
    shapes = [[array.dtype.str, list(array.shape)] for array in arrays]
    head = json.dumps({"arrays": shapes, "check": check, "gone": gone}).encode()
    file.write(_MAGIC + len(head).to_bytes(4, "little") + head)
    for array in arrays:
        file.write(b"\x00" * (-file.tell() % 64))
        file.write(np.ascontiguousarray(array).data)


def load(path: str) -> tuple[Segment, int] | None:
    """Map a segment's file into memory; None where there is none, or none that is whole."""
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _read(mapped)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _read(mapped: mmap.mmap) -> tuple[Segment, int] | None:
    begin = len(_MAGIC) + 4
    if mapped[: len(_MAGIC)] != _MAGIC:
        return None
    place = begin + int.from_bytes(mapped[len(_MAGIC) : begin], "little")
    head = json.loads(mapped[begin:place])
    arrays: list[Array] = []
    check = zlib.crc32(str(head["gone"]).encode())
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
    vectors = []
    for at in range(6, len(arrays), 6):
        rows, codes, scales, bits, usual, spread = arrays[at : at + 6]
        vectors.append(Vectors(rows, codes, scales, Sketch(bits, usual, spread) if bits.size else None))
    items, lengths, terms, starts, docs, counts = arrays[:6]
    return Segment(items, lengths, terms, starts, docs, counts, tuple(vectors)), head["gone"]
