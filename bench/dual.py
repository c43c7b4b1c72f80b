"""What the mechanism of ``ambidex.core.dual`` costs; run by ``python -m bench --only dual``.

The leaf does next to nothing here, so that what remains is the mechanism.
"""

from __future__ import annotations

from typing import Any

from ambidex import UnifiedStorage
from ambidex.core.dual import Blocking, Store, operation
from bench.data import KEYS
from bench.harness import ADDED_US, FASTER, SLOWER, Bench, Samples, at_least, at_most, calls, require, row

_DATA = {key: index for index, key in enumerate(KEYS)}


class _Leaf:
    def plain(self, key: str) -> int | None:
        return _DATA.get(key)

    async def get(self, key: str) -> int | None:
        return _DATA.get(key)


class _Lookup(Store):
    def __init__(self, leaf: _Leaf) -> None:
        self._leaf = leaf

    @operation
    async def get(self, key: str) -> int | None:
        return await self._leaf.get(key)


class _BlockingLookup(Blocking, _Lookup):
    pass


@row(
    "dual.cost",
    "a synchronous call through the dual mechanism",
    against="the leaf as a plain function",
    kind=ADDED_US,
    target=at_most(0.6),
)
def cost(bench: Bench) -> Samples:
    leaf = _Leaf()
    return bench.compare(calls(_BlockingLookup(leaf).get, KEYS), calls(leaf.plain, KEYS))


@row(
    "dual.async_to_sync",
    "what the dual mechanism adds to a synchronous call",
    against="what asgiref.async_to_sync adds",
    kind=FASTER,
    target=at_least(100),
)
def async_to_sync(bench: Bench) -> Samples:
    leaf = _Leaf()
    converted = require("asgiref.sync").async_to_sync(_Lookup(leaf).get)
    plain, ours, theirs = bench.interleave(
        calls(leaf.plain, KEYS), calls(_BlockingLookup(leaf).get, KEYS), calls(converted, KEYS)
    )
    return Samples(
        [mine - bare for mine, bare in zip(ours, plain, strict=True)],
        [other - bare for other, bare in zip(theirs, plain, strict=True)],
    )


@row(
    "dual.detecting",
    "storage.kv.get, which looks for a running loop (memory backend)",
    against="storage.sync.kv.get",
    kind=SLOWER,
)
def detecting(bench: Bench) -> Samples:
    storage: Any = UnifiedStorage("memory://")
    for key in KEYS:
        storage.sync.kv.set(key, 1)
    return bench.compare(calls(storage.kv.get, KEYS), calls(storage.sync.kv.get, KEYS))
