"""A minimal Redis client: how the helpers ask a Redis server whether it is ready, and set it up.

It is not the driver under test on purpose, so that a fault there cannot hide one here. One
connection a call, RESP2, and every wait is bounded by `timeout`.
"""

import socket
import ssl
from io import BufferedReader

Reply = str | int | None | list["Reply"]


class ReplyError(Exception):
    """The server answered with an error; the message is the server's."""


def call(
    address: tuple[str, int],
    *words: str | int,
    password: str | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = 2.0,
) -> Reply:
    """Send one command and return its reply; raises ReplyError or OSError."""
    with socket.create_connection(address, timeout) as plain:
        connection = tls.wrap_socket(plain, server_hostname=address[0]) if tls else plain
        with connection, connection.makefile("rb") as replies:
            if password is not None:
                connection.sendall(_encode("AUTH", password))
                _read(replies)
            connection.sendall(_encode(*words))
            return _read(replies)


def info(text: Reply) -> dict[str, str]:
    """Parse the reply of INFO or CLUSTER INFO."""
    assert isinstance(text, str)
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _encode(*words: str | int) -> bytes:
    parts = [str(word).encode() for word in words]
    body = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%b" % (len(parts), body)


def _read(replies: BufferedReader) -> Reply:
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the server closed the connection")
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise ReplyError(rest)
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == "-1" else replies.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return None if rest == "-1" else [_read(replies) for _ in range(int(rest))]
    raise ReplyError(f"not a RESP2 reply: {line!r}")
