"""How the scores of full text and of vectors become one ranking; search ports call this.

Scores of each list are brought to 0…1 by their minimum and maximum, a missing score counts as 0, and the weighted sum
decides. Rank fusion was measured to lose with a weak embedder, because it trusts both lists alike; it is there as an
option. The invariant: with one list empty, the order is that of the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

__all__ = ["FUSIONS", "fuse", "normalise"]

K = TypeVar("K", bound=Hashable)

FUSIONS = ("scores", "ranks")
"""The ways of fusing: normalised scores, and reciprocal ranks."""

_RANK_OFFSET = 60  # Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion"


def normalise(scores: Mapping[K, float]) -> dict[K, float]:
    """Bring scores to 0…1; where all are equal, each is 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    span = high - low
    return {key: (score - low) / span if span else 1.0 for key, score in scores.items()}


def fuse(
    text: Mapping[K, float], vector: Mapping[K, float], vector_weight: float, fusion: str = "scores"
) -> dict[K, float]:
    """Return the fused score of every key in either mapping: 0 to 1, higher is better.

    Args:
        text: scores by full text.
        vector: scores by vector.
        vector_weight: of the second mapping against ``1 - vector_weight`` for the first; ranks count alike.
        fusion: one of :data:`FUSIONS`.
    """
    if not vector:
        return normalise(text)
    if not text:
        return normalise(vector)
    if fusion == "ranks":
        return _fuse_ranks(text, vector)
    by_text, by_vector = normalise(text), normalise(vector)
    return {
        key: (1 - vector_weight) * by_text.get(key, 0.0) + vector_weight * by_vector.get(key, 0.0)
        for key in {**by_text, **by_vector}
    }


def _fuse_ranks(*lists: Mapping[K, float]) -> dict[K, float]:
    scores: dict[K, float] = {}
    for one in lists:
        for rank, key in enumerate(sorted(one, key=one.__getitem__, reverse=True), 1):
            scores[key] = scores.get(key, 0.0) + (_RANK_OFFSET + 1) / (_RANK_OFFSET + rank) / len(lists)
    return scores
