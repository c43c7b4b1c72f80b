"""Connections and their pools for event loops; the asynchronous leaf and its batches run through these.

A connection watches its socket for as long as it lives and ends its request from the loop's own callback: a request
costs no task and no change of the selector. The invariant: a connection has at most one request under way, and goes
back to the pool only when that request's whole reply is there. A request whose caller was cancelled is given a moment
to end, because the protocol's state is known to the callback whoever waits; after that, and in a transaction at once,
the connection is closed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import OperationalError, generators
from psycopg.pq.abc import PGconn
from psycopg.waiting import Ready, Wait

from ambidex.backends.postgres.blocking import Expired
from ambidex.backends.postgres.errors import Lost, Refused, from_connect, from_refusal
from ambidex.backends.postgres.greeting import greeting, heed
from ambidex.backends.postgres.load import Load
from ambidex.backends.postgres.server import Server
from ambidex.backends.postgres.session import Session
from ambidex.backends.relational.sql import Row, Statement
from ambidex.errors import PoolTimeout, Unavailable

__all__ = ["AsyncConnection", "AsyncPool", "AsyncPools", "Done", "settle"]

Done = Callable[[list[list[Row]] | None, BaseException | None], None]
"""What a request calls at its end: with its rows, or with what went wrong."""

_GRACE_SECONDS = 0.1


class AsyncConnection:
    """One connection on one loop.

    Args:
        pool: whom to tell of its end.
        session: the protocol's state.
    """

    def __init__(self, pool: AsyncPool, session: Session) -> None:
        self.generation = pool.generation
        self.broken = False
        self.held = False
        self.taken = 0.0
        self._pool = pool
        self._loop = pool.loop
        self._session = session
        self._fd = session.pgconn.socket
        self._done: Done | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._loop.add_reader(self._fd, self._readable)

    @property
    def last_tag(self) -> bytes:
        """What the last statement was, in the server's words."""
        return self._session.last_tag

    @property
    def in_transaction(self) -> bool:
        """True between BEGIN and its end, by what the server said last."""
        return not self.broken and self._session.in_transaction

    def start(self, statements: Sequence[Statement], deadline: float, done: Done) -> None:
        """Send a request; ``done`` is called once, when its reply is there or when there will be none."""
        self._done = done
        self._timer = self._loop.call_later(deadline - time.monotonic(), self._expire)
        try:
            request = self._session.bind(statements)
        except Exception as error:
            self._end(None, error, broken=False)
            return
        try:
            self._session.send(request)
            self._flush()
        except Exception as error:  # a part of it may be on its way
            self._end(None, error, broken=True)

    async def run(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        """Send a request and await its reply.

        Raises:
            Refused: the server refused it.
            Lost: the connection broke.
            Expired: the deadline passed.
        """
        future: asyncio.Future[list[list[Row]]] = self._loop.create_future()
        self.start(statements, deadline, settle(future))
        try:
            return await future
        except asyncio.CancelledError:
            self._abandon_request()
            if future.done() and not future.cancelled():
                future.exception()  # it came in the same moment; nobody will look at it
            raise

    def _abandon_request(self) -> None:
        if self._done is None:
            return
        if self.held:  # in mid-transaction nothing but its end is left; the others have done nothing wrong
            self.close()
            self._end(None, Expired("cancelled"), broken=False)
            return
        self._done = _ignore
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_GRACE_SECONDS, self._expire)

    def _flush(self) -> None:
        clear = self._session.flush()
        if clear is self._writing:
            self._writing = not clear
            if clear:
                self._loop.remove_writer(self._fd)
            else:
                self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        try:
            self._flush()
        except Lost as lost:
            self._end(None, lost, broken=True)

    def _readable(self) -> None:
        session = self._session
        try:
            session.receive()
            if self._done is None:  # a server says nothing unasked, except that it is going
                self._end(None, None, broken=True)
                return
            if not session.complete():
                if self._writing:
                    self._flush()
                return
        except (Lost, Refused) as error:
            self._end(None, error, broken=True)
            return
        try:
            rows = session.reply()
        except Refused as refused:
            self._end(None, refused, broken=refused.fatal)
        except Exception as error:  # a value that cannot be read
            self._end(None, error, broken=True)
        else:
            self._end(rows, None, broken=False)

    def _expire(self) -> None:
        self.close()
        self._end(None, Expired("the deadline passed"), broken=False)

    def _end(self, rows: list[list[Row]] | None, error: BaseException | None, *, broken: bool) -> None:
        """Finish the request under way, give the connection back, then tell who asked."""
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if broken:
            self._pool.lost(self)
        if done is not None:
            if not self.held:
                self._pool.release(self)
            done(rows, error)

    def close(self) -> None:
        """Close it; for good."""
        if self.broken:
            return
        self.broken = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            if self._writing:
                self._loop.remove_writer(self._fd)
        self._session.finish()

    def close_if_idle(self) -> None:
        """Close it unless a request is under way, which has a deadline of its own."""
        if self._done is None:
            self.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""
        self.broken = True
        try:
            os.close(self._fd)
        except OSError:
            pass


def settle(future: asyncio.Future[Any]) -> Done:
    """Return what ends a request by settling a future, unless nobody waits for that any more."""

    def done(rows: list[list[Row]] | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(rows)

    return done


def _ignore(_rows: list[list[Row]] | None, _error: BaseException | None) -> None:
    """End a request that nobody waits for."""


async def _connect(server: Server, deadline: float) -> PGconn:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await _steps(server.conninfo(**await _addresses(server.options.conninfo)))
    except TimeoutError:
        raise Unavailable(f"{server.where} did not accept a connection before the deadline") from None
    except (OperationalError, OSError) as error:
        raise from_connect(error, server.where) from None


async def _addresses(conninfo: dict[str, str]) -> dict[str, str]:
    """Resolve the hosts' names without blocking the loop, as libpq would by itself."""
    hosts = conninfo.get("host", "").split(",")
    if "hostaddr" in conninfo or len(hosts) != 1 or not hosts[0] or hosts[0][0] in "/@" or _is_address(hosts[0]):
        return {}
    try:
        found = await asyncio.get_running_loop().getaddrinfo(hosts[0], None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OperationalError(f"could not translate host name {hosts[0]!r} to address: {error}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return {"hostaddr": ",".join(addresses), "host": ",".join(hosts * len(addresses))}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _steps(conninfo: str) -> PGconn:
    loop = asyncio.get_running_loop()
    steps = generators.connect(conninfo)
    try:
        fd, want = next(steps)
        while True:
            fd, want = steps.send(await _ready(loop, fd, want))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # the generator's result
    finally:
        steps.close()


async def _ready(loop: asyncio.AbstractEventLoop, fd: int, want: Wait) -> Ready:
    future: asyncio.Future[Ready] = loop.create_future()

    def tell(state: Ready) -> None:
        if not future.done():
            future.set_result(state)

    if want & Wait.R:
        loop.add_reader(fd, tell, Ready.R)
    if want & Wait.W:
        loop.add_writer(fd, tell, Ready.W)
    try:
        return await future
    finally:
        loop.remove_reader(fd)
        loop.remove_writer(fd)


class AsyncPool:
    """At most ``pool_size`` connections for one event loop."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.generation = 0
        self.batches: dict[Any, Any] = {}
        self._server = server
        self._size = server.options.pool_size
        self._idle: list[AsyncConnection] = []
        self._all: set[AsyncConnection] = set()
        self._count = 0
        self._waiters: deque[asyncio.Future[AsyncConnection | None]] = deque()
        self._load = Load(self._size)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open_connections(self) -> int:
        """How many connections are open or being opened."""
        return self._count

    def take(self) -> AsyncConnection | None:
        """Return an idle connection without waiting, or None."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        connection.taken = time.monotonic()
        return connection

    async def acquire(self, deadline: float) -> AsyncConnection:
        """Return a connection that nobody else uses.

        Raises:
            PoolTimeout: none came free before the deadline, or none can.
            Unavailable: the server cannot be reached.
        """
        while True:
            found = self.take()
            if found is None:
                if self._count < self._size:
                    self._count += 1
                else:
                    found = await self._wait(deadline)
                if found is None:
                    return await self._make(deadline)
            if not found.broken and found.generation == self.generation:
                found.taken = time.monotonic()
                return found
            self.release(found)

    async def _wait(self, deadline: float) -> AsyncConnection | None:
        left = deadline - time.monotonic()
        if not self._load.can_serve(len(self._waiters), left):
            raise PoolTimeout(
                f"{len(self._waiters)} calls wait for a connection to {self._server.where}, more than can be "
                "served before the deadline; raise pool_size or the timeout, or send fewer at once"
            )
        waiter: asyncio.Future[AsyncConnection | None] = self.loop.create_future()
        self._waiters.append(waiter)
        timer = self.loop.call_later(left, self._refuse, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result())  # it was served and cancelled in the same moment
            raise
        finally:
            timer.cancel()

    def _refuse(self, waiter: asyncio.Future[AsyncConnection | None]) -> None:
        if not waiter.done():
            waiter.set_exception(
                PoolTimeout(
                    f"no connection to {self._server.where} came free before the deadline; "
                    "raise pool_size or the timeout, or send fewer calls at once"
                )
            )

    def _give_back(self, served: AsyncConnection | None) -> None:
        if served is None:
            self._drop_place()
        else:
            self.release(served)

    async def _make(self, deadline: float) -> AsyncConnection:
        made: AsyncConnection | None = None
        try:
            pgconn = await _connect(self._server, deadline)
            made = await self._greet(pgconn, deadline)
        finally:
            if made is None:
                self._drop_place()
        made.taken = time.monotonic()
        return made

    async def _greet(self, pgconn: PGconn, deadline: float) -> AsyncConnection:
        where = self._server.where
        session = Session(pgconn, named=False)
        connection = AsyncConnection(self, session)
        connection.held = True  # a failure here ends it
        self._all.add(connection)
        greeted = False
        try:
            answer = await connection.run(greeting(self._server, pgconn), deadline)
            session.named = heed(self._server, answer[0][0])
            greeted = True
        except (Lost, Expired) as error:
            raise Unavailable(f"{where} accepted a connection and did not answer: {error}") from None
        except Refused as refused:
            raise from_refusal(refused, where) from None
        finally:
            if not greeted:
                self._all.discard(connection)
                connection.close()
        connection.held = False
        return connection

    def _drop_place(self) -> None:
        """Give the place of a connection that is no more to the first who waits, or back."""
        waiter = self._next_waiter()
        if waiter is None:
            self._count -= 1
        else:
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[AsyncConnection | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def release(self, connection: AsyncConnection) -> None:
        """Take a connection back: for the first who waits, else to rest; a broken one is let go."""
        self._load.note(time.monotonic() - connection.taken)
        if connection.broken or connection.generation != self.generation:
            self._retire(connection)
            return
        waiter = self._next_waiter()
        if waiter is None:
            self._idle.append(connection)
        else:
            waiter.set_result(connection)

    def _retire(self, connection: AsyncConnection) -> None:
        connection.close()
        self._all.discard(connection)
        self._drop_place()

    def lost(self, connection: AsyncConnection) -> None:
        """Discard the whole generation of a connection that broke: the others go the same way."""
        connection.close()
        if connection.generation == self.generation:
            self.close()

    def close(self) -> None:
        """Close what is idle now, and the rest when it comes back; usable again at once."""
        self.generation += 1
        idle, self._idle = self._idle, []
        for connection in idle:
            self._retire(connection)

    def spawn(self, work: Any) -> None:
        """Run a coroutine in the background of this loop."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close_all(self) -> None:
        """Close every connection, of a loop that is closed."""
        for connection in list(self._all):
            connection.close()

    def abandon(self) -> None:
        """In a forked child: forget the parent's connections."""
        for connection in list(self._all):
            connection.abandon()


class AsyncPools:
    """The pool of each event loop of this process; that of a closed loop goes when another is made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._guard = threading.Lock()
        self._pools: dict[asyncio.AbstractEventLoop, AsyncPool] = {}

    def get(self) -> AsyncPool:
        """Return the running loop's pool."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            with self._guard:
                self._sweep()
                pool = self._pools[loop] = AsyncPool(self._server, loop)
        return pool

    def _sweep(self) -> None:
        for loop in [loop for loop in self._pools if loop.is_closed()]:
            self._pools.pop(loop).close_all()

    def close(self) -> None:
        """Close the connections of every loop; of those that run in other threads, by a call into them."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        with self._guard:
            self._sweep()
            pools = list(self._pools.items())
        for loop, pool in pools:
            if loop is here or not loop.is_running():
                pool.close()
            else:
                try:
                    loop.call_soon_threadsafe(pool.close)
                except RuntimeError:
                    continue  # it was closed meanwhile, and is swept later

    def abandon(self) -> None:
        """In a forked child: forget the parent's pools."""
        for pool in list(self._pools.values()):
            pool.abandon()
        self._guard = threading.Lock()
        self._pools = {}
