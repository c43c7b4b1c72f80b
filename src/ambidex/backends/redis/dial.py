"""Making an asynchronous connection, TLS included; :mod:`ambidex.backends.redis.aio` calls :func:`dial`.

Plain sockets rather than asyncio's transports: closing one is then immediate and possible without its loop, which a
deadline, a closed loop and a forked child need. The invariant: whatever ends an attempt closes its socket.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from ambidex.backends.redis.target import Address

__all__ = ["dial"]


async def dial(address: Address, context: ssl.SSLContext | None) -> socket.socket:
    """Return a connected, non-blocking socket; raise OSError."""
    loop = asyncio.get_running_loop()
    sock = await _connected(loop, address)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if context is not None:
            sock = await _secured(loop, context, sock, address.host)
    except BaseException:
        sock.close()
        raise
    return sock


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
