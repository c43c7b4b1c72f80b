"""Encoded values sort like the values, and ranges hold exactly what meets a condition."""

from datetime import UTC
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ambidex.backends.redis.encoding import (
    EVERYTHING,
    Range,
    all_to_plain,
    encode,
    encode_all,
    from_plain,
    intersect,
    member,
    place,
    places,
    ranges,
    to_plain,
)
from ambidex.core.query import Condition, matches
from ambidex.core.spec import Kind
from ambidex.core.values import scalar

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5)
_VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: st.sampled_from(("", "a", "ab", "é", "\U0001f600", "￿")) | _TEXT,
    Kind.BYTES: st.sampled_from((b"", b"\x00", b"\x00\x00", b"\x00\xff", b"\xff", b"\x00\x01")) | st.binary(max_size=4),
    Kind.INTEGER: st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT: st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: str(value) != "-0.0"),
    Kind.BOOLEAN: st.booleans(),
    Kind.DECIMAL: (
        st.sampled_from(("0", "0.00", "1", "1.0", "10", "-1", "-1.5", "-1.25", "0.001", "9.99", "100.10", "-100"))
        | st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str)
    ).map(lambda text: scalar(Kind.DECIMAL, Decimal(text) or Decimal(0), "x")),
    Kind.UUID: st.uuids(),
    Kind.DATETIME: st.datetimes(timezones=st.just(UTC)),
    Kind.DATE: st.dates(),
    Kind.TIME: st.times(),
}
_KINDS = st.sampled_from(sorted(_VALUES))


def _key(value: Any) -> tuple[bool, Any]:
    return (value is not None, 0 if value is None else value)


@st.composite
def _some(draw: st.DrawFn, count: int) -> tuple[Kind, list[Any]]:
    kind = draw(_KINDS)
    return kind, [draw(st.none() | _VALUES[kind]) for _ in range(count)]


@given(_some(2), st.lists(_TEXT, min_size=2, max_size=2))
def test_members_sort_by_value_and_then_by_id(given: tuple[Kind, list[Any]], ids: list[str]) -> None:
    kind, (one, other) = given
    keys = [(_key(value), id_) for value, id_ in zip((one, other), ids, strict=True)]
    first, second = (
        member(place(kind, value), place(Kind.TEXT, id_)[1:]) for value, id_ in zip((one, other), ids, strict=True)
    )
    assert (first < second) is (keys[0] < keys[1])
    assert (first == second) is (keys[0] == keys[1])


@given(_some(1))
def test_values_come_back_from_their_plain_form(given: tuple[Kind, list[Any]]) -> None:
    kind, (value,) = given
    assert str(from_plain(kind, to_plain(kind, value))) == str(value)


@given(_some(4), st.sampled_from(("eq", "ne", "gt", "ge", "lt", "le", "in", "not_in", "is_null", "startswith")), _TEXT)
def test_ranges_hold_what_meets_the_condition(given: tuple[Kind, list[Any]], op: str, id_: str) -> None:
    kind, (have, want, *others) = given
    if op in ("in", "not_in"):
        want = [want, *others]
    elif op == "is_null":
        want = want is None
    elif (op == "startswith" and kind is not Kind.TEXT) or (op not in ("eq", "ne") and want is None):
        return
    condition = Condition("x", op, want)
    found = ranges(kind, condition)
    assert found is not None
    assert found == sorted(found)
    data = member(place(kind, have), place(Kind.TEXT, id_)[1:])
    assert any(first <= data < end for first, end in found) is matches([condition], {"x": have})


_RANGES: st.SearchStrategy[list[Range]] = st.lists(st.binary(min_size=1, max_size=2), max_size=8, unique=True).map(
    lambda edges: [(a, b) for a, b in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)]
)


@given(_RANGES, _RANGES, st.binary(max_size=3))
def test_intersections_hold_what_lies_in_both(one: list[Range], other: list[Range], data: bytes) -> None:
    def inside(found: list[Range]) -> bool:
        return any(first <= data < end for first, end in found)

    assert inside(intersect(one, other)) is (inside(one) and inside(other))


def test_contains_is_no_range() -> None:
    assert ranges(Kind.TEXT, Condition("x", "contains", "a")) is None
    assert intersect(EVERYTHING, EVERYTHING) == EVERYTHING


@given(st.integers(0, 5).flatmap(_some))
def test_many_values_at_once_become_what_each_becomes(given: tuple[Kind, list[Any]]) -> None:
    kind, values = given
    there = [value for value in values if value is not None]
    assert encode_all(kind, there) == [encode(kind, value) for value in there]
    for some in (there, values):
        assert places(kind, some) == [place(kind, value) for value in some]
        assert list(all_to_plain(kind, some)) == [to_plain(kind, value) for value in some]
