"""Chunks: exact places, limits, where cuts fall, overlap; no input is cut wrongly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ambidex.core.chunking import chunk_id, split
from ambidex.errors import InvalidQuery

SENTENCE = "The quick brown fox jumps over the lazy dog by the river. "


def test_a_short_text_is_one_chunk() -> None:
    (chunk,) = split("  One. Two.\n")
    assert chunk == ("One. Two.", 2, 11)


@pytest.mark.parametrize("text", ["", " \n\t ", "\u2003"])
def test_nothing_gives_no_chunk(text: Any) -> None:
    assert split(text) == []


def test_the_default_is_800_characters_at_the_ends_of_sentences() -> None:
    chunks = split(SENTENCE * 100)
    assert all(len(chunk.text) <= 800 and chunk.text.endswith("river.") for chunk in chunks)
    assert max(len(chunk.text) for chunk in chunks) > 700


@pytest.mark.parametrize("end", ["? ", "! ", '." ', ".) ", "… ", ".\n"])
def test_sentences_end_in_several_ways(end: Any) -> None:
    text = ("Some words that go on for a while" + end) * 60
    assert all(chunk.text.endswith(end.strip()) for chunk in split(text, 200))


def test_chinese_sentences_have_no_spaces() -> None:
    assert all(chunk.text.endswith("。") for chunk in split("我们在河边走了很久。" * 100, 120))


def test_headings_begin_chunks() -> None:
    text = "".join(f"# Part {n}\n\n{SENTENCE * 5}\n\n" for n in range(10))
    chunks = split(text, 400)
    assert [chunk.text.startswith(f"# Part {n}") for n, chunk in enumerate(chunks)] == [True] * 10
    underlined = "".join(f"Part {n}\n======\n\n{SENTENCE * 5}\n\n" for n in range(10))
    assert [chunk.text.startswith(f"Part {n}\n") for n, chunk in enumerate(split(underlined, 400))] == [True] * 10


def test_a_comment_in_a_block_of_code_is_no_heading() -> None:
    code = "```python\n" + "x = 1  # one\n# not a heading\n" * 12 + "```\n"
    chunks = split("Intro.\n\n" + code + "\n" + SENTENCE * 20, 500)
    assert not any(chunk.text.startswith("# not") for chunk in chunks)


def test_paragraphs_and_list_items_are_kept_whole() -> None:
    paragraphs = "\n\n".join(SENTENCE.strip() + " " + SENTENCE.strip() for _ in range(20))
    assert all(chunk.text.endswith("river.") and chunk.start in (0, paragraphs.find(chunk.text, chunk.start))
               for chunk in split(paragraphs, 300))  # fmt: skip
    items = "\n".join(f"- item {n} has some words in it" for n in range(40))
    assert all(chunk.text.startswith("- item") for chunk in split(items, 200))


def test_overlap_repeats_whole_words() -> None:
    text = " ".join(f"word{n}" for n in range(500))
    chunks = split(text, 200, 50)
    for before, after in pairwise(chunks):
        assert before.start < after.start < before.end < after.end
        assert before.end - after.start <= 50
        assert after.text.startswith("word")


@pytest.mark.parametrize(
    ("size", "overlap"), [(0, 0), (15, 0), (-1, 0), (2.5, 0), (True, 0), (100, 50), (100, -1), (100, 1.5)]
)
def test_bad_limits_are_refused(size: Any, overlap: Any) -> None:
    with pytest.raises(InvalidQuery):
        split("text", size, overlap)


def test_a_word_longer_than_a_chunk_is_cut() -> None:
    assert [len(chunk.text) for chunk in split("x" * 1700)] == [800, 800, 100]


def test_the_names_of_chunks() -> None:
    assert chunk_id("docs/a.md", 3) == "docs/a.md#chunk_3"


PIECES = st.sampled_from(
    [
        "a",
        "word ",
        ". ",
        "\n",
        "\n\n",
        "# H\n",
        "```\n",
        "~~~\n",
        "- i\n",
        "1. x\n",
        "\n===\n",
        "🙂",
        "\r\n",
        "\u2028",
        "。",
        "x" * 40,
        "\x1f",
        " ",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=200).map("".join), st.integers(16, 120), st.floats(0, 0.49))
@example("a" * 17 + " " + "b" * 40, 16, 0.45)
def test_whatever_comes_places_are_exact_and_nothing_is_lost(text: Any, size: Any, part: Any) -> None:
    overlap = int(size * part)
    chunks = split(text, size, overlap)
    covered = 0
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert 0 < len(chunk.text) <= size
        assert not text[covered : chunk.start].strip()
        assert chunk.end > covered
        covered = chunk.end
    assert not text[covered:].strip()
    if not overlap:
        assert all(a.end <= b.start for a, b in pairwise(chunks))


def test_hostile_texts_take_no_time_to_speak_of() -> None:
    for text in (
        "```\n# x\n" * 60_000,
        "\n" * 1_000_000,
        "a" * 1_000_000,
        "=\n" * 300_000,
        "!" * 500_000,
        '."' * 300_000,
    ):
        split(text)
