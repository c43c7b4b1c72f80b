"""Leaving vectors out by their bits: whatever the vectors are like, the nearest are not left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

numpy = pytest.importorskip("numpy")

from ambidex.backends.sqlite import search_sketch  # noqa: E402
from ambidex.backends.sqlite.search_segment import Vectors  # noqa: E402

COUNT, SIZE = 3_000, 100
Maker = Callable[[Any], Any]


def plain(chance: Any) -> Any:
    return chance.normal(size=(COUNT, SIZE))


def gathered(chance: Any) -> Any:
    return chance.normal(size=(40, SIZE))[chance.integers(0, 40, COUNT)] + chance.normal(0, 0.5, (COUNT, SIZE))


def shifted(chance: Any) -> Any:
    return 3 + chance.normal(size=(COUNT, SIZE))


def positive(chance: Any) -> Any:
    return numpy.maximum(chance.normal(size=(COUNT, SIZE)), 0)


def few_that_matter(chance: Any) -> Any:
    return chance.normal(size=(COUNT, SIZE)) * (numpy.arange(SIZE) < 8) + chance.normal(0, 0.01, (COUNT, SIZE))


def tight(chance: Any) -> Any:
    return chance.normal(size=SIZE) + chance.normal(0, 1e-3, (COUNT, SIZE))


def equal(chance: Any) -> Any:
    return numpy.ones((COUNT, SIZE))


def nothing(chance: Any) -> Any:
    return numpy.zeros((COUNT, SIZE))


def single(chance: Any) -> Any:
    return numpy.eye(SIZE)[chance.integers(0, SIZE, COUNT)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_sketch, "_LEAST_ROWS", 1_000)


@pytest.mark.parametrize(
    "maker",
    [plain, gathered, shifted, positive, few_that_matter, tight, equal, nothing, single],
    ids=lambda m: m.__name__,
)
@pytest.mark.parametrize("chosen", ["all", "half", "few", "none"])
def test_the_nearest_are_not_left_out(maker: Maker, chosen: str) -> None:
    chance = numpy.random.default_rng(11)
    made = Vectors.made(numpy.arange(COUNT), maker(chance).astype("f")).sketched()
    assert made.sketch is not None
    shares = {"all": 1.1, "half": 0.5, "few": 0.01, "none": -1.0}
    flags = chance.random(COUNT) < shares[chosen]
    found, wanted = 0, 0
    queries = (made.codes[chance.integers(0, COUNT, 10)] + chance.normal(0, 20, (10, SIZE))).astype("f")
    for query in queries / numpy.linalg.norm(queries, axis=1, keepdims=True):
        rows, cosines = made.nearest(query, None if chosen == "all" else flags, 10)
        assert flags[rows].all()
        assert len(set(rows.tolist())) == len(rows) == len(cosines)
        exact = made.codes.astype("f") @ query * made.scales
        assert abs(exact[rows] - cosines).max(initial=0) < 0.02
        best = numpy.sort(exact[flags])[::-1][:10]
        got = numpy.sort(exact[rows])[::-1][:10]
        wanted += len(best)
        found += int((got[: len(best)] >= best - 1e-4).sum()) if len(got) >= len(best) else 0
    assert found >= 0.99 * wanted


def test_most_vectors_are_left_out_where_bits_can_tell() -> None:
    chance = numpy.random.default_rng(5)
    vectors = gathered(chance).astype("f")
    made = Vectors.made(numpy.arange(COUNT), vectors).sketched()
    shares = [len(made.nearest(query / numpy.linalg.norm(query), None, 5)[0]) / COUNT for query in vectors[:20]]
    assert numpy.median(shares) < 0.2


def test_all_are_compared_where_most_are_wanted() -> None:
    chance = numpy.random.default_rng(5)
    vectors = plain(chance).astype("f")
    made = Vectors.made(numpy.arange(COUNT), vectors).sketched()
    rows, _ = made.nearest(vectors[0] / numpy.linalg.norm(vectors[0]), None, COUNT // 2)
    assert len(rows) == COUNT


def test_little_is_not_sketched() -> None:
    few = numpy.ones((999, SIZE), numpy.int8), numpy.ones(999, "f")
    short = numpy.ones((2_000, 8), numpy.int8), numpy.ones(2_000, "f")
    for codes, scales in (few, short):
        assert search_sketch.Sketch.made(codes, scales) is None
