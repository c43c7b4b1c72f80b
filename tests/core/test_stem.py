"""The stemmer: pairs of Porter's paper, and agreement with the tokenizer of SQLite's FTS5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambidex import UnifiedStorage
from ambidex.core.stem import stem

# The examples of the paper, step by step, where no later step changes them further, and of the published vocabulary.
PAIRS = """
caresses caress|ponies poni|ties ti|caress caress|cats cat|feed feed|agreed agre|plastered plaster|bled bled
motoring motor|sing sing|conflated conflat|troubled troubl|sized size|hopping hop|tanned tan|falling fall|hissing hiss
fizzed fizz|failing fail|filing file|happy happi|sky sky|relational relat|conditional condit|rational ration
valenci valenc|hesitanci hesit|digitizer digit|conformabli conform|radicalli radic|differentli differ|vileli vile
analogousli analog|vietnamization vietnam|predication predic|operator oper|feudalism feudal|decisiveness decis
hopefulness hope|callousness callous|formaliti formal|sensitiviti sensit|sensibiliti sensibl|triplicate triplic
formative form|formalize formal|electriciti electr|electrical electr|hopeful hope|goodness good|revival reviv
allowance allow|inference infer|airliner airlin|gyroscopic gyroscop|adjustable adjust|defensible defens|irritant irrit
replacement replac|adjustment adjust|dependent depend|adoption adopt|homologou homolog|communism commun|activate activ
angulariti angular|homologous homolog|effective effect|bowdlerize bowdler|probate probat|rate rate|cease ceas
controll control|roll roll|dogs dog|running run|connections connect|is is|a a|generalizations gener|oscillators oscil
"""


@pytest.mark.parametrize("pair", PAIRS.replace("\n", "|").strip("|").split("|"))
def test_known_pairs(pair: Any) -> None:
    word, expected = pair.split()
    assert stem(word) == expected


def fts5(words: list[str]) -> list[list[str]]:
    conn = apsw.Connection(":memory:")
    conn.execute("CREATE VIRTUAL TABLE t USING fts5(word, tokenize='porter unicode61')")
    conn.execute("CREATE VIRTUAL TABLE v USING fts5vocab(t, 'instance')")
    conn.executemany("INSERT INTO t (rowid, word) VALUES (?, ?)", list(enumerate(words)))
    found: list[list[str]] = [[] for _ in words]
    for term, place in conn.execute("SELECT term, doc FROM v"):
        found[place].append(term)
    return found


SUFFIXES = """
ational tional enci anci izer logi bli alli entli eli ousli ization ation ator alism iveness fulness ousness aliti
iviti biliti icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion ou ism ate
iti ous ive ize e ll y s ed ing eed sses ies ss sion tion
""".split()  # noqa: SIM905  # a table is easier to read


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abcdeilmnorstuyz", min_size=3, max_size=8), st.sampled_from(SUFFIXES)).map("".join),
        min_size=1,
        max_size=200,
    )
)
def test_the_stems_are_those_of_fts5(words: Any) -> None:
    assert fts5(words) == [[stem(word)] for word in words]


def test_accents_and_long_words_are_treated_as_fts5_does() -> None:
    words = ["caféteria", "müller", "ardèche", "x" * 70 + "ings", "größe", "naïveness"]
    assert fts5(words) == [[stem(word)] for word in words]


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_every_backend_finds_a_word_by_its_other_forms(url: Any, tmp_path: Path) -> None:
    with UnifiedStorage(f"sqlite:///{tmp_path}/a.db" if url == "sqlite" else url) as storage:
        storage.index.add("1", "A dog runs through the connected gardens")
        storage.index.add("2", "Nothing of it")
        for query in ("dogs", "running", "connection", "garden", "DOG"):
            assert [hit.id for hit in storage.index.search(query)] == ["1"]
