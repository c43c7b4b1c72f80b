"""English words brought to their stems, so that "dogs" finds "dog"; the memory backend ranks by these.

The algorithm is M. F. Porter's ("An algorithm for suffix stripping", Program 14(3), 1980), as SQLite's FTS5 applies
it. The invariant: :func:`stem` gives the same stem as FTS5's tokenizer ``porter`` for every lower-cased word of Latin
letters, so both backends find the same texts.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import pairwise

__all__ = ["stem"]

_VOWELS = frozenset("aeiou")
_SHORTEST, _LONGEST = 3, 64  # bytes; FTS5 leaves other words as they are

_STEP_2 = {
    "a": (("ational", "ate"), ("tional", "tion")),
    "c": (("enci", "ence"), ("anci", "ance")),
    "e": (("izer", "ize"),),
    "g": (("logi", "log"),),
    "l": (("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous")),
    "o": (("ization", "ize"), ("ation", "ate"), ("ator", "ate")),
    "s": (("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous")),
    "t": (("aliti", "al"), ("iviti", "ive"), ("biliti", "ble")),
}  # by the last letter but one
_STEP_3 = {
    "a": (("ical", "ic"),),
    "s": (("ness", ""),),
    "t": (("icate", "ic"), ("iciti", "ic")),
    "u": (("ful", ""),),
    "v": (("ative", ""),),
    "z": (("alize", "al"),),
}
_STEP_4 = {
    "a": ("al",),
    "c": ("ance", "ence"),
    "e": ("er",),
    "i": ("ic",),
    "l": ("able", "ible"),
    "n": ("ant", "ement", "ment", "ent"),
    "o": ("ion", "ou"),
    "s": ("ism",),
    "t": ("ate", "iti"),
    "u": ("ous",),
    "v": ("ive",),
    "z": ("ize",),
}


def _consonants(word: str) -> list[bool]:
    """Tell for each letter whether it is a consonant; a y behind one is a vowel."""
    found: list[bool] = []
    for place, letter in enumerate(word):
        found.append(letter not in _VOWELS and not (letter == "y" and place > 0 and found[-1]))
    return found


def _measure(word: str) -> int:
    """Return how often a vowel is followed by a consonant: the m of the paper."""
    kinds = _consonants(word)
    return sum(after and not before for before, after in pairwise(kinds))


def _has_vowel(word: str) -> bool:
    return not all(_consonants(word))


def _doubles(word: str) -> bool:
    """Tell whether the word ends in a double consonant (FTS5 counts yy as one)."""
    return len(word) > 1 and word[-1] == word[-2] and word[-1] not in _VOWELS


def _short(word: str) -> bool:
    """Tell whether the word ends consonant, vowel, consonant other than w, x, y: the *o of the paper."""
    kinds = _consonants(word)
    return kinds[-3:] == [True, False, True] and word[-1] not in "wxy"


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """Return the stem of a lower-cased word; accents are dropped first, as FTS5's ``unicode61`` does."""
    if not word.isascii():
        word = "".join(char for char in unicodedata.normalize("NFD", word) if not unicodedata.combining(char))
    if not word.isascii():
        # FTS5 counts bytes, not characters; one character a byte counts the same
        return _stem(word.encode("utf-8", "replace").decode("latin-1")).encode("latin-1").decode("utf-8", "replace")
    return _stem(word)


def _stem(word: str) -> str:
    if not _SHORTEST <= len(word) <= _LONGEST:
        return word
    word = _step_1c(_step_1b(_step_1a(word)))
    word = _replaced(word, _STEP_2)
    word = _replaced(word, _STEP_3)
    return _step_5(_step_4(word))


def _step_1a(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _step_1b(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return _completed(base) if _has_vowel(base) else word
    return word


def _completed(word: str) -> str:
    """Give back what the past or the participle has taken from a word."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if _doubles(word) and word[-1] not in "lsz":
        return word[:-1]
    return word + "e" if _measure(word) == 1 and _short(word) else word


def _step_1c(word: str) -> str:
    return word[:-1] + "i" if word.endswith("y") and _has_vowel(word[:-1]) else word


def _replaced(word: str, table: dict[str, tuple[tuple[str, str], ...]]) -> str:
    """Replace the one suffix of a table that the word has, if what stands before it is long enough."""
    for suffix, instead in table.get(word[-2:-1], ()):
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return base + instead if _measure(base) > 0 else word
    return word


def _step_4(word: str) -> str:
    for suffix in _STEP_4.get(word[-2:-1], ()):
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            if _measure(base) > 1 and (suffix != "ion" or base.endswith(("s", "t"))):
                return base
            return word
    return word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        base = word[:-1]
        if _measure(base) > 1 or (_measure(base) == 1 and not _short(base)):
            word = base
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word
