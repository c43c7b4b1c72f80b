"""Scores of words and of vectors as one ranking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambidex.core.fusion import fuse, normalise

_SCORES = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.floats(-100, 100), max_size=6)


@given(_SCORES)
def test_normalised_scores_keep_their_order_between_0_and_1(scores: dict[str, float]) -> None:
    normal = normalise(scores)
    assert normal.keys() == scores.keys()
    assert all(0.0 <= score <= 1.0 for score in normal.values())
    ranked = sorted(scores, key=lambda key: scores[key])
    assert [normal[key] for key in ranked] == sorted(normal.values())


@given(_SCORES, st.floats(0, 1))
def test_with_one_list_empty_the_other_decides(scores: dict[str, float], weight: float) -> None:
    assert fuse(scores, {}, weight) == normalise(scores)
    assert fuse({}, scores, weight) == normalise(scores)


def test_the_weight_decides_between_both() -> None:
    text, vector = {"a": 2.0, "b": 1.0}, {"b": 0.9, "c": 0.1}
    fused = fuse(text, vector, 0.3)
    assert fused == pytest.approx({"a": 0.7, "b": 0.3, "c": 0.0})
    assert fuse(text, vector, 0.8)["b"] == pytest.approx(0.8)


def test_equal_scores_are_all_1() -> None:
    assert normalise({"a": 5.0, "b": 5.0}) == {"a": 1.0, "b": 1.0}
    assert normalise({}) == {}
