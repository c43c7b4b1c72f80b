"""Full text on PostgreSQL: what is stored of a text, and BM25 over what one statement reads; the port calls this.

A posting is 8 bytes: the number of the item, how many words it has, and how often the term stands there (the title
counting double). The postings of a term are rows of these, which the server hands over as they are. They are summed
here: with numpy where it is installed, in plain Python elsewhere, by the same formula. Summing them in SQL was
measured to take twenty times the server's time. The invariant: how rare a term is counts exactly the items that
exist.
"""

from __future__ import annotations

import heapq
import importlib.util
import math
import struct
import sys
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ambidex.core.stem import stem
from ambidex.core.text import query_terms, terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = ["Bag", "Corpus", "bag_of", "best", "postings", "query_words", "without"]

_K1, _B, _TITLE = 1.2, 0.75, 2
_LEAST_RARITY = 1e-6
_COUNT_BITS, _WORDS_BITS = 8, 16
_MOST_COUNT, _MOST_WORDS = (1 << _COUNT_BITS) - 1, (1 << _WORDS_BITS) - 1
_HEAD = 20  # bytes before the first element of an array that is not empty; an empty one has fewer
_SHIFT = _COUNT_BITS + _WORDS_BITS


class Bag(NamedTuple):
    """What full text ranks an item by."""

    words: int
    counts: dict[int, int]
    """How often each term, known by its hash, stands in the text."""


class Corpus(NamedTuple):
    """What a query reads of a namespace.

    Attributes:
        items: how many there are.
        words: how many they have in all.
        postings: for each term the parts of its postings.
        gone: numbers of items that are no more, as PostgreSQL sends an array of bigint.
        kept: numbers of the items that meet the filters, in the same form; None: all.
    """

    items: int
    words: int
    postings: dict[int, list[bytes]]
    gone: bytes
    kept: bytes | None


@lru_cache(maxsize=65_536)
def _term(word: str) -> int:
    """Return a stem's hash as a signed integer of 32 bits."""
    value = zlib.crc32(stem(word).encode())
    return value - (1 << 32) if value >> 31 else value


def _terms(text: str) -> list[int]:
    words = terms(text)
    if "_" in text:  # a name in a program is its parts
        words = [part for word in words for part in word.split("_") if part]
    return [_term(word) for word in words]


def bag_of(title: str, text: str) -> Bag:
    """Return what is stored of a text."""
    titled, plain = _terms(title), _terms(text)
    counts = Counter(plain)
    for term in titled:
        counts[term] += _TITLE
    return Bag(len(titled) + len(plain), counts)


def query_words(text: str) -> dict[int, int]:
    """Return the terms of a query and how often each stands there."""
    return Counter(_terms(" ".join(query_terms(text))))


def postings(bags: Iterable[Bag], numbers: Iterable[int]) -> dict[int, bytes]:
    """Return the postings of a batch by term, in the order of the terms.

    Args:
        bags: of the items.
        numbers: of the items, rising.
    """
    found: dict[int, array[int]] = defaultdict(lambda: array("q"))
    for bag, number in zip(bags, numbers, strict=True):
        about = number << _SHIFT | min(bag.words, _MOST_WORDS) << _COUNT_BITS
        for term, count in bag.counts.items():
            found[term].append(about | min(count, _MOST_COUNT))
    return {term: _swapped(found[term]).tobytes() for term in sorted(found)}


def _sent(stored: bytes) -> Iterator[int]:
    """Yield the elements of an array of bigint."""
    return (number for _, number in struct.iter_unpack(">iq", stored[_HEAD:]))


def without(docs: bytes, gone: frozenset[int]) -> bytes:
    """Return postings without those of some items."""
    kept = [doc for doc in _stored(docs) if doc >> _SHIFT not in gone]
    if len(kept) * 8 == len(docs):
        return docs
    return _swapped(array("q", kept)).tobytes()


def _stored(docs: bytes) -> array[int]:
    return _swapped(array("q", docs))


def _swapped(numbers: array[int]) -> array[int]:
    """Turn between this machine's order of bytes and the stored one."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def best(words: dict[int, int], corpus: Corpus, depth: int) -> dict[int, float]:
    """Return the BM25 scores of the best ``depth`` items by number.

    Args:
        words: the terms of the query and how often each stands there.
        corpus: what was read.
        depth: how many.
    """
    if not corpus.postings or not corpus.items:
        return {}
    norm = _K1 * _B * corpus.items / corpus.words if corpus.words else 0.0
    return (_fast if _has_numpy() else _plain)(words, corpus, norm, depth)


def _weight(times: int, total: int, holding: int) -> float:
    """Return what a term counts, as FTS5 has it: never below a little."""
    rarity = math.log((max(0, total - holding) + 0.5) / (holding + 0.5))
    return times * max(rarity, _LEAST_RARITY) * (_K1 + 1.0)


@cache
def _has_numpy() -> bool:
    return importlib.util.find_spec("numpy") is not None


def _plain(words: dict[int, int], corpus: Corpus, norm: float, depth: int) -> dict[int, float]:
    gone = frozenset(_sent(corpus.gone))
    scores: dict[int, float] = defaultdict(float)
    for term, parts in corpus.postings.items():
        docs = _stored(b"".join(parts))
        holding = len(docs) if not gone else sum(doc >> _SHIFT not in gone for doc in docs)
        weight = _weight(words[term], corpus.items, holding)
        for doc in docs:
            count = doc & _MOST_COUNT
            length = doc >> _COUNT_BITS & _MOST_WORDS
            scores[doc >> _SHIFT] += weight * count / (count + _K1 * (1.0 - _B) + norm * length)
    if corpus.kept is not None:
        scores = {item: scores[item] for item in _sent(corpus.kept) if item in scores}
    living = ((score, -item) for item, score in scores.items() if item not in gone)
    return {-item: score for score, item in heapq.nlargest(depth, living)}


def _fast(words: dict[int, int], corpus: Corpus, norm: float, depth: int) -> dict[int, float]:
    import numpy as np

    lengths = [sum(map(len, parts)) // 8 for parts in corpus.postings.values()]
    docs = np.frombuffer(b"".join(part for parts in corpus.postings.values() for part in parts), "<i8")
    places, numbers = _placed(docs >> _SHIFT)
    dead = _flags(corpus.gone, numbers) if corpus.gone else None
    sizes = lengths
    if dead is not None:
        starts = np.cumsum([0, *lengths[:-1]])
        sizes = np.add.reduceat((~dead)[places], starts, dtype=np.int64).tolist()
    weights = [_weight(words[term], corpus.items, size) for term, size in zip(corpus.postings, sizes, strict=True)]
    counts = (docs & _MOST_COUNT).astype(np.float64)
    counts /= counts + (docs >> _COUNT_BITS & _MOST_WORDS) * norm + _K1 * (1.0 - _B)
    scores = np.bincount(places, counts * np.repeat(weights, lengths), len(numbers))
    if dead is not None:
        scores[dead] = 0.0
    if corpus.kept is not None:
        scores *= _flags(corpus.kept, numbers)
    chosen = np.flatnonzero(scores)
    if len(chosen) > depth:
        some = scores[chosen]
        chosen = chosen[some >= np.partition(some, len(some) - depth)[len(some) - depth]]
    # Of equal scores the lowest numbers stand first, as everywhere.
    best_first = chosen[np.lexsort((chosen, -scores[chosen]))][:depth]
    return {
        numbers[place]: score for place, score in zip(best_first.tolist(), scores[best_first].tolist(), strict=True)
    }


def _placed(items: Array) -> tuple[Array, Sequence[int]]:
    """Return for each item its place in a sequence of numbers, and that sequence, which rises."""
    import numpy as np

    first, last = int(items.min()), int(items.max())
    if last - first <= 8 * len(items) + (1 << 16):
        return items - first, range(first, last + 1)
    numbers, places = np.unique(items, return_inverse=True)  # the numbers of other namespaces lie between
    return places, numbers.tolist()


def _flags(sent: bytes, numbers: Sequence[int]) -> Array:
    """Return for each number whether it is an element of an array of bigint."""
    import numpy as np

    chosen = np.frombuffer(sent[_HEAD:], ">i4,>i8")["f1"].astype(np.int64)
    flags = np.zeros(len(numbers), bool)
    if isinstance(numbers, range):
        flags[chosen[(chosen >= numbers[0]) & (chosen <= numbers[-1])] - numbers[0]] = True
    else:
        flags[:] = np.isin(np.array(numbers), chosen)
    return flags
