"""WordLlama's vectors, made from the two files of its installed package; ``embedder_for`` offers them by name.

A text's vector is the mean of the vectors of its tokens, so that nearly all the time goes into finding the tokens. The
tokeniser works over whole texts, but no token of its vocabulary reaches across the places where ``_PIECE`` cuts; so
pieces are looked up in a cache, and only new ones are given to it. The invariant: the tokens, and thereby each bit of
the vectors, are those of the tokeniser over the whole text; a vocabulary with which that would not hold is not cut.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from array import array
from typing import Any

from ambidex.core.embedding import Embedder
from ambidex.errors import ConfigurationError

__all__ = ["DIMENSION", "Tokens", "embedder", "installed", "vectors_of"]

DIMENSION = 256

_PIECE = re.compile(r" *[^\W\d_¹²³]+|\d| *(?:[^\w ]|[_¹²³])+| +")
"""A digit; letters, or anything else, with the spaces before."""
_WORD = re.compile(r" *[^ ]+| +")
_SPACE = "\u2581"
"""How a space stands in the vocabulary."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LONGEST = 64
_MOST = 50_000
"""Words that are kept, and pieces, about 200 bytes each."""
_UNCUT = 64
"""Texts that a process embeds before it learns how to cut them, which takes 40 ms: a single query does not."""


@functools.cache
def installed() -> bool:
    """Tell whether the extra ``search`` is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("numpy", "wordllama"))


@functools.cache
def embedder() -> Embedder:
    """Return WordLlama's 256 dimensions of static word vectors; the model is read at the first text.

    Thousands of chunks a second, and weaker than full text: it weighs 0.3.

    Raises:
        ConfigurationError: it is not installed.
    """
    if not installed():
        raise ConfigurationError("the embedder 'wordllama' is not installed: pip install 'ambidex[search]'")
    return Embedder(vectors_of, "wordllama-l2-supercat", DIMENSION, 0.3)


def vectors_of(texts: list[str]) -> Any:
    """Return a vector for each text, as an array; zeros for one without words, which has no direction."""
    import numpy as np

    tokens, matrix = _model()
    # All tokens first, then all sums in one buffer: half the time of one text after the other, which shares the
    # processor's cache with the words.
    found = [np.frombuffer(tokens.of(text), np.int64) for text in texts]
    space = np.empty((max(map(len, found), default=0), matrix.shape[1]), np.float32)
    vectors = np.zeros((len(texts), matrix.shape[1]), np.float32)
    for vector, ids in zip(vectors, found, strict=True):
        if len(ids):
            rows = matrix.take(ids, axis=0, out=space[: len(ids)], mode="clip")  # no copy, as "raise" would make
            np.add.reduce(rows, axis=0, out=vector)
            np.divide(vector, len(ids), out=vector)
    return vectors


class Tokens:
    """Finds the tokens of texts, from any number of threads.

    Args:
        tokenizer: of the package ``tokenizers``, without padding and truncation.
        uncut: how many texts to give to it whole before pieces are looked up.
    """

    def __init__(self, tokenizer: Any, uncut: int = _UNCUT) -> None:
        self._tokenizer, self._uncut = tokenizer, uncut
        self._special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._words: _Words | None = None

    def of(self, text: str) -> bytes:
        """Return the numbers of the tokens as integers of 64 bits."""
        words = self._words
        if words is None:
            self._uncut -= 1
            if self._uncut < 0:  # perhaps in two threads at once, with the same result
                cut = _may_be_cut(self._tokenizer, self._special)
                words = self._words = _Words(_Pieces(self._tokenizer)) if cut else None
                self._uncut = 0 if cut else sys.maxsize
        if words is None or not text or _SPACE in text or ("<" in text and any(one in text for one in self._special)):
            return _tokens(self._tokenizer, text)
        if "  " in text or text[0] == " " or text[-1] == " ":
            return b"".join([words[word[1:]] for word in _WORD.findall(f" {text}")])
        return b"".join(map(words.__getitem__, text.split(" ")))


class _Kept(dict[str, bytes]):
    """The tokens of what was met lately."""

    def keep(self, text: str, tokens: bytes) -> bytes:
        if len(text) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[text] = tokens
        return tokens


class _Words(_Kept):
    """By what stands behind the first of the spaces before a word (the tokeniser puts one before the first word)."""

    def __init__(self, pieces: _Pieces) -> None:
        super().__init__()
        self.pieces = pieces

    def __missing__(self, word: str) -> bytes:
        return self.keep(word, b"".join(map(self.pieces.__getitem__, _PIECE.findall(f" {word}"))))


class _Pieces(_Kept):
    """By piece; new ones are given to the tokeniser."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._lengths = {text: len(_tokens(tokenizer, text)) for text in "a."}

    def __missing__(self, piece: str) -> bytes:
        if piece[0] == " " != piece:
            return self.keep(piece, _tokens(self._tokenizer, piece[1:]))
        behind = "." if _PIECE.fullmatch(f"a{piece}") else "a"  # something from which it is cut off
        made = _tokens(self._tokenizer, behind + piece)
        return self.keep(piece, made[self._lengths[behind] :])


def _tokens(tokenizer: Any, text: str) -> bytes:
    # One by one: a batch is padded to its longest text, and starts threads that do not survive a fork.
    return array("q", tokenizer.encode(text, add_special_tokens=False).ids).tobytes()


def _may_be_cut(tokenizer: Any, special: list[str]) -> bool:
    """Tell whether no token reaches across a place where texts are cut."""
    for token in tokenizer.get_vocab():
        if token not in special and not _BYTE.fullmatch(token):
            text = token.replace(_SPACE, " ")
            if _PIECE.findall(text) != [text]:
                return False
    return True


@functools.cache
def _model() -> tuple[Tokens, Any]:
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
    if tokenizer.get_vocab_size() > len(matrix):
        raise ConfigurationError(
            "the installed wordllama has fewer vectors than tokens; pip install --force-reinstall wordllama"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Tokens(tokenizer), matrix
