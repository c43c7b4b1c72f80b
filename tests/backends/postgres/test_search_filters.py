"""Metadata through ``jsonb``: numbers come back as what they were. What filters mean is the contract's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres.search_filters import to_json, where
from ambidex.core.query import Condition

NUMBERS = [0, 1, 0.0, 1.0, 5.0, 0.1, 1e-7, 5e-324, 1e16, 1e23, 1.7976931348623157e308, -1e22, -2.5e-300, 2**63 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_stays_what_it_is(number: float) -> None:
    back: Any = msgspec.json.decode(to_json({"n": number}))["n"]
    assert (back, type(back)) == (number, type(number))
    assert "e" not in to_json({"n": number})


def test_numbers_survive_the_database(storage: UnifiedStorage) -> None:
    index = storage.sync.index
    for place, number in enumerate(NUMBERS):
        index.add(str(place), "word", {"n": number})
    for place, number in enumerate(NUMBERS):
        (item,) = index.fetch([str(place)])
        assert (item.metadata["n"], type(item.metadata["n"])) == (number, type(number))
        found = {hit.id for hit in index.search("word", top_k=50, filters={"n": number})}
        assert found == {str(other) for other, value in enumerate(NUMBERS) if value == number}
        found = {hit.id for hit in index.search("word", top_k=50, filters={"n__lt": number})}
        assert found == {str(other) for other, value in enumerate(NUMBERS) if value < number}


def test_large_whole_floats_equal_the_same_integers(storage: UnifiedStorage) -> None:
    storage.sync.index.add("x", "word", {"n": 1234567890123456768})
    assert storage.sync.index.search("word", filters={"n": float(1234567890123456768)})


def test_nothing_of_a_caller_is_in_the_text() -> None:
    for op, value in (("eq", "x'--"), ("in", ["x'--"]), ("gt", "x'--"), ("contains", "x'--"), ("ne", None)):
        text, bound = where([Condition("f'--", op, value)])
        assert "--" not in text
        assert text.count("?") == len(bound)
