"""A bounded pool of blocking connections to one server; :mod:`ambidex.backends.redis.blocking` keeps one a server.

The invariants: a connection that did not complete its exchange is never given to another caller; callers who find no
free connection are served in the order in which they came, or refused when their time is over; after the first broken
connection no other of its generation is used again.
"""

from __future__ import annotations

import select
import socket
import threading
import time
import weakref
from collections import deque
from typing import Any

import hiredis

from ambidex.backends.redis.errors import broken, late
from ambidex.backends.redis.wire import NOTHING, Push, new_reader
from ambidex.core.runtime import remaining
from ambidex.errors import PoolTimeout

__all__ = ["Connection", "Pool"]

_READ = 64 * 1024
_TRUSTED = 0.005
"""Seconds after which an unused connection is looked at before it is used again: its server may have closed it."""


class Connection:
    """One socket with its parser."""

    def __init__(self, sock: socket.socket, where: str) -> None:
        self._sock, self._where = sock, where
        self._reader = new_reader()
        self._buffer = bytearray(_READ)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.generation = 0
        self.used = time.monotonic()
        self.open = True
        weakref.finalize(self, sock.close)  # one that is only forgotten closes quietly

    def close(self) -> None:
        self.open = False
        self._sock.close()

    def fresh(self) -> bool:
        """Tell whether it can be used, as far as this side can know: nothing may have come unasked."""
        now = time.monotonic()
        return now - self.used < _TRUSTED or not self._poll.poll(0)

    async def request(self, packed: bytes, count: int, until: float, *, write: bool) -> Any:
        return self.call(packed, count, until, write)

    def call(self, packed: bytes, count: int, until: float, write: bool) -> Any:
        """Send and receive. Whatever ends this before its last reply closes the connection."""
        sock, sent, done = self._sock, False, False
        left = until - time.monotonic()
        if left <= 0:
            raise late(self._where, sent=False)
        try:
            sock.settimeout(left)
            sent = True
            sock.sendall(packed)
            if len(packed) > _READ:  # sending may have taken a while
                self._limit(until)
            reply = self._receive(count, until)
            done = True
        except TimeoutError:
            raise late(self._where, sent=sent) from None
        except (OSError, ValueError, hiredis.HiredisError) as error:
            raise broken(error, self._where, sent=sent, write=write) from None
        finally:
            if done:
                self.used = time.monotonic()
            else:
                self.close()
        return reply

    def _limit(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)

    def _receive(self, count: int, until: float) -> Any:
        reader, sock, buffer, replies = self._reader, self._sock, self._buffer, []
        while True:
            size = sock.recv_into(buffer)
            if not size:
                raise ConnectionResetError("the server closed it")
            reader.feed(buffer, 0, size)  # type: ignore[arg-type]  # any buffer will do
            while (reply := reader.gets()) is not NOTHING:
                if type(reply) is Push:
                    continue
                if count == 1:
                    return reply
                replies.append(reply)
                if len(replies) == count:
                    return replies
            self._limit(until)


class _Ticket:
    """A place in the queue; ``granted`` is set under the pool's lock."""

    __slots__ = ("connection", "event", "granted")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.granted = False
        self.connection: Connection | None = None


class Pool:
    """The connections to one server. A permit is either a connection, or None: the right to make one."""

    def __init__(self, size: int, where: str) -> None:
        self._where = where
        self._guard = threading.Lock()
        self._free = size
        self._idle: list[Connection] = []
        self._queue: deque[_Ticket] = deque()
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.generation = 0

    def take(self, until: float) -> Connection | None:
        """Return a permit, waiting in turn for it.

        Raises:
            PoolTimeout: none came free in time.
        """
        with self._guard:
            if not self._queue:
                while self._idle:
                    connection = self._idle.pop()
                    if connection.generation == self.generation and connection.fresh():
                        return connection
                    connection.close()
                    self._free += 1
                if self._free:
                    self._free -= 1
                    return None
            ticket = _Ticket()
            self._queue.append(ticket)
        try:
            ticket.event.wait(max(remaining(until), 0.0))
        except BaseException:
            if not self._leave(ticket):
                self.give(ticket.connection)
            raise
        if not ticket.granted and self._leave(ticket):
            raise PoolTimeout(
                f"no connection to {self._where} came free before the deadline; raise ?pool_size= or call less at once"
            )
        given = ticket.connection
        if given is None or (given.generation == self.generation and given.fresh()):
            return given
        given.close()
        return None

    def made(self, connection: Connection, generation: int) -> None:
        """Note a connection that was made with a permit taken in ``generation``."""
        connection.generation = generation
        self._all.add(connection)

    def give(self, connection: Connection | None) -> None:
        """Return a permit: a connection that works, or None."""
        if connection is not None and (not connection.open or connection.generation != self.generation):
            connection.close()
            connection = None
        with self._guard:
            if self._queue:
                ticket = self._queue.popleft()
                ticket.connection, ticket.granted = connection, True
                ticket.event.set()
            elif connection is None:
                self._free += 1
            else:
                self._idle.append(connection)

    def _leave(self, ticket: _Ticket) -> bool:
        """Give up waiting; False where the permit came in the same moment."""
        with self._guard:
            if not ticket.granted:
                self._queue.remove(ticket)
                return True
        return False

    def discard(self) -> None:
        """End this generation: unused connections now, the others when they come back."""
        with self._guard:
            self.generation += 1
            idle, self._idle = self._idle, []
            self._free += len(idle)
        for connection in idle:
            connection.close()

    def abandon(self) -> None:
        """Close what a forked child inherited; nothing is sent, so the parent's connections live on."""
        for connection in list(self._all):
            connection.close()
