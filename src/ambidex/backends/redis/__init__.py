"""Redis and Valkey: single servers, Cluster and Sentinel; ``ambidex.storage`` makes one :class:`RedisBackend` a URL.

``target`` reads the URL, ``client`` finds the right server and speaks to it over one of two colours of connection
(``blocking``: a pool; ``aio``: shared and pipelined), ``kv``, ``log`` and ``records`` are the ports over it. The
invariant: every key begins with the URL's prefix, so other users of the database are never touched.

What an acknowledged write survives is the server's settings: ``appendonly yes`` with ``appendfsync always`` for a power
cut. A replica that takes over has what reached it; acknowledged writes of the last moments before a master died can
be lost with it, in a Cluster as under Sentinel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ambidex.backends.redis.aio import AsyncClient
from ambidex.backends.redis.blocking import BlockingClient
from ambidex.backends.redis.client import Client, Shared
from ambidex.backends.redis.kv import RedisKeyValue
from ambidex.backends.redis.log import RedisLog
from ambidex.backends.redis.once import RedisOnce
from ambidex.backends.redis.records import RedisRecords
from ambidex.backends.redis.target import parse
from ambidex.backends.redis.wire import pack
from ambidex.core.ports import BlobPort, Capability, SearchPort
from ambidex.errors import CapabilityMissing
from ambidex.runtime.aio import AsyncRuntime
from ambidex.runtime.blocking import BlockingRuntime
from ambidex.settings import BackendUrl, Settings

__all__ = ["RedisBackend", "RedisLeaf"]


class RedisBackend:
    """Both colours over the same servers."""

    name = "redis"
    capabilities = frozenset({Capability.KV, Capability.LOG, Capability.RECORDS})
    remote = True

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        shared = Shared(parse(url, settings.connections(10)), settings)
        blocking, aio = BlockingClient(shared, BlockingRuntime()), AsyncClient(shared, AsyncRuntime())
        self._clients = (blocking, aio)
        self.blocking = RedisLeaf(blocking, self.close)
        self.aio = RedisLeaf(aio, self.close)

    def close(self) -> None:
        """Release every connection of both colours."""
        for client in self._clients:
            client.close()


class RedisLeaf:
    """The ports over one client."""

    def __init__(self, client: Client, close: Callable[[], None]) -> None:
        self._client, self._close = client, close
        self.kv = RedisKeyValue(client)
        self.log = RedisLog(client)
        self.records = RedisRecords(client)
        self.once = RedisOnce(client, self.kv, self.log, self.records)

    @property
    def search(self) -> SearchPort:
        """Not here: Redis has no full text without modules."""
        raise CapabilityMissing(
            "the backend 'redis' has no search; place it elsewhere with search='sqlite:///index.db'"
        )

    @property
    def blobs(self) -> BlobPort:
        """Not here: large values do not belong into memory."""
        raise CapabilityMissing(
            "the backend 'redis' keeps no blobs; place them elsewhere with blobs='s3://bucket/prefix'"
        )

    async def open(self) -> None:
        """Connect to every server that holds data."""
        await self.ping()

    async def close(self) -> None:
        """Release every connection, of both colours; usable again afterwards."""
        self._close()

    async def ping(self) -> None:
        """Make a round trip to every server that holds data."""
        for node in await self._client.masters():
            await self._client.at(node, pack("PING"))

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Refuse: a Redis transaction cannot read what it decides on."""
        raise CapabilityMissing("the backend 'redis' has no transactions; use compare_and_set, or place data in SQL")
