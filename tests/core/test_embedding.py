"""Embedders: plain callables of either colour, and answers that are refused."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from ambidex.core.dual import drive
from ambidex.core.embedding import Embedder, checked_vector, packed_vector
from ambidex.errors import ConfigurationError, InvalidQuery
from ambidex.runtime.aio import AsyncRuntime
from ambidex.runtime.blocking import BlockingRuntime


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


async def awaited(texts: list[str]) -> list[list[float]]:
    await asyncio.sleep(0)
    return lengths(texts)


class Model:
    name, dimension, weight = "model", 2, 0.5

    def __call__(self, texts: list[str]) -> Any:
        return lengths(texts)


def unpacked(vectors: Iterable[Iterable[float]]) -> list[list[float]]:
    return [list(vector) for vector in vectors]


def test_every_kind_of_callable() -> None:
    texts = [f"{'x' * (n % 7)}" for n in range(600)]
    expected = lengths(texts)
    for call in (lengths, Model(), Embedder(lengths, "mine")):
        embedder = Embedder.of(call)
        assert unpacked(drive(embedder.vectors(texts, BlockingRuntime()))) == expected
        assert unpacked(asyncio.run(embedder.vectors(texts, AsyncRuntime()))) == expected
    assert unpacked(asyncio.run(Embedder.of(awaited).vectors(texts, AsyncRuntime()))) == expected
    model = Embedder.of(Model())
    assert (model.name, model.dimension, model.weight) == ("model", 2, 0.5)
    assert Embedder.of(lengths).label(2) == "lengths:2"
    assert drive(model.vectors([], BlockingRuntime())) == []


def test_arrays_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    embedder = Embedder(lambda texts: numpy.ones((len(texts), 3), numpy.float16), "ones")
    assert unpacked(drive(embedder.vectors(["a", "b"], BlockingRuntime()))) == [[1.0, 1.0, 1.0]] * 2
    assert checked_vector(numpy.array([1, 2])) == [1.0, 2.0]


def test_a_matrix_gives_what_its_rows_give() -> None:
    numpy = pytest.importorskip("numpy")
    matrix = numpy.random.default_rng(3).normal(size=(4, 6)).astype(numpy.float32)

    def made(given: Any) -> Any:
        return drive(Embedder(lambda _texts: given, "m").vectors(["x"] * len(given), BlockingRuntime()))

    for given in (matrix, matrix[::2], matrix.T, matrix[:1], matrix.astype(numpy.float64)):
        assert unpacked(made(given)) == [packed_vector(row).tolist() for row in given]
    for bad in (numpy.nan, numpy.inf, -numpy.inf):
        matrix[2, 3] = bad
        with pytest.raises(ConfigurationError, match="finite"):
            made(matrix)
    with pytest.raises(ConfigurationError):
        made(matrix[:, :0])


@pytest.mark.parametrize(
    "answer",
    [None, 5, [], [[1.0]], [[1.0], [2.0], [3.0]], [[1.0], [1.0, 2.0]], [[], []], [[1.0], [math.nan]], [[1.0], ["x"]]],
    ids=repr,
)
def test_answers_that_are_refused(answer: Any) -> None:
    with pytest.raises(ConfigurationError, match="broken"):
        drive(Embedder(lambda _texts: answer, "broken").vectors(["a", "b"], BlockingRuntime()))


def test_a_wrong_dimension_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of length 3"):
        drive(Embedder(lengths, "two", dimension=3).vectors(["a"], BlockingRuntime()))


def test_embedders_that_are_refused() -> None:
    makes: tuple[Callable[[], Embedder], ...] = (
        lambda: Embedder.of(lambda texts: texts),
        lambda: Embedder(5, "five"),  # type: ignore[arg-type]
        lambda: Embedder(lengths, ""),
        lambda: Embedder(lengths, "x", 0),
        lambda: Embedder(lengths, "x", weight=1.5),
        lambda: Embedder.of("text"),  # type: ignore[arg-type]
    )
    for make in makes:
        with pytest.raises(ConfigurationError):
            make()


@pytest.mark.parametrize(
    "vector", [[], [math.nan], [math.inf, -math.inf], [1e300], ["1"], "12", None, [[1.0]]], ids=repr
)
def test_vectors_that_are_refused(vector: Any) -> None:
    with pytest.raises(InvalidQuery):
        checked_vector(vector)


def test_packed_vectors_are_those_that_any_other_form_gives() -> None:
    numpy = pytest.importorskip("numpy")
    wide = numpy.random.default_rng(3).normal(size=(4, 6))
    single = wide.astype(numpy.float32)
    expected = single[1].tolist()
    forms = [wide[1], wide[1].tolist(), single[1], single.T.copy()[:, 1], array("f", single[1]), tuple(wide[1])]
    for form in forms:
        made = packed_vector(form)
        assert made.typecode == "f"
        assert made.tolist() == checked_vector(form) == expected
    assert packed_vector(array("i", [1, 2])).tolist() == packed_vector(b"\x01\x02").tolist() == [1.0, 2.0]
    broken = single.copy()
    broken[1, 2] = numpy.inf
    for bad in (broken[1], single, single[:0], single[0, :0], b"", object()):
        with pytest.raises(InvalidQuery):
            packed_vector(bad)
