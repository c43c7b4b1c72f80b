"""Words of texts and queries."""

from hypothesis import given
from hypothesis import strategies as st

from ambidex.core.text import STOP_WORDS, query_terms, terms


def test_words_are_lower_cased_in_order_with_repeats() -> None:
    assert terms("The Fox, the FOX; café_1 42!") == ["the", "fox", "the", "fox", "café_1", "42"]


def test_stop_words_are_dropped_from_queries_unless_there_is_nothing_else() -> None:
    assert query_terms("to be or the fox") == ["fox"]
    assert query_terms("To be or not to be") == ["to", "be", "or", "not", "to", "be"]
    assert query_terms("") == []
    assert len(STOP_WORDS) == 33


def test_long_queries_are_cut() -> None:
    assert query_terms("word " * 10_000) == ["word"] * 256


@given(st.text())
def test_no_syntax_remains(text: str) -> None:
    for word in (*terms(text), *query_terms(text)):
        assert word
        assert not set(word) & set("\"'*:^(){}[]-+|&!~@\\/%;,. \n\x00")
