"""The synchronous colour: each call borrows a pooled connection for one round trip.

The invariant: whatever ends an exchange before its last reply ends its connection, too, and a broken one ends all that
were made before it.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from ambidex.backends.redis.client import Client, Shared
from ambidex.backends.redis.errors import late, unreachable
from ambidex.backends.redis.pool import Connection, Pool
from ambidex.backends.redis.target import Address
from ambidex.backends.redis.topology import Topology
from ambidex.core.runtime import Runtime, remaining
from ambidex.errors import OutcomeUnknown, Unavailable
from ambidex.runtime.process import reset_after_fork

__all__ = ["BlockingClient"]


class BlockingClient(Client):
    """Blocking round trips on pooled connections; thread-safe."""

    def __init__(self, shared: Shared, runtime: Runtime) -> None:
        super().__init__(shared, runtime)
        self._pools: dict[Address, Pool] = {}
        self._learning = threading.Lock()
        reset_after_fork(self)

    def after_fork(self) -> None:
        self._learning = threading.Lock()
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.abandon()

    async def _dial(self, address: Address, until: float) -> Connection:
        where = f"Redis at {address}"
        try:
            sock = socket.create_connection(address, max(remaining(until), 0.001))
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if self.shared.tls is not None:
                    sock.settimeout(max(remaining(until), 0.001))
                    sock = self.shared.tls.wrap_socket(sock, server_hostname=address.host)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            if isinstance(error, TimeoutError) and remaining(until) <= 0:
                raise late(where, sent=False) from None
            raise unreachable(error, where) from None
        return Connection(sock, where)

    async def _exchange(self, node: Address, packed: bytes, count: int, until: float, write: bool) -> Any:
        pool = self._pools.get(node)
        if pool is None:
            pool = self._pools.setdefault(node, Pool(self.target.pool_size, self._where(node)))
        connection = pool.take(until)
        try:
            if connection is None:
                generation = pool.generation
                made = await self._connect(node, until)
                assert isinstance(made, Connection)  # noqa: S101  # what _dial returns
                connection = made
                pool.made(connection, generation)
            return connection.call(packed, count, until, write)
        except (Unavailable, OutcomeUnknown):
            pool.discard()
            raise
        finally:
            pool.give(connection)

    async def _refresh(self, until: float) -> Topology:
        before = self.shared.topology
        if not self._learning.acquire(timeout=max(remaining(until), 0.0)):
            raise late(f"the Cluster at {self.target.display}", sent=False)
        try:
            now = self.shared.topology
            if now is not None and now is not before:
                return now  # whoever was faster has asked
            return await self._learn(until)
        finally:
            self._learning.release()

    def _discard(self, node: Address) -> None:
        pool = self._pools.get(node)
        if pool is not None:
            pool.discard()

    def close(self) -> None:
        """Close every connection of this process; those in use when they come back."""
        for pool in list(self._pools.values()):
            pool.discard()
