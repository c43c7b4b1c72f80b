"""The connections inside `proxy.Proxy`: bytes pass between client and server under its faults.

Lives in the proxy's event loop alone. Each direction keeps its order. A link ends as a whole: a
reset on one side resets the other, so no fault is hidden from the client by half-open sockets.
"""

import asyncio
import asyncio.trsock
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

_CHUNK = 65_536
_BACKLOG = 64  # chunks under way in one direction before its sender is held back
_DRAIN_SECONDS = 10.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Direction:
    """What befalls one direction of all links: a `delay` in seconds; nothing passes a shut gate."""

    delay: float = 0.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Loss:
    """Which requests lose their reply: each `every`-th that contains `match`, `times` times."""

    match: bytes
    times: int | None
    every: int
    seen: int = 0

    def takes(self, request: bytes) -> bool:
        """Count this request, and say whether its reply is to be lost."""
        if self.times == 0 or self.match not in request:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Faults:
    """The faults in force, and a counter of the replies lost."""

    requests: Direction = field(default_factory=Direction)
    replies: Direction = field(default_factory=Direction)
    loss: Loss | None = None
    lost: int = 0


class _Ended(Exception):
    """The link is reset; unwinds its tasks."""


class Link:
    """One client connection and its twin to the server; `run()` returns when both have ended."""

    def __init__(self, client: Streams, server: Streams, faults: Faults) -> None:
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._faults = faults
        # Asked for now: a TLS transport that was closed since no longer tells its socket.
        self._sockets = [client[1].get_extra_info("socket"), server[1].get_extra_info("socket")]
        self._losing = False
        self._half_closed = False
        self._task = asyncio.current_task()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Pass bytes both ways until each side has ended, or one was reset."""
        faults = self._faults
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._from_client, faults.requests, self._send_request))
                group.create_task(self._pump(self._from_server, faults.replies, self._send_reply))
        except* (OSError, _Ended):
            self._abort()
        finally:
            self._to_client.close()
            self._to_server.close()

    def reset(self) -> None:
        """RST both sides now, whatever is still under way."""
        self._abort()
        if self._task is not None:
            self._task.cancel()

    def _abort(self) -> None:
        for own, writer in zip(self._sockets, (self._to_client, self._to_server), strict=True):
            abort(own, writer)

    async def _pump(self, reader: asyncio.StreamReader, way: Direction, send: Callable[[bytes], None]) -> None:
        # Reading and sending are two tasks, for a delay must not hold back what comes later: each
        # chunk is due `delay` after *its* arrival.
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_BACKLOG)
        loop = asyncio.get_running_loop()

        async def receive() -> None:
            data = b"-"
            while data:  # the empty chunk, which is the end, is passed on as well
                data = await reader.read(_CHUNK)
                if self._losing and reader is self._from_server:
                    await self._lose(data)
                await queue.put((loop.time() + way.delay, data))

        async def forward() -> None:
            data = b"-"
            while data:
                due, data = await queue.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                await way.gate.wait()
                send(data)
                await self._drain(reader)

        async with asyncio.TaskGroup() as group:
            group.create_task(receive())
            group.create_task(forward())

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        await (self._to_server if reader is self._from_client else self._to_client).drain()

    def _send_request(self, data: bytes) -> None:
        if self._half_closed:
            return  # sent after the request whose reply is being lost: never reaches the server
        if not data:
            self._half_closed = True
            self._to_server.write_eof()
            return
        if self._faults.loss is not None and self._faults.loss.takes(data):
            self._losing = True
        self._to_server.write(data)

    def _send_reply(self, data: bytes) -> None:
        if data:
            self._to_client.write(data)
        else:
            self._to_client.close()  # both Redis and PostgreSQL end a session in both directions

    async def _lose(self, reply: bytes) -> None:
        """Let the server finish all that it was sent, then reset the client."""
        # This reply may belong to an earlier, pipelined request. The end of our sending side makes
        # the server work off what it has and then close, which proves the execution.
        if reply and not self._half_closed:
            self._half_closed = True
            self._to_server.write_eof()
        async with asyncio.timeout(_DRAIN_SECONDS):
            while reply:
                reply = await self._from_server.read(_CHUNK)
        self._faults.lost += 1
        self._abort()
        raise _Ended


def abort(own: asyncio.trsock.TransportSocket, writer: asyncio.StreamWriter) -> None:
    """Close so that the peer receives RST, not FIN; unsent bytes are dropped."""
    with contextlib.suppress(OSError):  # already closed
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
