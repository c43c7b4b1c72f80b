"""The contract of names: hostile keys, namespaces and tenants are only ever themselves; backends are tested with it.

The invariant: no key, namespace or tenant can be written that reads as another, whatever characters it is made of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from ambidex.core.ports import Capability
from ambidex.errors import InvalidKey, TenantMismatch
from ambidex.testing.contract import Contract, Subject

__all__ = ["BAD_NAMES", "HOSTILE", "NamesContract"]

HOSTILE = (
    *("a", "A", "a:b", "a::b", ":", "::", "%", "%3A", "a%3Ab", "%25", "a/b", "/", "..", "../a", ".", "*", "?", "[a]"),
    *("{a}", "{a}b", "a\\b", "'", '"', "`", "'; DROP TABLE ambidex_kv; --", "$1", "?1", "%s", "${x}", "\n", "\r\n"),
    *(" ", "a ", " a", "é", "e\u0301", "日本", "🦊", "\u202e", "\ufeff", "\x01", "\x7f", "kv", "kv::", "log", "null"),
    *("a" * 120, "é" * 15, "-", "_", "a-b", "a_b", "0", "00"),
)
"""Names that have meant something else to some backend; all different, all allowed."""

BAD_NAMES = ("a\x00b", "\ud800", "x" * 2001, "é" * 400, 5, None, b"a", ["a"], True)
"""No key: NUL, a lone surrogate, above the limit when escaped, or no text at all."""


class NamesContract(Contract, needs=[Capability.KV]):
    """Keys, namespaces and tenants."""

    async def test_names_of_keys(self, subject: Subject) -> None:
        """Each hostile key holds its own value and is listed as itself; the empty key is a key."""
        items = {name: {"is": name} for name in (*HOSTILE, "")}
        for name, value in items.items():
            await subject.kv.set(name, value)
        assert await subject.kv.get_many(items) == items
        assert sorted([key async for key in subject.kv.scan()]) == sorted(items)
        for name in items:
            assert await subject.kv.delete(name), name
            assert not await subject.kv.exists(name)

    async def test_names_of_keys_that_are_refused(self, subject: Subject) -> None:
        """Before any I/O, by every method that takes a key."""
        kv = subject.kv
        for bad in BAD_NAMES:
            calls: dict[str, Callable[[Any], Awaitable[Any]]] = {
                "get": kv.get,
                "get_many": lambda key: kv.get_many(["ok", key]),
                "set": lambda key: kv.set(key, 1),
                "set_many": lambda key: kv.set_many({"ok": 1, key if isinstance(key, str) else "\x00": 1}),
                "add": lambda key: kv.add(key, 1),
                "replace": lambda key: kv.replace(key, 1),
                "delete": kv.delete,
                "delete_many": lambda key: kv.delete_many(["ok", key]),
                "exists": kv.exists,
                "ttl": kv.ttl,
                "touch": kv.touch,
                "incr": kv.incr,
                "get_versioned": kv.get_versioned,
                "compare_and_set": lambda key: kv.compare_and_set(key, 1, 0),
                "get_or_set": lambda key: kv.get_or_set(key, 1),
            }
            for name, call in calls.items():
                with pytest.raises(InvalidKey):
                    await call(bad)
                    pytest.fail(f"{name} accepted {bad!r:.60}")
        assert [key async for key in kv.scan()] == []

    async def test_names_of_the_longest_keys(self, subject: Subject) -> None:
        """The longest key works under the longest namespace; two that differ in the last character are two."""
        room = subject.kv.namespace("n" * 300)
        first, second = "k" * 1999 + "a", "k" * 1999 + "b"
        await room.set_many({first: 1, second: 2})
        assert await room.get_many([first, second]) == {first: 1, second: 2}
        assert {key async for key in room.scan("k" * 1999)} == {first, second}
        with pytest.raises(InvalidKey, match="limit"):
            subject.kv.namespace("n" * 2000)

    async def test_names_of_namespaces(self, subject: Subject) -> None:
        """Each hostile namespace is a space of its own, and so is the unnamed one."""
        rooms = {name: subject.kv.namespace(name) for name in HOSTILE}
        await subject.kv.set("key", "outside")
        for name, room in rooms.items():
            assert await room.get("key") is None, name
            await room.set("key", name)
        for name, room in rooms.items():
            assert await room.get("key") == name
            assert [key async for key in room.scan()] == ["key"]
        assert await subject.kv.get("key") == "outside"
        assert [key async for key in subject.kv.scan()] == ["key"]
        for name, room in rooms.items():
            assert await room.clear() == 1, name
        assert await subject.kv.get("key") == "outside"

    async def test_names_of_nested_namespaces(self, subject: Subject) -> None:
        """A namespace inside a namespace is not one with the joined name."""
        kv = subject.kv
        nested = (
            kv.namespace("a").namespace("b"),
            kv.namespace("a/b"),
            kv.namespace("a:b"),
            kv.namespace("a%2Fb"),
            kv.namespace("a").namespace("b").namespace("c"),
            kv.namespace("a/b").namespace("c"),
            kv.namespace("a").namespace("b/c"),
        )
        for number, room in enumerate(nested):
            assert await room.get("key") is None
            await room.set("key", number)
        assert [await room.get("key") for room in nested] == list(range(len(nested)))
        assert await kv.namespace("a").namespace("b").get("key") == 0, "the same names are the same namespace"
        for bad in ("", "a\x00", "\ud800", 5, None, b"x"):
            with pytest.raises(InvalidKey):
                kv.namespace(bad)  # type: ignore[arg-type]

    async def test_names_are_not_joined(self, subject: Subject) -> None:
        """Moving characters between namespace and key gives another key."""
        text = "a:b::c%3Ad/e"
        spots = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        for outer, key in spots:
            await subject.kv.namespace(outer).set(key, [outer, key])
        for outer, key in spots:
            assert await subject.kv.namespace(outer).get(key) == [outer, key]

    async def test_names_of_tenants(self, subject: Subject) -> None:
        """Tenants with hostile names see their own data only, whatever names they use inside."""
        names = [f"{subject.tenant}{name}" for name in (*HOSTILE, ":kv", "::key", "%3A:")]
        tenants = [subject.of_tenant(name) for name in names]
        for tenant in tenants:
            assert await tenant.kv.get("key") is None
            await tenant.kv.set("key", tenant.tenant)
            await tenant.kv.namespace("room").set("key", tenant.tenant)
        for tenant in tenants:
            assert await tenant.kv.get("key") == tenant.tenant
            assert [key async for key in tenant.kv.scan()] == ["key"]
            assert await tenant.kv.clear() == 1
        for one, other in pairwise(tenants):
            assert await one.kv.namespace("room").get("key") == one.tenant
            assert await one.kv.namespace(other.tenant).get("key") is None

    async def test_names_of_tenants_that_are_refused(self, subject: Subject) -> None:
        """An empty tenant, a second one on a bound handle, and names that no key can hold."""
        with pytest.raises(TenantMismatch):
            subject.root.tenant("")
        with pytest.raises(TenantMismatch, match="bound"):
            subject.storage.tenant("somebody-else")
        for bad in ("a\x00", "\ud800", "x" * 2001):
            with pytest.raises(InvalidKey):
                subject.root.tenant(bad)

    async def test_names_listed_as_namespaces(self, subject: Subject) -> None:
        """``namespaces`` tells which hold keys, and only this tenant's."""
        assert await subject.kv.namespaces() == []
        await subject.kv.set("key", 1)
        await subject.kv.namespace("plain").set("key", 1)
        await subject.of_tenant(subject.tenant + "x").kv.namespace("other").set("key", 1)
        assert await subject.kv.namespaces() == ["", "plain"]
        await subject.kv.clear()
        assert await subject.kv.namespaces() == ["plain"]

    async def test_every_listed_namespace_can_be_opened_by_its_name(self, subject: Subject) -> None:
        """Whatever stands in a name; one inside another is listed by the one that it is in."""
        odd = ["a:b", "a/b", "100 %", "%3A", "größe", "a"]
        for name in odd:
            await subject.kv.namespace(name).set("key", name)
        await subject.kv.namespace("outer").namespace("in/ner").set("key", "inner")
        listed = await subject.kv.namespaces()
        assert listed == sorted([*odd, "outer"])
        for name in odd:
            room = subject.kv.namespace(name)
            assert await room.get("key") == name
            assert await room.namespaces() == [""]
        outer = subject.kv.namespace("outer")
        assert await outer.namespaces() == ["in/ner"]
        assert await outer.namespace("in/ner").get("key") == "inner"
