"""The records behind documents: claims, and lists by label and path."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ambidex import UnifiedStorage
from ambidex.core.codec import decode, encode
from ambidex.core.dual import drive
from ambidex.core.ports import Capability, Put
from ambidex.errors import (
    InvalidQuery,
)
from tests.stores.conftest import Run


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


def test_lists_by_label_and_path(run: Run) -> None:
    async def body(s: Any) -> None:
        ids = await s.batch_store_documents(
            [{"content": str(n), "metadata": {"path": f"d{n % 2}/{n:02}", "tags": [f"t{n % 3}"], "category": "k"}}
             for n in range(12)]
        )  # fmt: skip
        every = await s.documents.list()
        assert sorted(info.id for info in every) == sorted(ids)
        assert sorted(i.path for i in await s.documents.list(tag="t1")) == ["d0/04", "d0/10", "d1/01", "d1/07"]
        assert len(await s.documents.list(category="k", limit=5)) == 5
        assert sorted(i.path for i in await s.documents.list(path="d1/")) == [f"d1/{n:02}" for n in range(1, 12, 2)]
        assert {i.path for i in await s.documents.list(path="d1/", tag="t1", category="k")} == {"d1/01", "d1/07"}
        assert await s.documents.list(tag="t1", category="other") == []
        assert await s.documents.list(tag="nothing") == []
        assert sorted([info.id async for info in s.documents.iterate()]) == sorted(ids)
        assert await s.documents.tags() == {"t0": 4, "t1": 4, "t2": 4}
        for limit in (0, -1, 10**6, "3"):
            with pytest.raises(InvalidQuery):
                await s.documents.list(limit)

    run(body)
