"""The asynchronous colour: one connection to a server for each event loop, shared by all its tasks.

The invariants: nothing of one loop is used by another or by a forked child; callers who wait for the same thing (a
connection, the Cluster's topology) share one attempt, and none of them ends it by giving up.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from ambidex.backends.redis.channel import Channel
from ambidex.backends.redis.client import Client, Shared
from ambidex.backends.redis.dial import dial
from ambidex.backends.redis.errors import late, unreachable
from ambidex.backends.redis.target import Address
from ambidex.backends.redis.topology import Topology
from ambidex.core.runtime import Runtime, remaining
from ambidex.errors import AmbidexError, Unavailable
from ambidex.runtime.loops import PerLoop
from ambidex.runtime.process import reset_after_fork

__all__ = ["AsyncClient"]

T = TypeVar("T")


async def _shared(attempt: asyncio.Task[T], until: float, where: str) -> T:
    """Wait for a task that others wait for, too, at most until the caller's deadline."""
    done, _ = await asyncio.wait((attempt,), timeout=max(0.0, remaining(until)))
    if not done:
        raise late(where, sent=False)
    if attempt.cancelled():
        raise Unavailable(f"the attempt to reach {where} was stopped")
    error = attempt.exception()
    if error is not None:
        raise copy.copy(error) if isinstance(error, AmbidexError) else error
    return attempt.result()


class Node:
    """One server, seen from one loop."""

    def __init__(self, connect: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self._connect, self._loop = connect, loop
        self.channel: Channel | None = None
        self._attempt: asyncio.Task[Channel] | None = None

    async def ready(self, until: float, where: str) -> Channel:
        """Return the connection, waiting for it at most until the caller's deadline.

        All callers share one attempt, and none of them ends it by giving up.
        """
        attempt = self._attempt
        if attempt is None:
            attempt = self._attempt = self._loop.create_task(self._connect())
            attempt.add_done_callback(self._attempted)
        return await _shared(attempt, until, where)

    def _attempted(self, attempt: asyncio.Task[Channel]) -> None:
        self._attempt = None
        if attempt.cancelled() or attempt.exception() is not None:
            return
        channel = attempt.result()
        if channel.open:
            self.channel = channel
            channel.on_end = functools.partial(self._ended, channel)

    def _ended(self, channel: Channel) -> None:
        if self.channel is channel:
            self.channel = None

    def retire(self) -> None:
        """Use a new connection from now on."""
        if self.channel is not None:
            self.channel.retire()

    def close(self) -> None:
        """End everything; in the loop's thread."""
        if self._attempt is not None:
            self._attempt.cancel()
        if self.channel is not None:
            self.channel.close()


class Here:
    """The servers, seen from one loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.nodes: dict[Address, Node] = {}
        self.learning: asyncio.Task[Topology] | None = None

    def learned(self, task: asyncio.Task[Topology]) -> None:
        """Note that the attempt to learn the Cluster's topology has ended."""
        self.learning = None
        if not task.cancelled():
            task.exception()  # mark it retrieved: everybody may have stopped waiting

    def close(self) -> None:
        """End every connection; in the loop's thread."""
        if self.learning is not None:
            self.learning.cancel()
        for node in list(self.nodes.values()):
            node.close()

    def abandon(self) -> None:
        """Close the descriptors of a loop that is closed, or that the parent process runs."""
        for node in list(self.nodes.values()):
            if node.channel is not None:
                node.channel.abandon()


class AsyncClient(Client):
    """Round trips that share connections; serves any number of loops."""

    def __init__(self, shared: Shared, runtime: Runtime) -> None:
        super().__init__(shared, runtime)
        self._heres: PerLoop[Here] = PerLoop(self._arrive, Here.abandon)
        self._every: weakref.WeakSet[Here] = weakref.WeakSet()
        reset_after_fork(self)

    def _arrive(self) -> Here:
        here = Here()
        self._every.add(here)
        return here

    def after_fork(self) -> None:
        for here in list(self._every):
            here.abandon()

    async def _dial(self, address: Address, until: float) -> Channel:
        loop, where = asyncio.get_running_loop(), f"Redis at {address}"
        try:
            async with asyncio.timeout(max(0.0, remaining(until))):
                sock = await dial(address, self.shared.tls)
        except TimeoutError:
            raise late(where, sent=False) from None
        except OSError as error:
            raise unreachable(error, where) from None
        return Channel(sock, where, loop)

    async def _exchange(self, node: Address, packed: bytes, count: int, until: float, write: bool) -> Any:
        here = self._heres.get()
        server = here.nodes.get(node)
        if server is None:
            server = here.nodes[node] = Node(functools.partial(self._join, node), here.loop)
        channel = server.channel
        if channel is None:
            channel = await server.ready(until, self._where(node))
        return await channel.submit(packed, count, until, write)

    async def _refresh(self, until: float) -> Topology:
        here = self._heres.get()
        if here.learning is None:
            here.learning = here.loop.create_task(self._learn(time.monotonic() + self.target.connect_timeout))
            here.learning.add_done_callback(here.learned)
        return await _shared(here.learning, until, f"the Cluster at {self.target.display}")

    async def _join(self, node: Address) -> Channel:
        link = await self._connect(node, time.monotonic() + self.target.connect_timeout)
        assert isinstance(link, Channel)  # noqa: S101  # what _dial returns
        return link

    def _discard(self, node: Address) -> None:
        server = self._heres.get().nodes.get(node)
        if server is not None:
            server.retire()

    def close(self) -> None:
        """Close every connection of this process; those of other loops in their own threads, as soon as they run."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        for loop, here in self._heres.drain():
            if loop is running:
                here.close()
                continue
            try:
                loop.call_soon_threadsafe(here.close)
            except RuntimeError:  # that loop is closed
                here.abandon()
