"""The server that a fault test of several backends breaks, by the backend's name; the tests' fixtures call this."""

import pytest

from tests.services import PostgresServer, RedisOptions, RedisServer, postgres
from tests.services.handle import Server
from tests.torture.redis_support import server_flavour

DURABLE = RedisOptions(appendonly=True, appendfsync="always")
"""Redis keeps what it has acknowledged when it is killed."""


def server_of(backend: str, options: RedisOptions | None = None) -> Server:
    """A server that is not started yet; skips where it cannot run.

    Args:
        backend: "redis" or "postgres".
        options: of Redis.
    """
    if backend == "redis":
        return RedisServer(server_flavour(), options=options)
    if reason := postgres.unavailable("wheel"):
        pytest.skip(f"postgres: {reason}")
    return PostgresServer("wheel")
