"""The codec alone: round trips under random data, refusals with the path of the part, and bytes that are not ours."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest
import sqlmodel
from hypothesis import given
from hypothesis import strategies as st

from ambidex.core.codec import FORMAT, canonical, decode, encode, encode_all, pack, raw, to_plain
from ambidex.errors import Corrupted, UnsupportedValue, ValueTooLarge
from ambidex.testing.values import REFUSED, VALUES, same

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
_OFFSETS = st.integers(-23 * 3600, 23 * 3600).map(lambda seconds: timezone(timedelta(seconds=seconds)))
_HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != 0 or math.copysign(1, x) > 0),
    _TEXT,
    st.binary(),
    st.datetimes(timezones=_OFFSETS),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.uuids(),
)
_ANY = st.recursive(
    _HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_TEXT, inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(_HASHABLE, max_size=3),
        st.sets(_HASHABLE, max_size=3),
    ),
    max_leaves=20,
)


_SIMPLE = [
    st.none() | _TEXT,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != 0 or math.copysign(1, x) > 0),
    st.booleans(),
    st.lists(_TEXT, max_size=3),
    st.lists(st.integers(0, 9), max_size=3) | st.none(),
]


@given(_ANY)
def test_what_is_accepted_comes_back_the_same(value: Any) -> None:
    assert same(decode(encode(value)), value)


@st.composite
def _alike(draw: st.DrawFn) -> list[Any]:
    """Draw dicts that have the same keys, mostly, and the same kinds of values under them, mostly."""
    kinds = draw(st.dictionaries(_TEXT, st.sampled_from([*_SIMPLE, _ANY]), max_size=4))
    few = draw(
        st.lists(st.fixed_dictionaries(dict(kinds)) | st.fixed_dictionaries(dict(kinds)), min_size=1, max_size=4)
    )
    return [*few * 20, *draw(st.lists(_ANY, max_size=1))]


@given(_alike())
def test_many_values_become_what_each_becomes(values: list[Any]) -> None:
    assert encode_all(values) == [encode(value) for value in values]


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"a": {"b": bad}, "c": 1}, lambda bad: {"a": [bad]}])
@pytest.mark.parametrize(
    "bad",
    [math.nan, math.inf, -0.0, 2**63, "\x00", "\ud800", datetime(2026, 1, 1), object, {1: 2}, {"\x00": 1}],  # noqa: DTZ001
)
def test_of_many_values_the_one_that_cannot_be_stored_is_refused_in_its_own_words(
    wrap: Callable[[Any], Any], bad: Any
) -> None:
    with pytest.raises(UnsupportedValue) as alone:
        encode({"x": wrap(bad)})
    good = {str: "x", float: 1.5, dict: {"a": 1}}.get(type(bad), 1)
    values = [{"x": wrap(good)} for _ in range(40)]
    with pytest.raises(UnsupportedValue) as among:
        encode_all([*values, {"x": wrap(bad)}, *values])
    assert str(among.value) == str(alone.value)


def test_many_values_that_contain_themselves_are_refused() -> None:
    chain: list[Any] = []
    tree: list[Any] = []
    chain.append(chain)
    tree += [tree, tree]
    for loop in (chain, tree):
        with pytest.raises(UnsupportedValue, match="nested more than"):
            encode_all([{"a": loop}] * 20)


def test_the_size_limit_holds_for_each_of_many_values() -> None:
    values = [{"a": "x" * 50} for _ in range(20)]
    assert encode_all(values, 60) == [encode(value, 60) for value in values]
    with pytest.raises(ValueTooLarge):
        encode_all([*values, {"a": "x" * 60}], 60)


@given(st.binary())
def test_foreign_bytes_decode_or_are_corrupted(data: bytes) -> None:
    for stored in (data, bytes([FORMAT]) + data):
        try:
            decode(stored)
        except Corrupted:
            pass


@given(
    st.sets(st.integers() | _TEXT, max_size=5).filter(
        lambda s: all(not isinstance(i, int) or abs(i) < 2**63 for i in s)
    )
)
def test_equal_sets_have_equal_bytes(value: set[Any]) -> None:
    again: set[Any] = set()
    for item in sorted(value, key=repr, reverse=True):
        again.add(item)
    assert encode(value) == encode(again)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_values(value: Any) -> None:
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=[name for name, _ in REFUSED])
def test_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedValue):
        encode(value)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"a": [0, {"b": math.nan}]}, r"value\['a'\]\[1\]\['b'\]: nan"),
        ([0, 2**64], r"value\[1\]: the integer needs more than 64 bits"),
        (datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=1))), "the zone of .* is off by a fraction"),
        ({"when": datetime(2024, 1, 1)}, r"value\['when'\]: the datetime 2024-01-01T00:00:00 is naive; .*timezone.utc"),  # noqa: DTZ001
        ({1: 2}, "the key 1 is int"),
        (bytearray(b"x"), "bytes"),
        ("a\x00", "NUL"),
        (["\ud800"], "surrogate"),
    ],
)
def test_a_refusal_names_the_part_and_the_remedy(value: Any, part: str) -> None:
    with pytest.raises(UnsupportedValue, match=part):
        encode(value)


def test_integers_stay_integers_and_true_does_not() -> None:
    assert encode(5) == 5
    assert type(encode(True)) is bytes
    assert decode(encode(True)) is True


def test_the_size_limit_counts_bytes() -> None:
    assert len(bytes(encode("é" * 40, 100))) <= 100
    for value in ("é" * 60, b"x" * 101, ["x" * 60, "y" * 60], {"k": b"x" * 101}, {"k": "x" * 101}):
        with pytest.raises(ValueTooLarge, match="the limit is 100"):
            encode(value, 100)


def test_the_depth_limit_is_just_below_two_hundred_levels() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return value

    assert decode(encode(nested(200))) == nested(200)
    with pytest.raises(UnsupportedValue, match="200 levels"):
        encode(nested(201))


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x00",
        b"\x02\x01",
        b"\x01",
        b"\x01\xc1",
        b"\x01\x92\x01",
        b"\x01\xc7\x01\x63x",
        b"\x01\xc7\x01\x05x",
        b"\x01\x01\x01",
    ],
)
def test_damaged_bytes_are_corrupted(stored: bytes) -> None:
    with pytest.raises(Corrupted):
        decode(stored)


def test_a_newer_format_is_named() -> None:
    with pytest.raises(Corrupted, match="format 02, this version of ambidex reads 01"):
        decode(b"\x02\x01")


def test_a_set_of_unhashable_members_is_corrupted_not_a_type_error() -> None:
    inside = msgspec.msgpack.encode([[1]])
    with pytest.raises(Corrupted):
        decode(b"\x01" + msgspec.msgpack.encode(msgspec.msgpack.Ext(8, inside)))


def test_a_class_name_in_stored_data_decides_nothing() -> None:
    value = {"__class__": "os.system", "__reduce__": ["x"], "py/object": "os.system"}
    assert decode(encode(value)) == value


class _Kind(enum.Enum):
    ONE = 1


class _Inner(pydantic.BaseModel):
    at: datetime


@dataclass
class _Outer:
    inner: _Inner
    costs: list[Decimal]


class _Struct(msgspec.Struct, tag=True):
    outer: _Outer


def test_models_stand_inside_each_other() -> None:
    value = _Struct(_Outer(_Inner(at=datetime(2024, 1, 1, tzinfo=UTC)), [Decimal("1.10")]))
    assert decode(encode(value), _Struct) == value
    plain = to_plain(value)
    assert plain["outer"]["inner"] == {"at": datetime(2024, 1, 1, tzinfo=UTC)}
    assert decode(encode([value, value])) == [plain, plain]


class _Table(sqlmodel.SQLModel, table=True):
    id: str = sqlmodel.Field(default="", primary_key=True)
    number: int = 1


class _Shown(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    at: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    kinds: tuple[_Kind, ...] = (_Kind.ONE,)
    hidden: str = pydantic.Field("", exclude=True)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def year(self) -> int:
        return self.at.year

    @pydantic.field_serializer("at")
    def show(self, at: datetime) -> str:
        return f"in {at:%Y}"


class _More(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


@pytest.mark.parametrize(
    "value",
    [_Table(number=2), _Shown(hidden="h"), _More.model_validate({"x": [1]}), pydantic.RootModel[list[int]]([1])],
    ids=lambda value: type(value).__name__,
)
def test_a_pydantic_model_comes_back_as_it_was_and_not_as_it_shows_itself(value: Any) -> None:
    assert decode(encode(value), type(value)) == value
    assert decode(encode({"in": [value]})) == {"in": [to_plain(value)]}


def test_a_pydantic_model_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsupportedValue, match="containing itself"):
        encode(_More.model_validate({"loop": loop}))


def test_what_does_not_fit_is_told_without_its_value() -> None:
    with pytest.raises(Corrupted, match="number") as caught:
        decode(encode({"number": "sesame"}), _Table)
    assert "sesame" not in str(caught.value)


def test_a_value_that_does_not_fit_its_model_is_corrupted() -> None:
    for model in (_Inner, _Outer, _Struct):
        with pytest.raises(Corrupted, match=model.__name__):
            decode(encode({"x": 1}), model)


@pytest.mark.parametrize(
    "kind", [[0.5], [7], ["text"], [None], [True], [0.0], [b"bytes"], [[1]], [2**63 - 1, -(2**63)]]
)
def test_long_lists_of_one_kind_come_back(kind: list[Any]) -> None:
    assert decode(encode(kind * 50)) == kind * 50


@pytest.mark.parametrize(
    "bad",
    [math.nan, math.inf, -math.inf, -0.0, 2**63, -(2**63) - 1, "nul\x00", "\ud800", datetime(2020, 1, 1)],  # noqa: DTZ001  # naive on purpose
)
@pytest.mark.parametrize("others", [[1.5], [1], ["text"], [1, "text"], [1e308]])
def test_one_bad_item_in_a_long_list_is_found(bad: Any, others: list[Any]) -> None:
    items = [*others * 20, bad, *others * 20]
    for value in (items, {"part": items}):
        with pytest.raises(
            UnsupportedValue, match=r"lone surrogate" if bad == "\ud800" else rf"\[{len(others) * 20}\]"
        ):
            encode(value)


def test_finite_numbers_whose_sum_is_infinite_come_back() -> None:
    assert decode(encode([1e308] * 40)) == [1e308] * 40


def test_a_long_list_of_texts_is_refused_only_by_the_size_of_the_whole() -> None:
    texts = ["x" * 10] * 40
    assert decode(encode(texts, 500)) == texts
    with pytest.raises(ValueTooLarge):
        encode(texts, 300)


@pytest.mark.parametrize(
    "value", [5, "text", None, {"a": [1, {"b": (2,)}]}, datetime(2024, 1, 1, tzinfo=UTC)], ids=repr
)
def test_a_stored_value_stands_inside_another(value: Any) -> None:
    whole = {"first": 1, "inner": value, "list": [value, "x"]}
    stored = pack({"first": 1, "inner": raw(encode(value)), "list": [raw(encode(value)), "x"]})
    assert stored == encode(whole)
    assert same(decode(stored), whole)
    assert pack((1, "x")) == encode([1, "x"])
    with pytest.raises(ValueTooLarge):
        pack({"inner": raw(encode("x" * 100))}, 50)


def test_the_canonical_form_knows_no_order_of_keys() -> None:
    one = {"b": {"y": 1, "x": [{"q": 1, "p": datetime(2024, 1, 1, tzinfo=UTC)}]}, "a": {1, 2}, "é": 1.5}
    other = {"é": 1.5, "a": {2, 1}, "b": {"x": [{"p": datetime(2024, 1, 1, tzinfo=UTC), "q": 1}], "y": 1}}
    assert encode(one) != encode(other)
    assert canonical(encode(one)) == canonical(encode(other))
    assert decode(canonical(encode(one))) == one
    assert canonical(encode(one)) != canonical(encode({**one, "b": {"y": 2, "x": []}}))
    assert canonical(encode(one | {"list": [1, 2]})) != canonical(encode(one | {"list": [2, 1]}))
    assert canonical(7) == 7
