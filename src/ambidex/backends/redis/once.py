"""Writes that other backends' units of work have left for Redis; both leaves have one over their ports.

The invariant: a write and the mark that says it was made change in one script, in one slot, so a write of many keys is
made once for each key, and one of records once for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ambidex.backends.redis.client import Client
from ambidex.backends.redis.kv import OPERATION_MS, RedisKeyValue
from ambidex.backends.redis.log import RedisLog
from ambidex.backends.redis.record_scripts import MARK_MS
from ambidex.backends.redis.records import RedisRecords
from ambidex.backends.redis.scripts import DELETE_ONCE, SET_ONCE
from ambidex.backends.redis.wire import Word, pack

__all__ = ["RedisOnce"]


class RedisOnce:
    """Implements :class:`ambidex.core.ports.OncePort`."""

    ports = frozenset({"kv", "log", "records"})

    def __init__(self, client: Client, kv: RedisKeyValue, log: RedisLog, records: RedisRecords) -> None:
        self._client, self._kv, self._log, self._records = client, kv, log, records

    async def apply(self, name: str, port: str, method: str, args: Sequence[Any]) -> None:
        if port == "records":
            await getattr(self._records.once(name), method)(*args)
        elif method == "append":
            stream, entries, ttl_ms = args
            await self._log.append_once(name, MARK_MS, stream, entries, ttl_ms)
        elif method == "delete_many":
            for key, mark in self._marks(name, port, method, args):
                await self._client.script(DELETE_ONCE, [key, mark], (MARK_MS,))
        else:
            puts: dict[str, Any] = {args[0]: args[1]} if method == "put" else dict(args[0])
            ttl_ms = args[-1]
            for (key, mark), value in zip(self._marks(name, port, method, args), puts.values(), strict=True):
                words: list[Word] = [self._kv.wrapped(value), MARK_MS]
                await self._client.script(SET_ONCE, [key, mark], words if ttl_ms is None else [*words, ttl_ms])

    async def settle(self, name: str, port: str, method: str, args: Sequence[Any]) -> None:
        commands = [(pack("PEXPIRE", mark, OPERATION_MS), mark) for _, mark in self._marks(name, port, method, args)]
        if commands:
            await self._client.many(commands, write=True)

    def _marks(self, name: str, port: str, method: str, args: Sequence[Any]) -> Iterator[tuple[str, str]]:
        """Give each key that a write changes, and the mark beside it."""
        if port == "records":
            mark = self._records.mark_of(args[0], name)
            yield mark, mark
            return
        if port == "log":
            keys = [self._log.key(args[0])]
        elif method == "put":
            keys = [self._kv.key(args[0])]
        else:
            keys = [self._kv.key(one if method == "delete_many" else one[0]) for one in args[0]]
        for key in dict.fromkeys(keys):
            yield key, f"{{{key}}}op:{name}"
