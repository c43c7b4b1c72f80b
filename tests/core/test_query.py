"""Filters: what parses into what, what is refused with its name, and what each operator means."""

from typing import Any

import pytest

from ambidex.core.filters import conditions_of
from ambidex.core.query import OPERATORS, Condition, matches, parse_filters
from ambidex.core.spec import Field, Kind, RecordSpec
from ambidex.errors import InvalidQuery

_NESTED = RecordSpec("nested", (Field("id", Kind.TEXT, False), Field("data", Kind.JSON, True)), "id")


@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ({"age": 5}, Condition("age", "eq", 5)),
        ({"age__ge": 5}, Condition("age", "ge", 5)),
        ({"first__name__ne": "x"}, Condition("first__name", "ne", "x")),
        ({"age__in": (1, 2)}, Condition("age", "in", [1, 2])),
        ({"age__not_in": {3}}, Condition("age", "not_in", [3])),
        ({"age__is_null": True}, Condition("age", "is_null", True)),
        ({"_x__startswith": "a"}, Condition("_x", "startswith", "a")),
    ],
)
def test_filters_parse(filters: dict[str, Any], condition: Condition) -> None:
    assert parse_filters(filters) == [condition]


def test_a_declared_field_may_contain_two_underscores() -> None:
    assert parse_filters({"first__name": "x"}, ["first__name"]) == [Condition("first__name", "eq", "x")]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"age__like": 5}, "unknown operator 'like' .* there are: eq, ne"),
        ({"color": 5}, "unknown field 'color' .* there are: age, name"),
        ({"color__gt": 5}, "unknown field 'color'"),
        ({"age__in": "text"}, "needs a list"),
        ({"age__in": 5}, "needs a list"),
        ({"name__startswith": 5}, "needs text"),
        ({"name__is_null": 1}, "needs True or False"),
    ],
)
def test_bad_filters_are_refused_by_name(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        parse_filters(filters, ["age", "name"])


@pytest.mark.parametrize("name", ["a b", "a'; --", "1a", "", "é", "a" * 64, "a.b", '"a"'])
def test_free_field_names_are_words(name: str) -> None:
    with pytest.raises(InvalidQuery):
        parse_filters({name: 1})


@pytest.mark.parametrize(
    ("op", "have", "want", "result"),
    [
        ("eq", 5, 5.0, True),
        ("eq", 5, "5", False),
        ("eq", None, None, True),
        ("ne", None, 5, True),
        ("gt", 6, 5, True),
        ("gt", "6", 5, False),
        ("gt", 6, "5", False),
        ("gt", None, 5, False),
        ("ge", 5, 5, True),
        ("lt", "a", "b", True),
        ("le", 5, None, False),
        ("in", 5, [4, 5], True),
        ("in", None, [None], True),
        ("not_in", None, [5], True),
        ("not_in", 5, [5], False),
        ("contains", "Paris", "ari", True),
        ("contains", 55, "5", False),
        ("contains", None, "5", False),
        ("contains", "55", 5, False),
        ("contains", ["a", "b"], "a", True),
        ("contains", ["a", "b"], "c", False),
        ("contains", [1, 2], 2, True),
        ("startswith", "Paris", "Par", True),
        ("startswith", 55, "5", False),
        ("is_null", None, True, True),
        ("is_null", 0, True, False),
        ("is_null", 0, False, True),
    ],
)
def test_what_the_operators_mean(op: str, have: Any, want: Any, result: bool) -> None:
    assert OPERATORS[op](have, want) is result
    assert matches([Condition("f", op, want)], {"f": have}) is result


def test_a_text_is_no_list_of_elements() -> None:
    (condition,) = conditions_of(_NESTED, {"data__contains": "a"})
    assert condition.said == "data__contains"
    assert matches([condition], {"data": ["a"]})
    assert not matches([condition], {"data": "a"})
    with pytest.raises(InvalidQuery, match="unknown operator 'element'"):
        conditions_of(_NESTED, {"data__element": "a"})


def test_every_condition_must_hold() -> None:
    conditions = parse_filters({"a": 1, "b__gt": 2})
    assert matches(conditions, {"a": 1, "b": 3})
    assert not matches(conditions, {"a": 1, "b": 2})
    assert not matches(conditions, {"b": 3})
    assert matches([], {})
