"""Key-value on Redis; both leaves make one over their client.

Stored form: see :mod:`ambidex.backends.redis.scripts`. ``get`` is one GET, ``put`` one SET. The invariant: every write
draws a new random version of 52 bits, so a version that was seen does not come again for its key (the chance is 1 in
4.5 million billion a write), and an expired key is absent because the server says so.

In a Cluster, ``put_many`` and ``delete_many`` are atomic key by key.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from ambidex.backends.redis.client import Client
from ambidex.backends.redis.scan import scan
from ambidex.backends.redis.scripts import ENTRY, INCR, PERSIST, SWAP
from ambidex.backends.redis.wire import Word, pack
from ambidex.core.codec import Stored
from ambidex.core.ports import Entry, Put, When
from ambidex.core.runtime import current_operation
from ambidex.errors import Corrupted

__all__ = ["OPERATION_MS", "RedisKeyValue"]

OPERATION_MS: Final = 600_000
"""How long an operation's name is kept: longer than any deadline, so that no repetition comes later."""

_BYTES, _INT = 1, 2
_HEAD = 8
_KIND = 1 << 56
_FEW = 1_000
"""Pairs in one MSET: one that is much longer holds up the server's other clients while it is read."""

_bits = random.getrandbits  # versions are no secret


def _version() -> int:
    return _bits(52) + 1


def _wrap(value: Stored, version: int) -> bytes:
    if type(value) is int:
        return (_KIND * _INT + version).to_bytes(8, "big") + value.to_bytes(8, "big", signed=True)
    return (_KIND + version).to_bytes(8, "big") + value  # type: ignore[operator]  # bytes


def _unwrap(data: Any) -> Stored | None:
    if data is None:
        return None
    kind = data[0] if len(data) >= _HEAD else 0
    if kind == _BYTES:
        return data[_HEAD:]  # type: ignore[no-any-return]
    if kind == _INT and len(data) == 2 * _HEAD:
        return int.from_bytes(data[_HEAD:], "big", signed=True)
    raise Corrupted("a value in Redis was not written by ambidex; choose another ?prefix= for it")


class RedisKeyValue:
    """Implements :class:`ambidex.core.ports.KeyValuePort`."""

    deduplicated = frozenset({"incr"})
    """The writes that keep the name of their operation with the effect."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.target.prefix + "k:"
        self._one = client.one

    async def get(self, key: str) -> Stored | None:
        key = self._prefix + key
        name = key.encode()
        data = await self._one(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name), key)
        return _unwrap(data)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        if not keys:
            return []
        names = [self._prefix + key for key in keys]
        if self._client.clustered:
            found = await self._client.many([(pack("GET", name), name) for name in names])
        else:
            found = await self._one(pack("MGET", *names), names[0])
        return [_unwrap(data) for data in found]

    async def entry(self, key: str) -> Entry | None:
        data, left = await self._client.script(ENTRY, [self._prefix + key], (), write=False)
        value = _unwrap(data)
        if value is None:
            return None
        return Entry(value, int.from_bytes(data[1:_HEAD], "big"), None if left < 0 else max(1, left))

    def key(self, key: str) -> str:
        """Return a key's name on the server."""
        return self._prefix + key

    def wrapped(self, value: Stored) -> bytes:
        """Return a value as it is kept, with a new version."""
        return _wrap(value, _version())

    async def put(self, key: str, value: Stored, ttl_ms: int | None, when: When) -> bool:
        key = self._prefix + key
        words: list[Word] = ["SET", key, _wrap(value, _version())]
        if ttl_ms is not None:
            words += ["PX", ttl_ms]
        if when is not When.ALWAYS:
            words.append("NX" if when is When.ABSENT else "XX")
        return await self._one(pack(*words), key, write=True) is not None

    async def put_many(self, items: Sequence[Put], ttl_ms: int | None) -> None:
        if not items:
            return
        client, prefix, version = self._client, self._prefix, _version
        pairs = {prefix + key: _wrap(value, version()) for key, value in items}
        if client.clustered or ttl_ms is not None:
            end: tuple[Word, ...] = () if ttl_ms is None else ("PX", ttl_ms)
            commands = [(pack("SET", key, data, *end), key) for key, data in pairs.items()]
            if client.clustered or len(commands) == 1:
                await client.many(commands, write=True)
                return
            sets = [command for command, _ in commands]
        else:
            flat: list[Word] = [word for pair in pairs.items() for word in pair]
            sets = [pack("MSET", *flat[start : start + 2 * _FEW]) for start in range(0, len(flat), 2 * _FEW)]
            if len(sets) == 1:
                await self._one(sets[0], next(iter(pairs)), write=True)
                return
        await client.atomic(sets)

    async def add_many(self, items: Sequence[Put], ttl_ms: int | None) -> list[bool]:
        end: tuple[Word, ...] = ("NX",) if ttl_ms is None else ("NX", "PX", ttl_ms)
        pairs = [(self._prefix + key, _wrap(value, _version())) for key, value in items]
        commands = [(pack("SET", key, data, *end), key) for key, data in pairs]
        return [reply is not None for reply in await self._client.many(commands, write=True)] if commands else []

    async def swap(self, key: str, value: Stored, version: int, ttl_ms: int | None) -> int | None:
        new = _version()
        if version == 0:
            key = self._prefix + key
            words: list[Word] = ["SET", key, _wrap(value, new), "NX"]
            made = await self._one(pack(*words, *(() if ttl_ms is None else ("PX", ttl_ms))), key, write=True)
            return None if made is None else new
        if version >= _KIND:
            return None
        args: list[Word] = [version.to_bytes(7, "big"), _wrap(value, new)]
        if ttl_ms is not None:
            args.append(ttl_ms)
        return new if await self._client.script(SWAP, [self._prefix + key], args) else None

    async def delete_many(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        names = [self._prefix + key for key in keys]
        if self._client.clustered:
            return sum(await self._client.many([(pack("UNLINK", name), name) for name in names], write=True))
        return int(await self._one(pack("UNLINK", *names), names[0], write=True))

    async def touch(self, key: str, ttl_ms: int | None) -> bool:
        key = self._prefix + key
        if ttl_ms is None:
            return bool(await self._client.script(PERSIST, [key], ()))
        return bool(await self._one(pack("PEXPIRE", key, ttl_ms), key, write=True))

    async def incr(self, key: str, by: int, ttl_ms: int | None) -> int:
        key, operation = self._prefix + key, current_operation()
        keys = [key] if operation is None else [key, f"{{{key}}}op:{operation}"]
        head = (_KIND * _INT + _version()).to_bytes(8, "big")
        args = (head, by.to_bytes(8, "big", signed=True), "" if ttl_ms is None else ttl_ms, OPERATION_MS)
        return int.from_bytes(await self._client.script(INCR, keys, args), "big", signed=True)

    async def scan(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        return await scan(self._client, self._prefix, prefix, after, limit)
