"""What the fault tests of PostgreSQL share: rounds, private servers, raw drivers for the positive controls."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres.database import Database
from tests.services import postgres
from tests.services.postgres import PostgresServer

LONG = os.environ.get("AMBIDEX_TORTURE", "quick") == "long"


def rounds(quick: int, long: int) -> int:
    """How often, by the environment's AMBIDEX_TORTURE."""
    return long if LONG else quick


@contextmanager
def private_server(**settings: str) -> Iterator[PostgresServer]:
    """A server that this test may hurt."""
    if reason := postgres.unavailable("wheel"):
        pytest.skip(f"postgres: {reason}")
    with PostgresServer("wheel", settings=settings) as server:
        yield server


def database(storage: UnifiedStorage) -> Database:
    """The backend's state, to count its connections."""
    (backend,) = storage._core.every_backend()
    found: Any = getattr(backend.blocking, "_leaf", backend.blocking)
    shared: Database = found._db
    return shared


def terminate_all(url: str) -> int:
    """Kill every other client's backend and wait until they have gone; return how many there were."""
    with psycopg.connect(url, autocommit=True) as admin:
        rows = admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
    return len(rows)


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def took(call: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    start = time.monotonic()
    call()
    return time.monotonic() - start


def run(main: Any) -> Any:
    """asyncio.run, for a coroutine function."""
    return asyncio.run(main())
