"""The stems of a text as full text on SQLite ranks by them, outside of FTS5; the search port and its segments ask here.

Every ASCII character that is no letter and no digit separates words for FTS5's tokeniser, and what it makes of a word
depends on nothing beside it. So texts are cut there, and only words that were not met lately are given to it. The
invariant: the stems are those of FTS5's tokeniser over the whole text, each known by its CRC-32.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import apsw

__all__ = ["query_words", "words_of"]

_TITLE = 2
_MOST = 255
_MOST_HASHES, _LONGEST_KEPT = 200_000, 64
_CUT = bytes(byte if byte >= 0x80 or chr(byte).isalnum() else 0x20 for byte in range(256)).lower()
_local = threading.local()


def words_of(title: str, text: str) -> bytes:
    """Return what full text ranks an item by: its number of words, then each stem's hash, then each one's count.

    The title counts double.
    """
    titled, plain = _hashes(title), _hashes(text)
    counts = Counter(plain)
    for word in titled:
        counts[word] += _TITLE
    try:
        times = bytes(counts.values())
    except ValueError:  # more than a byte holds
        times = bytes([min(count, _MOST) for count in counts.values()])
    return (len(titled) + len(plain)).to_bytes(4, "little") + b"".join(counts) + times


def query_words(words: Sequence[str]) -> dict[int, int]:
    """Return the hash of each stem of a query and how often it stands there."""
    return {int.from_bytes(word, "little"): times for word, times in Counter(_hashes(" ".join(words))).items()}


def _hashes(text: str) -> list[bytes]:
    """Return the hash of each stem of a text, in order, as it is stored: four bytes, the lowest first."""
    if len(_ascii) > _MOST_HASHES:
        _ascii.clear()
    if len(_others) > _MOST_HASHES:
        _others.clear()
    words = text.encode("utf-8", "replace").translate(_CUT).split()
    if text.isascii():
        return list(map(_ascii.__getitem__, words))
    return list(chain.from_iterable(map(_others.__getitem__, words)))


class _Ascii(dict[bytes, bytes]):
    """The hash of the stem of each word met lately; a word in ASCII has one stem."""

    def __missing__(self, word: bytes) -> bytes:
        (made,) = _made(word)
        if len(word) <= _LONGEST_KEPT:
            self[word] = made
        return made


class _Others(dict[bytes, Sequence[bytes]]):
    """The hashes of the stems of each word met lately that may not be in ASCII; it may have several, or none."""

    def __missing__(self, word: bytes) -> Sequence[bytes]:
        made = (_ascii[word],) if word.isascii() else tuple(_made(word))
        if len(word) <= _LONGEST_KEPT:
            self[word] = made
        return made


_ascii, _others = _Ascii(), _Others()


def _made(word: bytes) -> Iterable[bytes]:
    return [zlib.crc32(stem.encode()).to_bytes(4, "little") for stem in _stems(word)]


def _stems(text: bytes) -> list[str]:
    try:
        tokenizer = _local.tokenizer
    except AttributeError:  # one a thread, on a connection of its own that has no file
        tokenizer = _local.tokenizer = apsw.Connection(":memory:").fts5_tokenizer("porter", ["unicode61"])
    stems: list[str] = tokenizer(
        text, apsw.FTS5_TOKENIZE_DOCUMENT, None, include_offsets=False, include_colocated=False
    )
    return stems
