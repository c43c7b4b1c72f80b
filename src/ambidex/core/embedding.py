"""What turns texts into vectors, as data: a callable with its name, its dimension and its weight in a fusion.

The index calls one through :meth:`Embedder.vectors`. The invariant: a vector that leaves here has the embedder's
dimension and finite numbers, so that two embedders can never be mixed unnoticed.
"""

from __future__ import annotations

import inspect
import math
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ambidex.core.runtime import Runtime, off_the_clock
from ambidex.errors import ConfigurationError, InvalidQuery

__all__ = ["Embed", "Embedder", "checked_vector", "packed_vector"]

Embed = Callable[[list[str]], Any]
"""Takes texts and returns a vector for each (lists or a numpy array), or an awaitable of them."""

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Embedder:
    """A way of making vectors.

    Attributes:
        call: takes a list of texts, returns as many vectors; a plain function runs apart from the event loop, a
            coroutine function is awaited, for synchronous callers on the one loop thread that these share.
        name: identifies the model; a namespace remembers it, so change it whenever the vectors would change.
        dimension: the length of each vector; None: that of the first one.
        weight: of the normalised vector score against ``1 - weight`` for full text, 0 to 1. A weak embedder harms
            above 0.3; a sentence transformer bears 0.5.
    """

    call: Embed = field(repr=False)
    name: str
    dimension: int | None = None
    weight: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        if not callable(self.call):
            raise ConfigurationError(f"an embedder is a callable, not {type(self.call).__name__}")
        given: tuple[Any, Any] = self.name, self.weight
        if not isinstance(given[0], str) or not 1 <= len(given[0]) <= 200:
            raise ConfigurationError("an embedder needs a name of 1 to 200 characters; a namespace remembers it")
        if self.dimension is not None and (type(self.dimension) is not int or not 1 <= self.dimension <= 65_536):
            raise ConfigurationError(f"the dimension of an embedder is 1 to 65,536, not {self.dimension!r}")
        if not isinstance(given[1], (int, float)) or not 0.0 <= given[1] <= 1.0:
            raise ConfigurationError(f"the weight of an embedder is 0 to 1, not {self.weight!r}")

    def __call__(self, texts: list[str]) -> Any:
        """Return what the callable returns."""
        return self.call(texts)

    @classmethod
    def of(cls, given: Embedder | Embed) -> Embedder:
        """Return an embedder for a plain callable; its own ``name``, ``dimension`` and ``weight`` count if it has them.

        Raises:
            ConfigurationError: it is no callable, or has nothing to be remembered by.
        """
        if isinstance(given, Embedder):
            return given
        name = getattr(given, "name", None) or getattr(given, "__qualname__", None) or type(given).__qualname__
        if name == "<lambda>" or "<locals>.<lambda>" in name:
            raise ConfigurationError(
                "a lambda has no name to be remembered by; wrap it: Embedder(call, name='my-model')"
            )
        return cls(given, name, getattr(given, "dimension", None), getattr(given, "weight", 0.3))

    def label(self, dimension: int) -> str:
        """Return what a namespace remembers of its vectors."""
        return f"{self.name}:{dimension}"

    async def vectors(self, texts: Sequence[str], runtime: Runtime) -> list[Sequence[float]]:
        """Return the vector of each text.

        Raises:
            ConfigurationError: the callable failed to return as many vectors of its dimension and of finite numbers.
        """
        made: list[Sequence[float]] = []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            with off_the_clock():
                answer = await self._answer(batch, runtime)
            made += self._checked(answer, len(batch))
        return made

    async def _answer(self, batch: list[str], runtime: Runtime) -> Any:
        if inspect.iscoroutinefunction(self.call) or inspect.iscoroutinefunction(type(self.call).__call__):
            return await runtime.awaited(self.call(batch))
        answer = await runtime.offload(lambda: self.call(batch))
        return await runtime.awaited(answer) if isinstance(answer, Awaitable) else answer

    def _checked(self, answer: Any, count: int) -> Sequence[Sequence[float]]:
        try:
            vectors = _rows(answer) or [packed_vector(row) for row in list(answer)]
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the embedder {self.name!r} returned no list of vectors: {error}") from None
        lengths = {len(vector) for vector in vectors}
        wanted = self.dimension or (len(vectors[0]) if vectors else 0)
        if len(vectors) != count or lengths - {wanted}:
            raise ConfigurationError(
                f"the embedder {self.name!r} returned {len(vectors)} vectors of length {sorted(lengths)} "
                f"for {count} texts; expected {count} of length {wanted}"
            )
        return vectors


def checked_vector(vector: Any) -> Sequence[float]:
    """Return a vector as plain numbers of single precision, as every backend keeps them.

    Args:
        vector: a sequence of numbers or an array of numpy.

    Raises:
        InvalidQuery: it is empty, or some number is not finite or too large.
    """
    return packed_vector(vector).tolist()


def packed_vector(vector: Any) -> array[float]:
    """Return a vector as :func:`checked_vector` does, packed: a ninth of the memory, which counts in large batches."""
    floats = array("f")
    try:
        packed = _packed(vector)
        if packed is None:
            floats.extend(vector.tolist() if hasattr(vector, "tolist") else vector)
        else:
            floats.frombytes(packed)
    except (TypeError, ValueError, OverflowError):
        raise InvalidQuery("a vector is a list of finite numbers") from None
    if not floats or not math.isfinite(sum(floats)):  # one number that is not finite makes the sum so
        raise InvalidQuery("a vector is a list of finite numbers, not empty")
    return floats


def _rows(answer: Any) -> list[array[float]]:
    """Return the rows of a matrix of single precision, as numpy's, whose numbers are finite; else nothing."""
    try:
        view = memoryview(answer)
        sound = view.format == "f" and view.ndim == 2 and view.c_contiguous and 0 not in (view.shape or ())
        if not sound or not (math.isfinite(answer.max()) and math.isfinite(answer.min())):
            return []
    except (TypeError, ValueError, AttributeError):
        return []
    packed, width = view.tobytes(), view.strides[0] if view.strides else 0
    return [array("f", packed[start : start + width]) for start in range(0, len(packed), width)]


def _packed(vector: Any) -> memoryview | None:
    """Return the bytes of numbers of single precision that stand side by side, as in a row of numpy's; else None."""
    try:
        view = memoryview(vector)
    except (TypeError, ValueError):
        return None
    return view.cast("B") if view.format == "f" and view.ndim == 1 and view.c_contiguous else None
