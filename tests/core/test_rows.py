"""Rows kept by column read like a list of rows."""

import pytest

from ambidex.core.ports import Row
from ambidex.core.rows import Rows, column

LIST: list[Row] = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
ROWS = Rows({"a": [1, 2, 3], "b": ["x", "y", "z"]}, 3)


def test_they_read_like_a_list() -> None:
    assert (len(ROWS), list(ROWS), list(ROWS)) == (3, LIST, LIST)
    assert [ROWS[0], ROWS[-1]] == [LIST[0], LIST[-1]]
    assert not Rows({"a": []}, 0)
    with pytest.raises(IndexError):
        ROWS[3]


@pytest.mark.parametrize("part", [slice(1, None), slice(0, 2), slice(2, 9), slice(3, 9), slice(None, None, -1)])
def test_a_part_of_them_is_what_it_is_of_a_list(part: slice) -> None:
    assert list(ROWS[part]) == LIST[part]
    assert len(ROWS[part]) == len(LIST[part])


def test_a_column_of_either() -> None:
    assert list(column(ROWS, "b")) == list(column(LIST, "b")) == ["x", "y", "z"]


def test_rows_of_two_lengths_are_seen() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(Rows({"a": [1, 2], "b": [1]}, 2))
