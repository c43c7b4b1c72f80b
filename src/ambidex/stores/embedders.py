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
    return Embedder(_wordllama_vectors, "wordllama-l2-supercat", 256, 0.3)


def _wordllama_vectors(texts: list[str]) -> Any:
    import numpy as np

    tokenizer, matrix = _wordllama_model()
    vectors = np.zeros((len(texts), matrix.shape[1]), np.float32)
    for place, text in enumerate(texts):
        # One by one: a batch is padded to its longest text, and starts threads that do not survive a fork.
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        if tokens:  # a text without words has no direction
            vectors[place] = np.add.reduce(matrix.take(tokens, axis=0), axis=0) / len(tokens)
    return vectors


@functools.cache
def _wordllama_model() -> tuple[Any, Any]:
    """Read the model's two files.

    The package itself is not imported: it would configure the root logger and load an HTTP client, and could download.
    """
    import numpy as np
    from safetensors import safe_open
    from tokenizers import Tokenizer

    spec = importlib.util.find_spec("wordllama")
    folder = os.path.dirname(spec.origin or "") if spec is not None else ""
    try:
        tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizers", "l2_supercat_tokenizer_config.json"))
        with safe_open(os.path.join(folder, "weights", "l2_supercat_256.safetensors"), "np") as file:
            matrix = file.get_tensor("embedding.weight").astype(np.float32)
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigurationError(
            f"the installed wordllama has no model that can be read: {error}; pip install --force-reinstall wordllama"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, matrix


@functools.cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
