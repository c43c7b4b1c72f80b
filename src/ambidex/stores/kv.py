"""Values by key, with time to live, counters and compare-and-set; ``storage.kv`` is one, on every backend.

The invariant: a key is tenant, namespace and name, escaped so that no name can reach into another namespace or tenant;
a value is refused before any I/O if some backend could not give it back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple, Self

from ambidex.core.codec import Stored, decode, encode, encode_all
from ambidex.core.dual import Blocking, Detecting, Store, operation, stream
from ambidex.core.keys import escape, escape_all, unescape
from ambidex.core.ports import Put, When
from ambidex.core.runtime import off_the_clock, one_deadline, partly_applied, time_limit
from ambidex.errors import InvalidKey, InvalidQuery, UnsupportedValue
from ambidex.stores.scope import Scope

__all__ = ["TTL", "BlockingKeyValue", "DetectingKeyValue", "KeyValue", "Versioned", "ttl_to_ms"]

TTL = float | timedelta
"""Seconds or a timedelta."""

_MAX_TTL_MS = 100 * 365 * 24 * 3600 * 1000
_MAX_PAGE = 10_000
_FEW = 100  # keys that may well be asked for again soon
_put: Callable[[tuple[str, Stored]], Put] = partial(tuple.__new__, Put)  # making one by its name runs Python
_GLOB = {"*": "(?s:.*)", "?": "(?s:.)"}


class Versioned(NamedTuple):
    """A value and the version to hand to ``compare_and_set``."""

    value: Any
    version: int


class KeyValue(Store):
    """Key-value storage, asynchronous. ``await storage.aio.kv.get("key")``.

    Args:
        scope: the ports, the runtime, the tenant and the limits.
        namespace: a part of every key; see :meth:`namespace`.
    """

    def __init__(self, scope: Scope, namespace: str = "") -> None:
        self._scope = scope
        self._namespace = namespace
        self._prefix = scope.prefix("kv", namespace)
        self._max, self._timeout = scope.max_bytes, scope.timeout
        self._port = scope.leaf.kv

    def __repr__(self) -> str:
        tenant = f", tenant={self._scope.tenant!r}" if self._scope.tenant else ""
        return f"{type(self).__name__}(namespace={self._namespace!r}{tenant})"

    def namespace(self, name: str) -> Self:
        """Return the same storage under a name of its own: no key of one namespace is a key of another.

        A namespace inside a namespace is possible; their names are kept apart.
        """
        return self._derive(self._scope, _join(self._namespace, name))

    @operation
    async def get(self, key: str, default: Any = None, *, model: type[Any] | None = None) -> Any:
        """Return the value of ``key``, or ``default``.

        Args:
            key: any text without NUL, at most 2,000 bytes when escaped.
            default: returned where there is no such key.
            model: a dataclass, Struct, attrs or pydantic class to validate the value as.

        Raises:
            InvalidKey: the key cannot be held.
            Corrupted: the stored value does not decode, or does not fit ``model``.
        """
        stored = await self._port.get(self._prefix + escape(key))
        return default if stored is None else decode(stored, model)

    @operation
    async def get_many(self, keys: Iterable[str], *, model: type[Any] | None = None) -> dict[str, Any]:
        """Return the values of those keys that exist, by key, in one round trip."""
        wanted = _unique(keys)
        if not wanted:
            return {}
        found = await self._port.get_many(self._keys(wanted))
        return {key: decode(stored, model) for key, stored in zip(wanted, found, strict=True) if stored is not None}

    @operation
    async def get_versioned(self, key: str, *, model: type[Any] | None = None) -> Versioned | None:
        """Return the value with its version, or None."""
        entry = await self._port.entry(self._key(key))
        return None if entry is None else Versioned(decode(entry.value, model), entry.version)

    @operation
    async def set(self, key: str, value: Any, ttl: TTL | None = None) -> None:
        """Store a value, replacing an earlier one and its time to live.

        Args:
            key: see :meth:`get`.
            value: JSON-shaped data, bytes, tuple, set, aware datetime, Decimal, UUID, or a model.
            ttl: seconds or timedelta until it is gone; None: for ever.

        Raises:
            UnsupportedValue: some backend could not give the value back unchanged; the message names the part.
        """
        await self._port.put(self._prefix + escape(key), encode(value, self._max), ttl_to_ms(ttl), When.ALWAYS)

    @operation
    async def set_many(self, items: Mapping[str, Any], ttl: TTL | None = None) -> None:
        """Store several values in one batch, all or none where the backend can."""
        values = encode_all(list(items.values()), self._max)
        puts = list(map(_put, zip(self._keys(items), values, strict=True)))
        if puts:
            await self._port.put_many(puts, ttl_to_ms(ttl))

    @operation
    async def add(self, key: str, value: Any, ttl: TTL | None = None) -> bool:
        """Store a value only if the key is absent; False if it was not."""
        return await self._port.put(self._key(key), encode(value, self._max), ttl_to_ms(ttl), When.ABSENT)

    @operation
    async def replace(self, key: str, value: Any, ttl: TTL | None = None) -> bool:
        """Store a value only if the key is present; False if it was not."""
        return await self._port.put(self._key(key), encode(value, self._max), ttl_to_ms(ttl), When.PRESENT)

    @operation
    async def compare_and_set(self, key: str, value: Any, version: int, ttl: TTL | None = None) -> int | None:
        """Store a value only if the key still has this version.

        Args:
            key: see :meth:`get`.
            value: see :meth:`set`.
            version: from :meth:`get_versioned` or an earlier call; 0 means "only if absent".
            ttl: seconds or timedelta; None: for ever.

        Returns:
            The new version (always true), or None if another writer was faster.
        """
        if type(version) is not int or version < 0:
            raise InvalidQuery(f"a version is a whole number from get_versioned, not {version!r}")
        return await self._port.swap(self._key(key), encode(value, self._max), version, ttl_to_ms(ttl))

    @operation
    async def delete(self, key: str) -> bool:
        """Delete a key; True if it existed."""
        return await self._port.delete_many([self._key(key)]) > 0

    @operation
    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete keys and return how many existed."""
        wanted = self._keys(_unique(keys))
        return await self._port.delete_many(wanted) if wanted else 0

    @operation
    async def exists(self, key: str) -> bool:
        """Tell whether the key exists."""
        return await self._port.entry(self._key(key)) is not None

    @operation
    async def ttl(self, key: str) -> float | None:
        """Return the seconds that a key has left; None if it is absent or stays for ever (``exists`` tells which)."""
        entry = await self._port.entry(self._key(key))
        return None if entry is None or entry.ttl_ms is None else entry.ttl_ms / 1000

    @operation
    async def touch(self, key: str, ttl: TTL | None = None) -> bool:
        """Give a key a new time to live (None: for ever); False if it is absent."""
        return await self._port.touch(self._key(key), ttl_to_ms(ttl))

    @operation
    async def incr(self, key: str, by: int = 1, ttl: TTL | None = None) -> int:
        """Add ``by`` (which may be negative) to an integer atomically and return it; an absent key counts as 0.

        Args:
            key: see :meth:`get`.
            by: a 64-bit integer.
            ttl: time to live given to a new counter; an existing one keeps its own.

        Raises:
            UnsupportedValue: the stored value is no integer, or the sum would leave 64 bits; it is unchanged.
        """
        if type(by) is not int or not -(2**63) <= by < 2**63:
            raise UnsupportedValue(f"incr adds a 64-bit integer, not {by!r}")
        return await self._port.incr(self._key(key), by, ttl_to_ms(ttl))

    @operation
    @one_deadline
    async def get_or_set(self, key: str, factory: Callable[[], Any] | Any, ttl: TTL | None = None) -> Any:
        """Return the value of a key, making and storing it where there is none.

        Callers in one process that ask at the same time share one run of ``factory``; where another process is faster,
        its value is returned.

        Args:
            key: see :meth:`get`.
            factory: a function, a coroutine function, or the value itself.
            ttl: for a new value.
        """
        full = self._key(key)
        stored = await self._port.get(full)
        if stored is not None:
            return decode(stored)

        async def make() -> Stored:
            there = await self._port.get(full)
            if there is not None:  # made by those who had done so before this caller joined them
                return there
            with off_the_clock():
                value = factory() if callable(factory) else factory
                value = await self._scope.runtime.awaited(value) if isawaitable(value) else value
            made = encode(value, self._max)
            if await self._port.put(full, made, ttl_to_ms(ttl), When.ABSENT):
                return made
            there = await self._port.get(full)
            return made if there is None else there

        return decode(await self._scope.runtime.single_flight((id(self._port), full), make))

    @stream
    async def scan(
        self, prefix: str = "", *, glob: str | None = None, page: int = 500
    ) -> AsyncGenerator[list[str], None]:
        """Iterate the keys that start with ``prefix`` or match ``glob``.

        A key that exists during the whole scan comes exactly once; the order is the backend's own.

        Args:
            prefix: literal text; every character counts as itself.
            glob: a pattern in which ``*`` is any text and ``?`` any one character.
            page: keys a round trip, 1 to 10,000.
        """
        pattern, literal = _compile(glob)
        if prefix and glob is not None:
            raise InvalidQuery("scan takes a prefix or a glob, not both")
        if type(page) is not int or not 1 <= page <= _MAX_PAGE:
            raise InvalidQuery(f"a page is 1 to {_MAX_PAGE:,} keys, not {page!r}")
        start, after = self._prefix + escape(prefix or literal), None
        while True:
            keys, after = await self._port.scan(start, after, page)
            names = [unescape(key[len(self._prefix) :]) for key in keys]
            yield names if pattern is None else [name for name in names if pattern.match(name)]
            if after is None:
                return

    @operation
    async def clear(self) -> int:
        """Delete every key of this namespace (not of those below it); return how many there were."""
        deleted, after = 0, None
        while True:
            with time_limit(self._timeout), partly_applied() if deleted else nullcontext():
                keys, after = await self._port.scan(self._prefix, after, _MAX_PAGE)
                deleted += await self._port.delete_many(keys) if keys else 0
            if after is None:
                return deleted

    @operation
    async def namespaces(self) -> list[str]:
        """Return the names of the namespaces in this one that hold keys, themselves or further inside, sorted.

        Each can be given to :meth:`namespace`; "" stands for keys that are in no namespace but this one.
        """
        room = self._scope.prefix("kv")
        paths: set[str] = set()
        after = None
        while True:
            keys, after = await self._port.scan(room + escape(self._namespace), after, _MAX_PAGE)
            paths.update(key[len(room) :].split(":", 1)[0] for key in keys)
            if after is None:
                names = {_inside(self._namespace, unescape(path)) for path in paths}
                return sorted(name for name in names if name is not None)

    def _key(self, key: str) -> str:
        return self._prefix + escape(key)

    def _keys(self, keys: Collection[str]) -> list[str]:
        prefix = self._prefix
        return [prefix + key for key in (map(escape, keys) if len(keys) <= _FEW else escape_all(keys))]


class BlockingKeyValue(Blocking, KeyValue):
    """Key-value storage, synchronous. ``storage.sync.kv.get("key")``."""


class DetectingKeyValue(Detecting, KeyValue):
    """Key-value storage whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: KeyValue, sync: BlockingKeyValue) -> None:
        super().__init__(aio._scope, aio._namespace)
        self._aio, self._sync = aio, sync

    def namespace(self, name: str) -> Self:
        """Return the same storage under a name of its own."""
        return type(self)(self._aio.namespace(name), self._sync.namespace(name))


def _unique(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str | bytes):  # not its characters
        raise InvalidKey(f"a list of keys is needed, not one {type(keys).__name__}")
    wanted = list(keys)
    try:
        return list(dict.fromkeys(wanted))
    except TypeError:
        raise InvalidKey("a key must be text; convert it with str() or an explicit format") from None


def _join(outer: str, name: str) -> str:
    """Return the name of a namespace inside another; "" is the unnamed outermost."""
    if not name or type(name) is not str:
        raise InvalidKey(f"a namespace needs a name (text, not empty), not {name!r}")
    return f"{outer}/{escape(name)}" if outer else escape(name)


def _inside(outer: str, path: str) -> str | None:
    """Undo :func:`_join`: the name, in ``outer``, of what leads to ``path``; "" is ``outer`` itself, None elsewhere."""
    if path == outer:
        return ""
    start = f"{outer}/" if outer else ""
    return unescape(path[len(start) :].split("/", 1)[0]) if path.startswith(start) else None


def ttl_to_ms(ttl: TTL | None) -> int | None:
    """Return a time to live in whole milliseconds.

    Raises:
        InvalidQuery: it is not above 0, not a number, or more than a hundred years.
    """
    if ttl is None:
        return None
    given: Any = ttl
    try:
        seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
    except (TypeError, ValueError, OverflowError):
        seconds = None
    if seconds is None or isinstance(given, str | bytes):  # float() reads numbers in texts, too
        raise InvalidQuery(f"a time to live is seconds or a timedelta, not {ttl!r}")
    if isinstance(ttl, bool) or not 0 < seconds * 1000 <= _MAX_TTL_MS:
        raise InvalidQuery(
            f"a time to live is above 0 and at most 100 years, not {ttl!r}; delete the key to end it now"
        )
    return max(1, round(seconds * 1000))


def _compile(glob: str | None) -> tuple[re.Pattern[str] | None, str]:
    """Return a glob as a regular expression and the literal text it begins with."""
    if glob is None:
        return None, ""
    literal = re.split(r"[*?]", glob, maxsplit=1)[0]
    return re.compile("".join(_GLOB.get(char) or re.escape(char) for char in glob) + r"\Z"), literal
