"""The embedders that can be chosen by name; the storage and the index resolve their setting here.

The invariant: a model is read from the folder of its installed package, or from one that was named. Nothing here opens
a connection, and a model that is not installed is an error that says how to install it, or, for "auto", no vectors.
"""

from __future__ import annotations

from typing import Any

from ambidex.core.embedding import Embedder
from ambidex.embedders import minilm, wordllama

__all__ = ["embedder_for"]


def embedder_for(setting: Any) -> Embedder | None:
    """Return what makes the vectors, or None where there are to be none.

    Args:
        setting: see :class:`ambidex.settings.Settings`.

    Raises:
        ConfigurationError: what was chosen is not installed.
    """
    if setting == "none":
        return None
    if setting == "auto":
        return wordllama.embedder() if wordllama.installed() else None
    if setting == "wordllama":
        return wordllama.embedder()
    if isinstance(setting, str) and setting.partition(":")[0] == "minilm":
        return minilm.embedder(setting.partition(":")[2])
    return Embedder.of(setting)
