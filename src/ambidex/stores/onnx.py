"""Write a neural network as the bytes of an ONNX model; ``stores.minilm`` makes its own from plain weights.

The invariant: what is written has the field numbers of ``onnx.proto``, which never change; so no package is needed that
would generate code from that file.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Graph"]

_IR_VERSION = 9
_OPSETS = {"": 20, "com.microsoft": 1}
_ELEMENT_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int64": 7}
_VARINT, _BYTES, _FIXED32 = 0, 2, 5


class Graph:
    """A network, node by node. Each method returns the name of a value, which later nodes take as an input."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """Add an array that every run uses."""
        import numpy as np

        name = f"c{len(self._constants)}"
        kind = _ELEMENT_TYPES[array.dtype.name]
        dims = b"".join(_number(1, size) for size in array.shape)
        raw = np.ascontiguousarray(array).tobytes()
        self._constants.append(dims + _number(2, kind) + _text(8, name) + _bytes(9, raw))
        return name

    def node(self, op: str, *inputs: str, **attributes: float | list[int]) -> str:
        """Add an operator and return its one output."""
        return self.nodes(op, 1, *inputs, **attributes)[0]

    def nodes(self, op: str, outputs: int, *inputs: str, **attributes: float | list[int]) -> list[str]:
        """Add an operator, one of ONNX or, by ``domain:name``, one of onnxruntime's own, and return its outputs."""
        names = [f"n{len(self._nodes)}.{place}" for place in range(outputs)]
        domain, _, op = op.rpartition(":")
        parts = [_text(1, name) for name in inputs] + [_text(2, name) for name in names]
        parts += [_text(4, op), _text(7, domain)]
        parts += [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join(parts))
        return names

    def model(self, inputs: dict[str, list[str | int]], output: str, shape: list[str | int]) -> bytes:
        """Return the whole as a model of float arrays.

        Args:
            inputs: the shape of each; a text is a size that may differ from run to run.
            output: the value that a run returns.
            shape: of the output.
        """
        graph = b"".join(_bytes(1, node) for node in self._nodes) + _text(2, "graph")
        graph += b"".join(_bytes(5, constant) for constant in self._constants)
        graph += b"".join(_bytes(11, _value(name, sizes)) for name, sizes in inputs.items())
        graph += _bytes(12, _value(output, shape))
        opsets = [_text(1, domain) + _number(2, version) for domain, version in _OPSETS.items()]
        return _number(1, _IR_VERSION) + _bytes(7, graph) + b"".join(_bytes(8, opset) for opset in opsets)


def _value(name: str, shape: list[str | int]) -> bytes:
    dims = [_text(2, size) if isinstance(size, str) else _number(1, size) for size in shape]
    tensor = _number(1, _ELEMENT_TYPES["float32"]) + _bytes(2, b"".join(_bytes(1, dim) for dim in dims))
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _attribute(name: str, value: float | list[int]) -> bytes:
    if isinstance(value, list):
        return _text(1, name) + b"".join(_number(8, one) for one in value) + _number(20, 7)
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, 2)
    return _text(1, name) + _varint(2 << 3 | _FIXED32) + struct.pack("<f", value) + _number(20, 1)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
