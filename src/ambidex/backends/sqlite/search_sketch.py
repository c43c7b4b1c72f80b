"""One bit for each number of a vector, to leave out most vectors before they are compared; ``search_segment`` asks.

A bit says whether the number is above its usual value. The query's numbers, weighted by how much each usually varies,
are rounded to two bits, so that a distance is two counts of differing bits: 100,000 vectors of 256 numbers take about
a millisecond, where comparing them in whole numbers takes four. The invariant: nothing is assumed about the vectors.
What the distances are worth is seen at each query from a sample, and where they cannot tell the nearest from the rest,
that is said, and all are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = ["Sketch"]

_LEAST_ROWS, _LEAST_SIZE = 32_768, 64
"""Fewer vectors, or shorter ones, are compared as fast without."""
_MOST_SIZE = 16_384
_BLOCK = 16_384
_USUAL = 4_096
"""Vectors from which usual values are taken."""
_SAMPLE = 512
_DEVIATIONS = 3.0
"""How much farther than expected one of the nearest may seem to be before it is left out: one in 700 does."""
_FIRST = 50
"""Vectors compared to see how near the nearest are, for each that must not be missed."""
_FEW = 4_096
_FAR = 65_535


@dataclass(frozen=True, slots=True)
class Sketch:
    """The bits of a run of vectors."""

    bits: Array
    """A row for each 64 numbers of a vector, a column for each vector."""
    usual: Array
    spread: Array

    @classmethod
    def made(cls, codes: Array, scales: Array) -> Sketch | None:
        """Make the bits of vectors (``codes`` times ``scales``); None where they would not help."""
        count, size = codes.shape
        if count < _LEAST_ROWS or not _LEAST_SIZE <= size <= _MOST_SIZE or not hasattr(np, "bitwise_count"):
            return None
        step = max(1, count // _USUAL)
        some = codes[::step].astype(np.float32) * scales[::step, None]
        usual = some.mean(axis=0)
        spread = np.abs(some - usual).mean(axis=0)
        bits = np.zeros((-(-size // 64), count), np.uint64)
        for start in range(0, count, _BLOCK // 8):
            part = slice(start, start + _BLOCK // 8)
            least = usual / np.maximum(scales[part, None], np.float32(1e-30))
            bits[:, part] = _packed(codes[part] > least).T
        return cls(bits, usual, spread)

    def near(self, query: Array, cosines: Callable[[Array], Array], flags: Array | None, count: int) -> Array | None:
        """Return the places of vectors among which the nearest are, or None: compare all.

        Args:
            query: of length 1.
            cosines: returns how near the vectors at some places are.
            flags: which ones count; None: all.
            count: how many of the nearest must not be missed.
        """
        total = self.bits.shape[1]
        wanted = min(_FIRST * count, total // 16)
        if wanted < count:
            return None
        distances = self._distances(query)
        # What a distance says about a cosine, from vectors that were not chosen by it.
        sample = np.arange(total // _SAMPLE // 2, total, max(1, total // _SAMPLE))
        known, seen = cosines(sample).astype(np.float64), distances[sample].astype(np.float64)
        known_mean, seen_mean = known.mean(), seen.mean()
        varies = float(((known - known_mean) ** 2).mean())
        slope = float(((known - known_mean) * (seen - seen_mean)).mean()) / varies if varies > 0 else 0.0
        if slope >= 0:
            return None
        error = float(np.std(seen - seen_mean - slope * (known - known_mean)))
        if flags is not None:
            distances = np.where(flags, distances, np.uint16(_FAR))
        first = _least(distances, wanted)
        if len(first) < count:
            return None
        found = cosines(first)
        least = float(np.partition(found, len(found) - count)[len(found) - count])
        limit = seen_mean + slope * (least - known_mean) + _DEVIATIONS * error
        near = np.flatnonzero(distances <= min(max(int(limit), int(distances[first].max())), _FAR - 1))
        return near if len(near) * 4 <= total else None

    def _distances(self, query: Array) -> Array:
        """Return for each vector how far it seems to be, in whole steps."""
        weights = query * self.spread
        step = np.sqrt((weights * weights).mean())
        high = _packed((weights > 0)[None])[0]
        low = _packed(((np.abs(weights) > step) == (weights > 0))[None])[0]
        distances = np.zeros(self.bits.shape[1], np.uint16)
        differing = np.empty(_BLOCK, np.uint64)
        counts, fewer = np.empty(_BLOCK, np.uint8), np.empty(_BLOCK, np.uint8)
        for start in range(0, len(distances), _BLOCK):
            sums = distances[start : start + _BLOCK]
            here, twice, once = differing[: len(sums)], counts[: len(sums)], fewer[: len(sums)]
            for word, highs, lows in zip(self.bits, high, low, strict=True):
                part = word[start : start + _BLOCK]
                np.bitwise_count(np.bitwise_xor(part, highs, out=here), out=twice)
                np.bitwise_count(np.bitwise_xor(part, lows, out=here), out=once)
                np.add(twice, twice, out=twice)
                np.add(twice, once, out=twice)
                np.add(sums, twice, out=sums)
        return distances


def _packed(flags: Array) -> Array:
    """Return rows of flags as rows of 64 bits each, the last one filled up with zeros."""
    packed = np.packbits(flags, axis=1, bitorder="little")
    missing = -packed.shape[1] % 8
    if missing:
        packed = np.pad(packed, ((0, 0), (0, missing)))
    return np.ascontiguousarray(packed).view(np.uint64)


def _least(distances: Array, count: int) -> Array:
    """Return the places of about the ``count`` smallest, judging by a part of all."""
    step = max(1, len(distances) // _FEW)
    some = distances[::step]
    at = min(len(some) - 1, count // step)
    return np.flatnonzero(distances <= min(int(np.partition(some, at)[at]), _FAR - 1))
