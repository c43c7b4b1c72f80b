"""How text becomes search terms, the same for every backend that ranks by words.

The invariant: :func:`terms` never returns query syntax, only runs of word characters; so what a user types can be
searched for, never executed. The stop words are the 33 of Lucene's ``EnglishAnalyzer``; they are dropped from queries
only, so that no stored text is lost.
"""

from __future__ import annotations

import re

__all__ = ["STOP_WORDS", "query_terms", "terms"]

STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
))  # fmt: skip

_WORD = re.compile(r"\w+")
_MOST_TERMS = 256
"""A query longer than this is cut: a pasted page of text finds the same documents by its first words."""


def terms(text: str) -> list[str]:
    """Return the lower-cased words of a text, in order, repeats kept."""
    return _WORD.findall(text.lower())


def query_terms(text: str) -> list[str]:
    """Return the words of a query without stop words (unless it has no others), repeats kept, at most 256."""
    words = terms(text[:100_000])
    kept = [word for word in words if word not in STOP_WORDS] or words
    return kept[:_MOST_TERMS]
