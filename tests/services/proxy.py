"""A TCP proxy that breaks the network on command, for the fault rows of sync and async tests alike.

It runs an event loop in a thread of its own and knows no protocol. Every control has taken effect
when it returns, whichever thread calls. A lost reply is lost for certain: the request reached the
server, which answered it and ended the connection, before the client sees the reset.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.services.certificates import Certificates
from tests.services.handle import Flavour, Service
from tests.services.links import Faults, Link, Loss, abort
from tests.services.ports import HOST

R = TypeVar("R")


class Proxy(Service):
    """Stands before the server at `upstream`; talk to `url`, which is that URL with its own port.

    With `tls`, clients speak TLS to the proxy (redis:// becomes rediss://) and the server need not.
    A forked child inherits the client sockets: while it lives, a reset does not reach the client.
    """

    kind = "proxy"
    flavour: Flavour = "wheel"
    host = HOST

    def __init__(self, upstream: str, *, tls: Certificates | None = None) -> None:
        self._upstream = urlsplit(upstream)
        self._tls = tls
        self._owner = os.getpid()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._faults = Faults()
        self._links: set[Link] = set()
        self._accepted = 0
        self._port = 0

    @property
    def port(self) -> int:
        assert self._port, "the proxy was never started"
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        user, at, _ = self._upstream.netloc.rpartition("@")
        scheme = self._upstream.scheme
        if self._tls is not None and scheme == "redis":
            scheme = "rediss"
        netloc = f"{user}{at}{self.host}:{self.port}"
        return self._upstream._replace(scheme=scheme, netloc=netloc).geturl()

    @property
    def connections(self) -> int:
        """Client connections that are open now."""
        return len(self._links)

    @property
    def accepted(self) -> int:
        """Client connections that were ever accepted."""
        return self._accepted

    @property
    def lost(self) -> int:
        """Replies lost so far."""
        return self._faults.lost

    # --- faults ---

    def delay(self, *, requests: float = 0.0, replies: float = 0.0) -> None:
        """Delay each direction by so many seconds: a latency, which leaves throughput alone."""

        async def apply() -> None:
            self._faults.requests.delay, self._faults.replies.delay = requests, replies

        self._in_loop(apply())

    def freeze(self, *, requests: bool = True, replies: bool = True) -> None:
        """Let nothing pass, in one direction or both; connections stay open and are accepted."""

        async def apply() -> None:
            ways = ((self._faults.requests, requests), (self._faults.replies, replies))
            for way, frozen in ways:
                (way.gate.clear if frozen else way.gate.set)()

        self._in_loop(apply())

    def thaw(self) -> None:
        """End `freeze`; what was held back passes now, in order."""
        self.freeze(requests=False, replies=False)

    def reset_all(self) -> int:
        """Reset (RST) every open connection at once; return how many there were."""

        async def apply() -> int:
            links = list(self._links)
            for link in links:
                link.reset()
            await asyncio.sleep(0)  # asyncio closes the sockets in its next round
            return len(links)

        return self._in_loop(apply())

    def lose_replies(self, times: int | None = 1, *, match: bytes = b"", every: int = 1) -> None:
        """Reset the client *after* the server executed its request, `times` times (None: always).

        Counts the segments from clients that contain `match`, and takes each `every`-th of them;
        choose a command's name, so that handshakes do not count. Replaces earlier orders. A request
        that is larger than one segment and pipelined behind others may be cut off instead.
        """

        async def apply() -> None:
            self._faults.loss = Loss(match, times, every)

        self._in_loop(apply())

    def heal(self) -> None:
        """Take back all faults: no delay, no freeze, no loss. Connections and counters stay."""

        async def apply() -> None:
            self._faults.loss = None

        self.delay()
        self.thaw()
        self._in_loop(apply())

    # --- life ---

    def start(self) -> Self:
        if self._thread is None:
            ready = threading.Event()
            failure: list[BaseException] = []
            self._thread = threading.Thread(target=self._run, args=(ready, failure), name="proxy", daemon=True)
            self._thread.start()
            ready.wait()
            if failure:
                self._thread = None
                raise failure[0]
        return self

    def stop(self) -> None:
        """Reset what is open and end the thread. Stopping twice is fine."""
        if self._thread is None or self._owner != os.getpid():
            return
        assert self._loop is not None
        assert self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._thread = self._loop = None

    def _in_loop(self, control: Coroutine[Any, Any, R]) -> R:
        assert self._loop is not None, "the proxy is not running"
        return asyncio.run_coroutine_threadsafe(control, self._loop).result(10)

    def _run(self, ready: threading.Event, failure: list[BaseException]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._faults.requests.gate.set()
        self._faults.replies.gate.set()
        context = self._tls.server_context() if self._tls else None
        server = await asyncio.start_server(self._accept, self.host, 0, ssl=context, backlog=1024)
        self._port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._ended.wait()
        server.close()
        links = list(self._links)
        for link in links:
            link.reset()
        await asyncio.gather(*(link.ended.wait() for link in links))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted += 1
        host, port = self._upstream.hostname or HOST, self._upstream.port
        try:
            server = await asyncio.open_connection(host, port)
        except OSError:  # nobody there: the client's connection ends the same way
            abort(writer.get_extra_info("socket"), writer)
            return
        link = Link((reader, writer), server, self._faults)
        self._links.add(link)
        with contextlib.suppress(asyncio.CancelledError):  # reset() ends the link that way
            try:
                await link.run()
            finally:
                self._links.discard(link)
                link.ended.set()
