"""Key text: injective, reversible, a prefix stays a prefix, and no part is too long."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambidex.core.keys import MAX_KEY_BYTES, decode, encode, escape, escape_all, prefix_of, unescape
from ambidex.errors import InvalidKey

_PART = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30) | st.text(
    "a:%/-_3AéB", max_size=8
)
_PARTS = st.lists(_PART, min_size=1, max_size=4)


@given(_PARTS, _PARTS)
def test_different_parts_give_different_keys(one: list[str], other: list[str]) -> None:
    assert (encode(*one) == encode(*other)) == (one == other)


@given(_PARTS)
def test_parts_come_back(parts: list[str]) -> None:
    assert decode(encode(*parts)) == tuple(parts)


@given(_PART, _PART)
def test_a_prefix_stays_a_prefix(one: str, other: str) -> None:
    assert escape(one + other).startswith(escape(one))
    assert escape(one).startswith(escape(other)) == one.startswith(other)


@given(_PART)
def test_only_plain_characters_remain(part: str) -> None:
    assert re.fullmatch(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2})*", escape(part))


@given(_PARTS, _PARTS)
def test_a_prefix_of_parts_holds_exactly_what_is_below(parts: list[str], more: list[str]) -> None:
    assert encode(*parts, *more).startswith(prefix_of(*parts))
    assert not encode(*parts).startswith(prefix_of(*parts))


@pytest.mark.parametrize("bad", ["a\x00", "\ud800", "x" * (MAX_KEY_BYTES + 1), "é" * 400, 5, None, b"a", ["a"], {}])
def test_bad_parts_are_refused(bad: object) -> None:
    with pytest.raises(InvalidKey, match="key"):
        escape(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidKey, match="key"):
        encode("ok", bad)  # type: ignore[arg-type]


@given(st.lists(_PART, max_size=4) | st.lists(st.text("ab:_-", max_size=6), max_size=6) | st.lists(st.text("ab/")))
def test_many_parts_are_written_as_each_would_be(parts: list[str]) -> None:
    assert escape_all(parts) == [escape(part) for part in parts]


@pytest.mark.parametrize(
    "bad", ["a\x00", "\x00", "\ud800", "x" * (MAX_KEY_BYTES + 1), "::" * MAX_KEY_BYTES, 5, None, b"a"]
)
def test_a_bad_part_among_many_is_refused(bad: object) -> None:
    with pytest.raises(InvalidKey, match="key"):
        escape_all(["ok", bad, "a:b"])  # type: ignore[list-item]
    assert escape_all(["x" * MAX_KEY_BYTES, ":"]) == ["x" * MAX_KEY_BYTES, "%3A"]


def test_the_longest_part_is_accepted() -> None:
    assert len(escape("x" * MAX_KEY_BYTES)) == MAX_KEY_BYTES


@pytest.mark.parametrize("text", ["a:b", "a b", "%", "%4", "%zz", "é", "%FF", "%c3%a9"])
def test_what_escape_never_writes_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey, match="not an escaped"):
        unescape(text)
