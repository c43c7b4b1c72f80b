"""BM25 over postings: the same by numpy and without it, and of what exists only."""

from __future__ import annotations

import random

import pytest

from ambidex.backends.memory.search import _bm25
from ambidex.backends.postgres import search_words
from ambidex.backends.postgres.search_words import Corpus, bag_of, best, postings, query_words, without
from ambidex.backends.postgres.wire import bigint_array
from ambidex.core.ports import IndexItem

WORDS = ["dog", "dogs", "running", "sea", "the", "naïve", "x_y", "1984", "größe", "ability", "of"]


def corpus(
    texts: dict[int, tuple[str, str]],
    words: dict[int, int],
    gone: tuple[int, ...] = (),
    kept: tuple[int, ...] | None = None,
) -> Corpus:
    """Return what a query would read, the postings in parts of three items."""
    numbers = sorted(texts)
    bags = {number: bag_of(*texts[number]) for number in numbers}
    found: dict[int, list[bytes]] = {}
    for start in range(0, len(numbers), 3):
        part = numbers[start : start + 3]
        for term, docs in postings([bags[number] for number in part], part).items():
            if term in words:
                found.setdefault(term, []).append(docs)
    living = [bags[number] for number in numbers if number not in gone]
    sent = bigint_array(gone) if gone else b""
    return Corpus(
        len(living), sum(bag.words for bag in living), found, sent, None if kept is None else bigint_array(kept)
    )


def some_texts(seed: int, step: int) -> dict[int, tuple[str, str]]:
    chance = random.Random(seed)
    return {
        n * step + 7: (" ".join(chance.choices(WORDS, k=2)), " ".join(chance.choices(WORDS, k=chance.randrange(9))))
        for n in range(40)
    }


@pytest.mark.parametrize("step", [1, 1_000_003], ids=["close", "far apart"])
@pytest.mark.parametrize("gone", [(), (7, 8, 9, 7 + 5 * 1_000_003)], ids=["all there", "some gone"])
@pytest.mark.parametrize("kept", [None, (), (8, 9, 10, 11, 12, 7 + 9 * 1_000_003, 99)], ids=["all", "none", "some"])
def test_with_and_without_numpy(step: int, gone: tuple[int, ...], kept: tuple[int, ...] | None) -> None:
    pytest.importorskip("numpy")
    for seed in range(5):
        words = query_words("running dogs of the sea sea ability größe")
        read = corpus(some_texts(seed, step), words, gone, kept)
        norm = 1.2 * 0.75 * read.items / read.words
        plain = search_words._plain(words, read, norm, 10)
        fast = search_words._fast(words, read, norm, 10)
        assert list(fast) == list(plain)
        assert list(fast.values()) == pytest.approx(list(plain.values()))
        assert not set(fast) & set(gone)
        assert kept is None or set(fast) <= set(kept)


def test_what_is_gone_counts_for_nothing() -> None:
    texts = some_texts(3, 1)
    words = query_words("dog ability naïve")
    gone = tuple(sorted(texts)[::3])
    rest = {number: text for number, text in texts.items() if number not in gone}
    assert best(words, corpus(texts, words, gone), 50) == pytest.approx(best(words, corpus(rest, words), 50))


def test_the_order_is_that_of_the_reference() -> None:
    chance = random.Random(1)
    plain = [word for word in WORDS if "_" not in word and word != "dogs"]
    texts = {n: ("", " ".join(chance.choices(plain, k=3 + n % 11))) for n in range(1, 200)}
    items = {str(n): IndexItem(str(n), title, text, {}) for n, (title, text) in texts.items()}
    words = query_words("1984 sea")
    found = best(words, corpus(texts, words), 10)
    reference = _bm25("1984 sea", list(items.values()), items)
    expected = sorted(reference.values(), reverse=True)[:10]
    assert [reference[str(n)] for n in found] == pytest.approx(expected, rel=0.05)


def test_names_in_programs_are_their_parts() -> None:
    assert bag_of("", "snake_case __init__").counts == bag_of("", "snake case init").counts
    assert query_words("snake_case") == query_words("snake case")
    assert bag_of("", "___").words == 0


def test_postings_without_some_items() -> None:
    bags = [bag_of("", "sea"), bag_of("", "sea sea"), bag_of("", "sea")]
    ((term, docs),) = postings(bags, [4, 5, 6]).items()
    ((_, rest),) = postings([bags[0], bags[2]], [4, 6]).items()
    assert term in query_words("seas")
    assert without(docs, frozenset({5, 9})) == rest
    assert without(docs, frozenset({9})) == docs
    assert without(docs, frozenset({4, 5, 6})) == b""


def test_long_texts_and_many_repetitions_are_cut_to_what_a_posting_holds() -> None:
    ((_, docs),) = postings([bag_of("", "sea " * 100_000)], [5]).items()
    (one,) = search_words._stored(docs)
    assert (one >> 24, one >> 8 & 65_535, one & 255) == (5, 65_535, 255)
