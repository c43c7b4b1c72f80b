"""The stems that are looked up word by word are those that FTS5's tokeniser finds in the whole text."""

from __future__ import annotations

import random
import zlib
from typing import Any

import apsw
import pytest

from ambidex.backends.sqlite import search_words
from ambidex.backends.sqlite.search_words import query_words, words_of

_ODD = [*map(chr, range(128)), *"éÉßǅﬁİıſ日本語ไทยक्षि🙂\ud800"]
_ODD += map(chr, (0x300, 0x345, 0x200B, 0x200D, 0x3000, 0xE000))


def whole(text: str) -> list[bytes]:
    """Return the hashes of the stems, made by one call of the tokeniser."""
    tokenizer = apsw.Connection(":memory:").fts5_tokenizer("porter", ["unicode61"])
    data = text.encode("utf-8", "replace")
    stems: Any = tokenizer(data, apsw.FTS5_TOKENIZE_DOCUMENT, None, include_offsets=False, include_colocated=False)
    return [zlib.crc32(stem.encode()).to_bytes(4, "little") for stem in stems]


def test_every_kind_of_character_stands_in_a_word_as_the_tokeniser_has_it() -> None:
    text = "".join(f" ab{chr(point)}cd" for point in range(1, 0x3100))
    assert search_words._hashes(text) == whole(text)


def test_texts_of_any_characters_have_the_stems_of_the_tokeniser() -> None:
    chance = random.Random(4)
    for _ in range(500):
        text = "".join(chance.choices(_ODD, k=chance.randrange(60)))
        assert search_words._hashes(text) == whole(text), repr(text)


def test_a_title_counts_double_and_a_count_ends_at_a_byte() -> None:
    stored = words_of("A Running Title", "the runner runs and runs; naïve " + "ox " * 300)
    assert int.from_bytes(stored[:4], "little") == 3 + 6 + 300
    number = (len(stored) - 4) // 5
    hashes = [int.from_bytes(stored[4 + 4 * n : 8 + 4 * n], "little") for n in range(number)]
    counts = dict(zip(hashes, stored[4 + 4 * number :], strict=True))
    stems = {"a": 2, "run": 4, "titl": 2, "the": 1, "runner": 1, "and": 1, "naiv": 1, "ox": 255}
    assert counts == {zlib.crc32(stem.encode()): count for stem, count in stems.items()}
    assert words_of("", "") == bytes(4)
    assert query_words(["runs", "oxen", "running"]) == {zlib.crc32(b"run"): 2, zlib.crc32(b"oxen"): 1}


def test_words_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("ox " * 300, "yak " + "z" * 500, "gnu", "", "é è", "ö" * 500 + " ü")
    made = {text: words_of("a title", text) for text in texts}
    assert made["ox " * 300][-3:] == bytes([255, 2, 2])
    monkeypatch.setattr(search_words, "_MOST_HASHES", 3)
    for _ in range(2):
        for text, words in made.items():
            assert words_of("a title", text) == words
    for kept in (search_words._ascii, search_words._others):
        assert len(kept) < 10
        assert max(map(len, kept)) <= 64
