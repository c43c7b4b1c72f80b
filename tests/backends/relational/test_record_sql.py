"""Statements for records come from a finite set: only names of the model and fixed words occur, whatever is asked."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambidex.backends.postgres.columns import RECORDS as POSTGRES
from ambidex.backends.relational.record_sql import RecordDialect, Sql
from ambidex.backends.sqlite.columns import RECORDS as SQLITE
from ambidex.core.filters import conditions_of, order_of
from ambidex.core.models import model_of
from ambidex.core.ports import RecordQuery
from ambidex.core.spec import Indexed
from ambidex.errors import InvalidQuery


@dataclass
class Item:
    id: str
    name: Annotated[str | None, Indexed()] = None
    size: Annotated[int, Indexed()] = 0
    tags: list[str] | None = None


SPEC = model_of(Item).spec
FIELDS = [field.name for field in SPEC.fields]
DIALECTS = [pytest.param(SQLITE, id="sqlite"), pytest.param(POSTGRES, id="postgres")]

HOSTILE = st.sampled_from(["'", '"', "';--", '" OR 1=1 --', "?", "%s", "{0}", "$1", "\\", "/*", "*/", "name", "NULL"])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
VALUES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT | HOSTILE | st.lists(TEXT | HOSTILE, max_size=9)
)
NAMES = st.sampled_from(FIELDS) | TEXT | HOSTILE
OPERATORS = st.sampled_from(
    ["", "__eq", "__ne", "__gt", "__le", "__in", "__not_in", "__contains", "__startswith", "__is_null"]
)
FILTERS = st.dictionaries(st.tuples(NAMES, OPERATORS | HOSTILE).map("".join), VALUES, max_size=3)
ORDERS = st.lists(st.tuples(st.sampled_from(["", "-"]), NAMES).map("".join), max_size=3)

WORDS = re.compile(r'"[a-z_]+"|[A-Za-z_0-9]+|\?|[(),.=<>|]+|\s+|' + r"'[^']*'|::|@>|~")


def words_of(text: str) -> set[str]:
    """Take a statement apart; every character belongs to a word."""
    words = WORDS.findall(text)
    assert "".join(words) == text
    return set(words)


def vocabulary(dialect: RecordDialect) -> set[str]:
    """Collect the words of the statements for harmless values: every operator, order and list length."""
    sql = Sql(SPEC, dialect)
    operators = ("eq", "ne", "gt", "ge", "lt", "le", "in", "not_in", "contains", "startswith", "is_null")
    values: tuple[Any, ...] = ("a", 1, True, None, [], ["a"], [1], [None], [None, "a"], ["a", "b", "c"])
    asked: list[dict[str, Any]] = [{}]
    asked += [{f"{field}__{op}": value} for field in FIELDS for op in operators for value in values]
    known: set[str] = set()
    for filters in asked:
        try:
            where = conditions_of(SPEC, filters)
        except InvalidQuery:
            continue
        for order_by in ((), "name", "-name", "size", "-size", ("name", "-size")):
            order = order_of(SPEC, order_by)
            edge = [None if step.field == "name" else (1 if step.field == "size" else "a") for step in order]
            for after in (None, edge, ["a" if step.field != "size" else 1 for step in order]):
                known |= words_of(sql.find("tenant", RecordQuery(where, order, 10, after))[0])
    return known


KNOWN = {id(dialect): vocabulary(dialect) for dialect in (SQLITE, POSTGRES)}


@pytest.mark.parametrize("dialect", DIALECTS)
@given(filters=FILTERS, order_by=ORDERS, tenant=TEXT | HOSTILE)
def test_what_is_asked_for_never_becomes_text_of_a_statement(
    dialect: RecordDialect, filters: dict[str, Any], order_by: list[str], tenant: str
) -> None:
    try:
        where, order = conditions_of(SPEC, filters), order_of(SPEC, order_by)
    except InvalidQuery:
        return  # foreign fields and wrong values never come as far as a statement
    text, bound = Sql(SPEC, dialect).find(tenant, RecordQuery(where, order, 10))
    assert words_of(text) <= KNOWN[id(dialect)]
    assert text.count("?") == len(bound)


@given(name=TEXT | HOSTILE, value=VALUES)
def test_a_foreign_field_is_refused(name: str, value: Any) -> None:
    if name.partition("__")[0] in FIELDS:
        return
    with pytest.raises(InvalidQuery):
        conditions_of(SPEC, {name: value})
    with pytest.raises(InvalidQuery):
        order_of(SPEC, [f"-{name}"])


def test_lists_of_all_lengths_share_few_statements() -> None:
    sql = Sql(SPEC, SQLITE)
    texts = {
        sql.find("", RecordQuery(conditions_of(SPEC, {"size__in": list(range(length))})))[0]
        for length in range(1, 1000)
    }
    assert len(texts) <= 11
