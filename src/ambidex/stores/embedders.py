"""The embedders that can be chosen by name; the index resolves its setting here.

The invariant: a model is read from the folder of its installed package only. Nothing here opens a connection, and a
model that is not installed is an error that names the extra, or, for "auto", no vectors.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from ambidex.core.embedding import Embedder
from ambidex.errors import ConfigurationError
from ambidex.stores import wordllama as _wordllama

__all__ = ["embedder_for", "wordllama"]


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
        return wordllama() if _installed("wordllama") and _installed("numpy") else None
    if setting == "wordllama":
        if not (_installed("wordllama") and _installed("numpy")):
            raise ConfigurationError("the embedder 'wordllama' is not installed: pip install 'ambidex[search]'")
        return wordllama()
    return Embedder.of(setting)


@functools.cache
def wordllama() -> Embedder:
    """Return WordLlama's 256 dimensions of static word vectors; the model is read at the first text.

    Thousands of chunks a second, and weaker than full text: it weighs 0.3.
    """
    return Embedder(_wordllama.vectors_of, "wordllama-l2-supercat", _wordllama.DIMENSION, 0.3)


@functools.cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
