"""The asynchronous colour: one connection to a server for each event loop, shared by all its tasks.

Commands issued in one tick of the loop are written together and their replies read together, which is where the speed
comes from; each caller waits on a future of its own. The invariants: replies are matched to callers by order alone, so
a connection on which the order could be in doubt is closed; a caller that is cancelled or out of time leaves its
place in the order behind, and its reply is dropped; a connection that has been silent while somebody's time ran out
gets no new commands, and is closed when nobody waits on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import hiredis

from ambidex.backends.redis.client import Client, Shared
from ambidex.backends.redis.errors import broken, late, unreachable
from ambidex.backends.redis.target import Address
from ambidex.backends.redis.topology import Topology
from ambidex.backends.redis.wire import NOTHING, Push, new_reader
from ambidex.core.runtime import Runtime, remaining
from ambidex.errors import AmbidexError, Overloaded, Unavailable
from ambidex.runtime.loops import PerLoop
from ambidex.runtime.process import reset_after_fork

__all__ = ["AsyncClient"]

T = TypeVar("T")

_READ = 128 * 1024
_MOST_WAITING = 100_000
_SILENT = 0.5
"""Seconds without any reply after which a connection on which somebody's time ran out is taken out of use."""

_NEVER = float("inf")


class _Call:
    """One caller's place in the order."""

    __slots__ = ("count", "future", "packed", "replies", "sent", "until", "write")

    def __init__(self, future: asyncio.Future[Any], packed: bytes, count: int, until: float, write: bool) -> None:
        self.future, self.packed, self.count, self.until, self.write = future, packed, count, until, write
        self.sent = 0.0
        self.replies: list[Any] = []


class Channel:
    """One connection and the calls that wait on it; used by its loop's thread only."""

    def __init__(self, sock: socket.socket, where: str, loop: asyncio.AbstractEventLoop) -> None:
        self._sock, self._where, self._loop = sock, where, loop
        self._reader = new_reader()
        self._gets, self._feed = self._reader.gets, self._reader.feed
        self._buffer = bytearray(_READ)
        self._secure = isinstance(sock, ssl.SSLSocket)
        self._queue: list[_Call] = []  # not yet written
        self._waiting: deque[_Call] = deque()  # written, in the order of their replies
        self._unsent = memoryview(b"")
        self._flushing = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = _NEVER
        self._heard = time.monotonic()
        self.open = True
        self.retired = False
        self.on_end: Callable[[], None] | None = None
        weakref.finalize(self, sock.close)  # one that is only forgotten closes quietly
        loop.add_reader(sock.fileno(), self._readable)

    # ------------------------------------------------------------ calling

    async def request(self, packed: bytes, count: int, until: float, *, write: bool) -> Any:
        return await self.submit(packed, count, until, write)

    def submit(self, packed: bytes, count: int, until: float, write: bool) -> asyncio.Future[Any]:
        """Queue commands; the future is for their reply, or the list of their replies where there are several."""
        if not self.open:
            raise Unavailable(f"the connection to {self._where} ended")
        future = self._loop.create_future()
        call = _Call(future, packed, count, until, write)
        if until < self._alarm_at:
            self._set_alarm(until)
        queue = self._queue
        queue.append(call)
        if not self._flushing:
            if self._waiting:
                if len(queue) + len(self._waiting) > _MOST_WAITING:
                    queue.pop()
                    raise Overloaded(f"{_MOST_WAITING:,} calls wait for {self._where} already")
                self._flushing = True
                self._loop.call_soon(self._flush)
            else:  # nobody to share a write with: the answer comes one tick earlier
                self._flush()
        elif len(queue) + len(self._waiting) > _MOST_WAITING:
            queue.pop()
            raise Overloaded(f"{_MOST_WAITING:,} calls wait for {self._where} already")
        return future

    def _flush(self) -> None:
        """Write what is queued, leaving out what nobody wants any more."""
        self._flushing = False
        if self._unsent or not self.open:
            return
        now = time.monotonic()
        calls = [call for call in self._queue if not call.future.done()]
        self._queue.clear()
        if not calls:
            return
        for call in calls:
            call.sent = now
        self._waiting.extend(calls)
        data = calls[0].packed if len(calls) == 1 else b"".join([call.packed for call in calls])
        for call in calls:
            call.packed = b""
        self._write(memoryview(data))

    def _write(self, data: memoryview) -> None:
        was_waiting = bool(self._unsent)
        try:
            while data:
                data = data[self._sock.send(data) :]
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self._end(error)
            return
        self._unsent = data
        if data and not was_waiting:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        elif was_waiting and not data:
            self._loop.remove_writer(self._sock.fileno())

    def _writable(self) -> None:
        self._write(self._unsent)
        if not self._unsent:
            self._flush()

    # ------------------------------------------------------------ receiving

    def _readable(self) -> None:
        try:
            while True:
                size = self._sock.recv_into(self._buffer)
                if not size:
                    self._end("the server closed it")
                    return
                self._heard = time.monotonic()
                self._feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer will do
                self._deliver()
                if not self._secure or not self.open:  # TLS may hold more than the socket tells
                    return
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (OSError, hiredis.HiredisError, LookupError) as error:
            self._end(error)

    def _deliver(self) -> None:
        gets, waiting = self._gets, self._waiting
        while (reply := gets()) is not NOTHING:
            if type(reply) is Push:
                continue
            call = waiting[0]
            if call.count == 1:
                waiting.popleft()
            else:
                call.replies.append(reply)
                if len(call.replies) < call.count:
                    continue
                waiting.popleft()
                reply = call.replies
            future = call.future
            if not future.done():
                future.set_result(reply)
        if self.retired and not waiting:
            self._end("it was silent")

    # ------------------------------------------------------------ ending

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_later(max(0.0, at - time.monotonic()), self._ring)

    def _ring(self) -> None:
        """End the calls whose time is over."""
        now, following, missed = time.monotonic(), _NEVER, 0.0
        wanted = False
        for call in chain(self._waiting, self._queue):
            if call.future.done():
                continue
            if call.until <= now:
                call.future.set_exception(late(self._where, sent=call.sent > 0))
                missed = missed or call.sent
            else:
                wanted = True
                following = min(following, call.until)
        self._alarm, self._alarm_at = None, _NEVER
        if missed and now - max(self._heard, self._waiting[0].sent) >= _SILENT:
            self.retire()
        if self.retired and not wanted:
            self._end("it was silent")
        elif following < _NEVER:
            self._set_alarm(following)

    def retire(self) -> None:
        """Take no new calls; those that wait keep their chance until their own time is over."""
        if self.open and not self.retired:
            self.retired = True
            if self.on_end is not None:
                self.on_end()
            if not self._waiting and not self._queue:
                self._end("it is not used any more")

    def _end(self, why: BaseException | str) -> None:
        """Close, and tell everybody who still waits."""
        if not self.open:
            return
        self.open = False
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # the loop may be closed already
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
        if self._alarm is not None:
            self._alarm.cancel()
        self._sock.close()
        for call in chain(self._waiting, self._queue):
            if not call.future.done():
                call.future.set_exception(broken(why, self._where, sent=call.sent > 0, write=call.write))
        self._waiting.clear()
        self._queue.clear()
        if self.on_end is not None:
            self.on_end()

    def close(self) -> None:
        """Close; to be called in the loop's thread."""
        self._end("it was closed on this side")

    def abandon(self) -> None:
        """Close only the descriptor, for a loop that will not run again in this process.

        The loop is not told: its selector may be one that a forked child shares with its parent.
        """
        self.open = False
        self._sock.close()


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
                sock = await _connected(loop, address)
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    if self.shared.tls is not None:
                        sock = await _secured(loop, self.shared.tls, sock, address.host)
                except BaseException:
                    sock.close()
                    raise
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


async def _connected(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    """Return a connected socket; the addresses of a name are tried in order."""
    problem: OSError | None = None
    for family, kind, protocol, _, place in await _resolved(loop, address):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, place)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            problem = error
            continue
        return sock
    raise problem or OSError(f"{address.host} has no address")


async def _resolved(loop: asyncio.AbstractEventLoop, address: Address) -> Any:
    try:
        return socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:  # a name: ask without holding up the loop
        return await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)


async def _secured(
    loop: asyncio.AbstractEventLoop, context: ssl.SSLContext, sock: socket.socket, host: str
) -> ssl.SSLSocket:
    """Return the socket after the TLS handshake."""
    secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                await _event(loop.add_reader, loop.remove_reader, secure.fileno())
            except ssl.SSLWantWriteError:
                await _event(loop.add_writer, loop.remove_writer, secure.fileno())
            else:
                return secure
    except BaseException:
        secure.close()
        raise


async def _event(add: Callable[..., Any], remove: Callable[[int], Any], descriptor: int) -> None:
    """Wait until a descriptor is ready."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    add(descriptor, wake)
    try:
        await future
    finally:
        remove(descriptor)
