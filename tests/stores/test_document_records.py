"""The records behind documents: claims, what makes two documents the same, and how much memory a batch needs."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from ambidex.core.codec import decode, encode
from ambidex.core.dual import drive
from ambidex.core.embedding import Embedder
from ambidex.core.ports import Capability, Put
from ambidex.stores import document_records


def test_what_is_absent_is_added_and_told(storage: UnifiedStorage) -> None:
    """Claims are made so; every backend's port is asked the same way."""
    port = storage._core.leaf(Capability.KV, blocking=True).kv
    assert drive(port.add_many([], None)) == []
    assert drive(port.add_many([Put("add:b", encode("old"))], None)) == [True]
    assert drive(port.add_many([Put("add:short", encode("gone"))], 1)) == [True]
    time.sleep(0.02)
    items = [Put(f"add:{name}", encode(f"new {name}")) for name in ("c", "b", "short", "a")]
    assert drive(port.add_many(items, 60_000)) == [True, False, True, True]
    assert drive(port.add_many([*items, Put("add:n", 7)], None)) == [False] * 4 + [True]
    found = drive(port.get_many([f"add:{name}" for name in ("a", "b", "c", "short", "n")]))
    assert [decode(one) for one in found if one is not None] == ["new a", "old", "new c", "new short", 7]
    entry, kept = drive(port.entry("add:a")), drive(port.entry("add:b"))
    assert entry is not None and kept is not None
    assert entry.ttl_ms is not None and 0 < entry.ttl_ms <= 60_000
    assert kept.ttl_ms is None


def test_a_document_stored_before_is_known_by_content_whatever_the_order_of_its_metadata(tmp_path: Path) -> None:
    with UnifiedStorage(f"sqlite:///{tmp_path}/a.db") as storage:
        first = storage.documents.store("text", {"b": 1, "a": {"y": [1, {"d": 2, "c": 3}], "x": None}})
        again = storage.documents.store("text", {"a": {"x": None, "y": [1, {"c": 3, "d": 2}]}, "b": 1})
        assert again == first
        assert storage.documents.store("text", {"b": 1}) != first


def test_large_batches_need_memory_for_one_unit_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_records, "_GROUP", 10)
    words = "the otter swims in the cold river near the mill and rests. "
    embedder = Embedder(lambda texts: [[1.0] * 256 for _ in texts], "ones", 256)

    def peak(count: int) -> int:
        documents = [f"{count} {n} {words * 300}" for n in range(count)]
        tracemalloc.start()
        try:
            storage.documents.store_many(documents)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with UnifiedStorage(f"sqlite:///{tmp_path}/a.db", embedder=embedder, timeout=120) as storage:
        peak(9)
        assert peak(80) < 1.3 * peak(20)
