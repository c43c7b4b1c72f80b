"""One asynchronous connection and the calls that wait on it; :mod:`ambidex.backends.redis.aio` makes these.

Calls queued in one tick of the loop are written together, and their replies are read together. The invariants: replies
are matched to calls by order alone, so a connection on which the order could be in doubt is closed; a caller that is
cancelled or out of time leaves its place in the order behind, and its reply is dropped; a connection that has been
silent while somebody's time ran out gets no new calls, and is closed when nobody waits on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any

import hiredis

from ambidex.backends.redis.errors import broken, late
from ambidex.backends.redis.wire import NOTHING, Push, new_reader
from ambidex.errors import Overloaded, Unavailable

__all__ = ["Channel"]

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
