"""Many values of a field become what each of them alone becomes, and are refused where one of them would be."""

import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambidex.core.spec import Kind
from ambidex.core.values import all_nested, nested, scalar, scalars
from ambidex.errors import UnsupportedValue


class Word(enum.StrEnum):
    """Text that is no plain ``str``."""

    ONE = "one"


class Number(enum.IntEnum):
    """A number that is no plain ``int``."""

    ONE = 1


_ZONES = st.sampled_from([None, UTC, timezone.utc, timezone(timedelta(0)), timezone(timedelta(hours=-5))])  # noqa: UP017
_ODD: list[Any] = ["\x00", "\ud800", "a", Word.ONE, Number.ONE, True, 1, 2**63, -(2**63), -(2**63) - 1, 0.0, -0.0, 0.5]
_ODD += [float("nan"), float("inf"), Decimal("1e3"), Decimal("NaN"), UUID(int=7), date(2024, 1, 1), time(1, fold=1)]
_ODD += [datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), b"x", [], None]
_LIKELY = st.text(max_size=3) | st.integers() | st.floats() | st.booleans() | st.datetimes(timezones=_ZONES)
_VALUES = st.lists(st.sampled_from(_ODD) | _LIKELY, max_size=4)
_OF_ONE_TYPE = st.sampled_from([str, int, float, bool, UUID, datetime, date, time, bytes, Decimal]).flatmap(
    lambda kind: st.lists(st.sampled_from([v for v in _ODD if v is None or type(v) is kind]), max_size=4)
)


def _outcome(call: Any) -> Any:
    try:
        return [(type(value), repr(value)) for value in call()]
    except UnsupportedValue as error:
        return str(error)


@given(st.sampled_from([kind for kind in Kind if kind is not Kind.JSON]), _VALUES | _OF_ONE_TYPE)
def test_many_scalars_become_what_each_becomes(kind: Kind, values: list[Any]) -> None:
    alone = _outcome(lambda: [None if value is None else scalar(kind, value, "Model.field") for value in values])
    assert _outcome(lambda: scalars(kind, values, "Model.field")) == alone


_JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=2) | st.sampled_from(_ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@given(st.lists(_JSON | st.lists(st.text(max_size=2), max_size=2), max_size=3))
def test_much_nested_data_becomes_what_each_becomes(values: list[Any]) -> None:
    alone = _outcome(lambda: [None if value is None else nested(value, "Model.field") for value in values])
    assert _outcome(lambda: all_nested(values, "Model.field")) == alone


def test_a_list_of_texts_is_a_list_of_its_own() -> None:
    given_ = [["a"], ["b"]]
    (first, _) = all_nested(given_, "Model.field")
    assert first == ["a"]
    assert first is not given_[0]


def test_the_path_to_what_is_wrong_is_named() -> None:
    with pytest.raises(UnsupportedValue, match=r"Model\.field\['a'\]\[1\]: nested data is JSON"):
        nested({"a": [1, b"x"]}, "Model.field")
