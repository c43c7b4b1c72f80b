"""Written models, run by onnxruntime, give what numpy gives."""

from __future__ import annotations

from typing import Any

import pytest

from ambidex.stores.onnx import Graph

np = pytest.importorskip("numpy", reason="the extra minilm is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra minilm is not installed")


def run(model: bytes, **inputs: Any) -> Any:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def test_a_network_is_run_as_written() -> None:
    matrix = np.arange(-6, 6, dtype=np.float32).reshape(4, 3)
    graph = Graph()
    product = graph.node("MatMul", "x", graph.constant(matrix))
    scaled = graph.node("LeakyRelu", product, alpha=0.5)
    turned = graph.node("Transpose", scaled, perm=[1, 0])
    first, second = graph.nodes("Split", 2, turned, axis=1, num_outputs=2)
    model = graph.model({"x": ["rows", 4]}, graph.node("Sub", first, second), [3, "half"])
    for rows in (2, 300):
        x = np.linspace(-1, 1, rows * 4, dtype=np.float32).reshape(rows, 4)
        wanted = x @ matrix
        wanted = np.where(wanted < 0, wanted / 2, wanted).T
        wanted = wanted[:, : rows // 2] - wanted[:, rows // 2 :]
        assert run(model, x=x) == pytest.approx(wanted, abs=1e-5)


def test_whole_numbers_and_negative_axes() -> None:
    graph = Graph()
    total = graph.node("ReduceSum", "x", graph.constant(np.array([-1])), keepdims=0)
    gathered = graph.node("Gather", total, graph.constant(np.array([2, 0])), axis=-1)
    model = graph.model({"x": [1, 3, 2]}, gathered, [1, 2])
    x = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    assert run(model, x=x).tolist() == [[9.0, 1.0]]


def test_an_array_that_has_no_type_there_is_refused() -> None:
    with pytest.raises(KeyError):
        Graph().constant(np.zeros(2, np.complex64))
