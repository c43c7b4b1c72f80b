"""Connections and their pool for threads; the blocking leaf runs everything on the calling thread through these.

The invariant: a connection is in the hands of one thread, or idle in the pool, or closed. One on which anything went
wrong in the middle of a request is closed, never reused. Threads that find none free are served in the order in which
they came, each within its own deadline.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence

from psycopg import OperationalError, generators
from psycopg.pq.abc import PGconn
from psycopg.waiting import Ready, Wait

from ambidex.backends.postgres.errors import Lost, Refused, from_connect, from_refusal
from ambidex.backends.postgres.greeting import greeting, heed
from ambidex.backends.postgres.load import Load
from ambidex.backends.postgres.server import Server
from ambidex.backends.postgres.session import Session
from ambidex.backends.relational.sql import Row, Statement
from ambidex.errors import DeadlineExceeded, PoolTimeout, Unavailable

__all__ = ["BlockingConnection", "BlockingPool", "Expired"]

_IN, _OUT = select.POLLIN, select.POLLOUT


class Expired(Exception):
    """The deadline passed while a reply was awaited; the connection was closed."""


class BlockingConnection:
    """One connection, used by one thread at a time."""

    def __init__(self, server: Server, generation: int, deadline: float) -> None:
        self.generation = generation
        self.broken = False
        self.taken = 0.0
        pgconn = _connect(server, deadline)
        self._poll = select.poll()
        self._poll.register(pgconn.socket, _IN)
        self._fd = pgconn.socket
        self._session = Session(pgconn, named=False)
        try:
            question = greeting(server, pgconn)
            self._session.named = heed(server, self.run(question, deadline)[0][0])
        except (Lost, Expired) as error:
            raise Unavailable(f"{server.where} accepted a connection and did not answer: {error}") from None
        except Refused as refused:
            self.close()
            raise from_refusal(refused, server.where) from None

    @property
    def last_tag(self) -> bytes:
        """What the last statement was, in the server's words."""
        return self._session.last_tag

    @property
    def in_transaction(self) -> bool:
        """True between BEGIN and its end, by what the server said last."""
        return not self.broken and self._session.in_transaction

    def run(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        """Send a request and wait for its whole reply.

        Raises:
            Refused: the server refused it.
            Lost: the connection broke.
            Expired: the deadline passed.
        """
        session = self._session
        request = session.bind(statements)
        complete = False
        try:
            session.send(request)
            while not session.flush():
                self._wait(_IN | _OUT, deadline)
            while not session.complete():
                self._wait(_IN, deadline)
            complete = True
        finally:
            if not complete:  # whatever it was, Ctrl-C included: what comes next on this connection is not known
                self.close()
        return session.reply()

    def _wait(self, events: int, deadline: float) -> None:
        if events != _IN:
            self._poll.modify(self._fd, events)
        try:
            ready = self._poll.poll(max(0.0, (deadline - time.monotonic()) * 1000))
        finally:
            if events != _IN:
                self._poll.modify(self._fd, _IN)
        if not ready:
            raise Expired("the deadline passed")
        if ready[0][1] & ~_OUT:
            self._session.receive()

    @property
    def lasting(self) -> bool:
        """Whether the server's end stays the same from one request to the next: no pooler stands between."""
        return self._session.named

    def fileno(self) -> int:
        """Return the socket's number."""
        return self._fd

    def healthy(self) -> bool:
        """Tell whether an idle connection still stands, as far as this end knows; costs no round trip.

        A server says nothing unasked, except that it is going.
        """
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close it; for good."""
        self.broken = True
        self._session.finish()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""
        self.broken = True
        try:
            os.close(self._fd)
        except OSError:
            pass


def _connect(server: Server, deadline: float) -> PGconn:
    steps = generators.connect(server.conninfo())
    try:
        fd, want = next(steps)
        while True:
            poll = select.poll()
            poll.register(fd, (_IN if want & Wait.R else 0) | (_OUT if want & Wait.W else 0))
            left = deadline - time.monotonic()
            ready = poll.poll(max(0.0, left * 1000))
            if not ready:
                steps.close()
                raise Unavailable(f"{server.where} did not accept a connection before the deadline")
            event = ready[0][1]
            state = (Ready.R if event & ~_OUT else 0) | (Ready.W if event & (_OUT | select.POLLERR) else 0)
            fd, want = steps.send(Ready(state))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # the generator's result
    except OperationalError as error:
        raise from_connect(error, server.where) from None


class _Waiter:
    """A thread in the queue: told by a lock, given a connection, or None for the right to make one."""

    __slots__ = ("connection", "told")

    def __init__(self) -> None:
        self.told = threading.Lock()
        self.told.acquire()
        self.connection: BlockingConnection | None = None


class BlockingPool:
    """At most ``pool_size`` connections for all threads of this process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._size = server.options.pool_size
        self.reset()

    def reset(self) -> None:
        """Start anew with nothing open."""
        self._guard = threading.Lock()
        self._idle: list[BlockingConnection] = []
        self._all: set[BlockingConnection] = set()
        self._count = 0
        self._waiters: deque[_Waiter] = deque()
        self._generation = 0
        self._load = Load(self._size)

    @property
    def open_connections(self) -> int:
        """How many connections are open or being opened."""
        return self._count

    def acquire(self, deadline: float) -> BlockingConnection:
        """Return a connection that nobody else uses.

        Raises:
            PoolTimeout: none came free before the deadline, or none can.
            Unavailable: the server cannot be reached.
        """
        while True:
            found, waiter = self._take_or_queue(deadline)
            if waiter is not None:
                found = self._wait(waiter, deadline)
            if found is None:
                return self._make(deadline)
            if found.generation == self._generation and found.healthy():
                found.taken = time.monotonic()
                return found
            self.lost(found)
            self.release(found)

    def _take_or_queue(self, deadline: float) -> tuple[BlockingConnection | None, _Waiter | None]:
        with self._guard:
            if self._idle:
                return self._idle.pop(), None
            if self._count < self._size:
                self._count += 1
                return None, None
            if not self._load.can_serve(len(self._waiters), deadline - time.monotonic()):
                raise PoolTimeout(
                    f"{len(self._waiters)} calls wait for a connection to {self._server.where}, more than can be "
                    "served before the deadline; raise pool_size or the timeout, or send fewer at once"
                )
            waiter = _Waiter()
            self._waiters.append(waiter)
            return None, waiter

    def _wait(self, waiter: _Waiter, deadline: float) -> BlockingConnection | None:
        served = False
        try:
            served = waiter.told.acquire(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            if not served:
                self._give_up(waiter)
        if not served:
            raise PoolTimeout(
                f"no connection to {self._server.where} came free before the deadline; "
                "raise pool_size or the timeout, or send fewer calls at once"
            )
        return waiter.connection

    def _give_up(self, waiter: _Waiter) -> None:
        with self._guard:
            try:
                self._waiters.remove(waiter)
                return
            except ValueError:
                pass  # it was served a moment too late
        if waiter.connection is None:
            self._drop_place()
        else:
            self.release(waiter.connection)

    def _make(self, deadline: float) -> BlockingConnection:
        made: BlockingConnection | None = None
        try:
            made = BlockingConnection(self._server, self._generation, deadline)
        finally:
            if made is None:
                self._drop_place()
        made.taken = time.monotonic()
        with self._guard:
            self._all.add(made)
        return made

    def _drop_place(self) -> None:
        """Give the place of a connection that is no more to the first who waits, or back."""
        with self._guard:
            if self._waiters:
                self._waiters.popleft().told.release()
            else:
                self._count -= 1

    def release(self, connection: BlockingConnection) -> None:
        """Take a connection back: for the first who waits, else to rest; a broken one is let go."""
        with self._guard:
            self._load.note(time.monotonic() - connection.taken)
            if connection.generation == self._generation and not connection.broken:
                if self._waiters:
                    waiter = self._waiters.popleft()
                    waiter.connection = connection
                    waiter.told.release()
                else:
                    self._idle.append(connection)
                return
            self._all.discard(connection)
        connection.close()
        self._drop_place()

    def lost(self, connection: BlockingConnection) -> None:
        """Discard the whole generation of a connection that broke: the others go the same way."""
        connection.close()
        with self._guard:
            if connection.generation != self._generation:
                return
            idle = self._next_generation()
        for other in idle:
            self._retire(other)

    def _next_generation(self) -> list[BlockingConnection]:
        self._generation += 1
        idle, self._idle = self._idle, []
        return idle

    def _retire(self, connection: BlockingConnection) -> None:
        with self._guard:
            self._all.discard(connection)
        connection.close()
        self._drop_place()

    def close(self) -> None:
        """Close what is idle now, and the rest when it comes back; usable again at once."""
        with self._guard:
            idle = self._next_generation()
        for connection in idle:
            self._retire(connection)

    def abandon(self) -> None:
        """In a forked child: forget the parent's connections."""
        for connection in list(self._all):
            connection.abandon()
        self.reset()


def expired(where: str, *, write: bool) -> DeadlineExceeded:
    """Return the error for a call whose deadline passed while the server was at work."""
    return DeadlineExceeded(
        f"the deadline passed while {where} worked on a {'write' if write else 'read'}; its connection was closed",
        applied="unknown" if write else "no",
    )
