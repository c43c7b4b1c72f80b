"""The tokens that are put together from pieces are those of the tokeniser over the whole text."""

import json
import os
import random
import re
import subprocess
import sys
from array import array
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

pytest.importorskip("wordllama")
np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")

from ambidex.core.chunking import split  # noqa: E402
from ambidex.embedders import wordllama  # noqa: E402

_DOCS = Path(__file__).resolve().parents[2]
_PARTS = [
    *("a", "B", "é", "e\u0301", "ß", "word", "Words", "naïve", "Å", "ﬁ", "ꙮ"),
    *("中文", "かな", "עברית", "हिन्दी", "ไทย", "한국"),
    *("0", "12", "3.14", "²", "x²).", "½", "Ⅷ", "٣", "_", "a_b", "CamelCase9"),
    *(" ", "  ", "     ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u200b", "\u2028"),
    *(".", ",", "...", ").", "});\r", "'s", '"', "<", ">", "</"),
    *("<s", "# ", "- ", "|", "`", "```", "://", "—", "“", "€"),
    *("😀", "👩‍👩‍👧", "\u2581", "\u2581x", "<s>", "</s>", "<unk>", "<0x0A>", "\x01", "\ufffd", "\U0010ffff"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return wordllama._model()[0]._tokenizer


def whole(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def found(tokens: wordllama.Tokens, text: str) -> list[int]:
    return array("q", tokens.of(text)).tolist()


def texts() -> list[str]:
    files = [*_DOCS.glob("*.md"), *_DOCS.glob("docs/**/*.md"), *_DOCS.glob("src/ambidex/stores/*.py")]
    long = [file.read_text(encoding="utf-8") for file in files] + list(topics.values())
    return [chunk.text for text in long for chunk in split(text)]


def test_tokens_of_real_texts_are_the_tokenisers(tokenizer: Any) -> None:
    chosen = random.Random(3).sample(texts(), 500)
    tokens = wordllama.Tokens(tokenizer, uncut=0)
    for text in chosen:
        assert found(tokens, text) == whole(tokenizer, text), text
    assert tokens._words is not None and len(tokens._words.pieces) > 1000


def test_tokens_of_strange_texts_are_the_tokenisers(tokenizer: Any) -> None:
    chance = random.Random(5)
    tokens = wordllama.Tokens(tokenizer, uncut=0)
    for _ in range(3000):
        text = "".join(chance.choices(_PARTS, k=chance.randrange(12)))
        for _ in range(2):  # learned, and known
            assert found(tokens, text) == whole(tokenizer, text), text


def test_what_is_kept_is_bounded(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordllama, "_MOST", 20)
    tokens = wordllama.Tokens(tokenizer, uncut=0)
    for number in range(100):
        text = f"word{number} {'x' * number} of {'many ' * 10}"
        assert found(tokens, text) == whole(tokenizer, text)
        assert tokens._words is not None
        for kept in (tokens._words, tokens._words.pieces):
            assert 0 < len(kept) <= 20
            assert max(map(len, kept)) <= 64


def test_a_vocabulary_that_reaches_across_the_cuts_is_not_cut() -> None:
    from tokenizers import Tokenizer, models, normalizers

    vocab = {"\u2581": 0, "a": 1, "b": 2, ",": 3, "a,": 4, "\u2581a": 5}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[("a", ","), ("\u2581", "a")]))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokens = wordllama.Tokens(made, uncut=0)
    for _ in range(2):
        assert found(tokens, "ba, a,b") == whole(made, "ba, a,b") == [0, 2, 4, 0, 4, 2]
    assert tokens._words is None


def test_vectors_are_the_means_of_the_tokens_vectors(tokenizer: Any) -> None:
    chosen = [*random.Random(9).sample(texts(), 100), "", " ", "<s>", "a " * 3000]
    matrix = wordllama._model()[1]
    for _ in range(2):
        made = wordllama.vectors_of(chosen)
        for vector, text in zip(made, chosen, strict=True):
            ids = whole(tokenizer, text)
            expected = np.add.reduce(matrix.take(ids, axis=0), axis=0) / len(ids) if ids else np.zeros(256, np.float32)
            assert np.array_equal(vector, expected)


def test_threads_that_embed_at_once_get_the_same_vectors() -> None:
    code = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from ambidex.embedders import wordllama
wordllama._MOST = 50
texts = json.load(sys.stdin)
with ThreadPoolExecutor(4) as pool:
    made = list(pool.map(wordllama.vectors_of, [texts] * 4))
assert all((one == made[0]).all() for one in made), "different"
print(wordllama._model()[0]._words is not None)
"""
    sources = re.sub(r"\s+", " ", " ".join(topics.values()))
    data = json.dumps([sources[at : at + 200] for at in range(0, 20_000, 200)])
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=data,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout.strip()) == (0, "True"), run.stderr
