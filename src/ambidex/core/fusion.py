"""How the scores of full text and of vectors become one ranking; search ports call this.

Scores of each list are brought to 0…1 by their minimum and maximum, a missing score counts as 0, and the weighted sum
decides. Rank fusion was measured to lose with a weak embedder, because it trusts both lists alike. The invariant: with
one list empty, the order is that of the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

__all__ = ["fuse", "normalise"]

K = TypeVar("K", bound=Hashable)


def normalise(scores: Mapping[K, float]) -> dict[K, float]:
    """Bring scores to 0…1; where all are equal, each is 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    span = high - low
    return {key: (score - low) / span if span else 1.0 for key, score in scores.items()}


def fuse(text: Mapping[K, float], vector: Mapping[K, float], vector_weight: float) -> dict[K, float]:
    """Return the fused score of every key in either mapping (higher is better)."""
    if not vector:
        return normalise(text)
    if not text:
        return normalise(vector)
    by_text, by_vector = normalise(text), normalise(vector)
    return {
        key: (1 - vector_weight) * by_text.get(key, 0.0) + vector_weight * by_vector.get(key, 0.0)
        for key in {**by_text, **by_vector}
    }
