"""The data that every backend is measured with; the modules of rows import it."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["COUNT", "KEYS", "SIZE", "WRITES", "Write", "batch", "document", "pack", "unpack"]

COUNT = 1_000
SIZE = 120
"""Bytes of a document in MessagePack."""

KEYS = [f"user:{number:06}" for number in range(COUNT)]
"""Keys as people write them; ambidex escapes the colon."""

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode


def document(number: int = 0) -> dict[str, Any]:
    """Return a small document of exactly ``SIZE`` bytes in MessagePack."""
    made: dict[str, Any] = {
        "id": 1_000_000 + number,
        "name": f"Ada Lovelace {number % 10_000:04}",
        "email": "ada@example.org",
        "active": True,
        "score": 0.5,
        "tags": ["a", "b"],
        "note": "",
    }
    made["note"] = "x" * (SIZE - len(pack(made)))
    assert len(pack(made)) == SIZE
    return made


Write = tuple[str, dict[str, Any]]

WRITES: list[Write] = [(KEYS[number % COUNT], document(number)) for number in range(5 * COUNT)]
"""Pairs to store one after the other. No key gets the value that it has: SQLite skips such a write, and its flush."""


def batch(round_: int, size: int = 20_000) -> dict[str, Any]:
    """Return documents under keys that no other round has."""
    return {f"bulk:{round_}:{number}": document(number) for number in range(size)}
