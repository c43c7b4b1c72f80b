"""A leaf of a backend other than that of transactions: inside a unit of work its writes wait for the commit.

``ambidex.storage`` puts one around each such leaf. Outside a unit everything passes through. Inside, reads see what the
other backend holds at that moment, writes that can be applied later become entries of the outbox, and the others, whose
outcome decides something, are refused. The invariant: inside a unit no write reaches the other backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from ambidex.core.codec import Stored
from ambidex.core.ports import IndexItem, Leaf, Put, When
from ambidex.errors import UsageError
from ambidex.stores.outbox import Outbox, Unit
from ambidex.stores.outbox_rows import Entry
from ambidex.stores.record_writes import RecordWrites
from ambidex.stores.undecided import undecided

__all__ = ["DeferringLeaf", "beneath", "deferring"]

_READS: Mapping[str, frozenset[str]] = {
    "kv": frozenset({"get", "get_many", "entry", "scan"}),
    "log": frozenset({"tail", "range", "length", "streams"}),
    "search": frozenset({"query", "fetch", "count", "page", "state"}),
    "records": frozenset({"get", "find", "count", "explain"}),
}
_REFUSED: Mapping[str, frozenset[str]] = {
    "kv": frozenset({"add_many", "swap", "touch", "incr"}),
    "log": frozenset({"trim", "trim_before", "expire", "drop"}),
    "search": frozenset(),
    "records": frozenset(),
}
_AT_ONCE = {"search": frozenset({"claim"}), "records": frozenset({"numbers"})}
"""What a unit that is undone may leave: a namespace without items may be anybody's, and numbers may have gaps."""


class _Writes:
    """The writes that can wait: each returns its entry, and what the port would have returned as far as it is known."""

    def __init__(self, inner: Any, so_far: Sequence[Entry]) -> None:
        self._inner, self._so_far = inner, so_far


class _KeyValueWrites(_Writes):
    async def put(self, key: str, value: Stored, ttl_ms: int | None, when: When) -> tuple[list[Any], Any]:
        if when is not When.ALWAYS:
            raise undecided("kv", f"put if {when}")
        return [key, value, ttl_ms], True

    async def put_many(self, items: Sequence[Put], ttl_ms: int | None) -> tuple[list[Any], Any]:
        return [[list(item) for item in items], ttl_ms], None

    async def delete_many(self, keys: Sequence[str]) -> tuple[list[Any], Any]:
        there = await self._inner.get_many(keys)
        return [list(keys)], sum(value is not None for value in there)


class _LogWrites(_Writes):
    async def append(self, stream: str, entries: Sequence[bytes], ttl_ms: int | None) -> tuple[list[Any], Any]:
        return [stream, list(entries), ttl_ms], [0] * len(entries)


class _SearchWrites(_Writes):
    async def index(self, namespace: str, items: Sequence[IndexItem]) -> tuple[list[Any], Any]:
        return [namespace, [list(item._replace(vector=_vector(item))) for item in items]], None

    async def remove(self, namespace: str, ids: Sequence[str]) -> tuple[list[Any], Any]:
        return [namespace, list(ids)], len(await self._inner.fetch(namespace, ids))

    async def annotate(
        self, namespace: str, ids: Sequence[str], metadata: dict[str, Any], patch: bool
    ) -> tuple[list[Any], Any]:
        return [namespace, list(ids), dict(metadata), patch], len(await self._inner.fetch(namespace, ids))

    async def reset(self, namespace: str) -> tuple[list[Any], Any]:
        return [namespace], await self._inner.count(namespace)


_WRITES: Mapping[str, type[_Writes | RecordWrites]] = {
    "kv": _KeyValueWrites,
    "log": _LogWrites,
    "search": _SearchWrites,
    "records": RecordWrites,
}


def _vector(item: IndexItem) -> list[float] | None:
    """Return the vector without negative zeros, which the stored form of values does not have."""
    return None if item.vector is None else [number + 0.0 for number in item.vector]


class _Port:
    """A port whose methods look whether they are inside a unit; each is made at its first use."""

    def __init__(self, place: str, name: str, inner: Any, outbox: Outbox) -> None:
        self._place = place
        self._name, self._inner, self._outbox = name, inner, outbox

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        port = self._name
        if name in _AT_ONCE.get(port, ()):
            return value
        if name in _READS[port] or name in _REFUSED[port] or hasattr(_WRITES[port], name):
            value = self.__dict__[name] = self._method(name, value)
        return value

    def _method(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        outbox, shared, read = self._outbox, self._outbox.shared, name in _READS[self._name]

        async def after_recovery(*args: Any, **kwargs: Any) -> Any:
            await outbox.recover_if_due()
            return await inner(*args, **kwargs)

        def method(*args: Any, **kwargs: Any) -> Any:
            unit = shared.unit.get()
            if unit is None:
                if time.monotonic() < shared.due:
                    return inner(*args, **kwargs)
                return after_recovery(*args, **kwargs)
            return inner(*args, **kwargs) if read else self._defer(unit, name, args, kwargs)

        return method

    async def _defer(self, unit: Unit, name: str, args: Any, kwargs: Any) -> Any:
        self._check_open(unit, name)
        if name in _REFUSED[self._name]:
            raise undecided(self._name, name)
        self._outbox.check(self._place, self._name)
        so_far = [entry for entry in unit.entries if (entry.place, entry.port) == (self._place, self._name)]
        data, result = await getattr(_WRITES[self._name](self._inner, so_far), name)(*args, **kwargs)
        self._check_open(unit, name)  # it may have ended while the other backend was asked
        if data is not None:
            unit.entries.append(Entry(self._place, self._name, name, data))
        return result

    def _check_open(self, unit: Unit, name: str) -> None:
        if unit.ended:
            raise UsageError(
                f"{self._name}.{name} belongs to a transaction that has ended; end what was started inside before it, "
                "or start it outside"
            )


class DeferringLeaf:
    """A leaf whose ports look whether they are inside a unit; its other attributes are those of the leaf itself."""

    def __init__(self, leaf: Leaf, outbox: Outbox, place: str) -> None:
        self._place = place
        self._leaf, self._outbox = leaf, outbox

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._leaf, name)
        if name in _READS:
            value = self.__dict__[name] = _Port(self._place, name, value, self._outbox)
        return value

    def defers(self) -> bool:
        """Tell whether what is written now waits for the commit of a transaction on another backend."""
        return self._outbox.shared.unit.get() is not None

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """See :meth:`ambidex.core.ports.Leaf.transaction`; not inside a unit of another backend."""
        if self.defers():
            raise UsageError(
                "this needs a transaction of its own on another backend than the one whose transaction is open; "
                "do it before or after, or place both on one backend"
            )
        return self._leaf.transaction()


def beneath(leaf: Leaf) -> Leaf:
    """Return a leaf as it is outside of units, for what is no part of any."""
    return leaf._leaf if isinstance(leaf, DeferringLeaf) else leaf


def deferring(leaf: Leaf, outbox: Outbox, place: str) -> Leaf:
    """Return ``leaf`` with an outbox before its writes; ``place`` is a capability that is placed on its backend."""
    return cast("Leaf", DeferringLeaf(leaf, outbox, place))
