"""The state machine of repositories at length: backends give what the memory backend gives, call by call.

The contract runs its short form on every backend. Here each mode of each backend makes 25,000 calls in the long form,
and says how many it made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from ambidex.testing.contract import Mode, Subject
from ambidex.testing.record_machine import compare
from tests.services import PostgresServer, RedisServer
from tests.services.postgres import unavailable as no_postgres
from tests.torture.redis_support import server_flavour
from tests.torture.sqlite import rounds

pytestmark = pytest.mark.torture

_STEPS = 50


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/machine.db?durability=relaxed"
    elif request.param == "redis":
        with RedisServer(server_flavour()) as server:
            yield server.url
    else:
        if reason := no_postgres("wheel"):
            pytest.skip(reason)
        with PostgresServer("wheel") as server:
            yield server.url


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", Mode, ids=str)
def test_many_calls_differ_in_nothing(url: str, mode: Mode) -> None:
    wanted, made = rounds(100, 25_000), 0
    storage = UnifiedStorage(url, embedder="none")
    while made < wanted:
        examples = max(1, min(100, (wanted - made) // _STEPS))
        made += compare(Subject(storage, mode), examples, _STEPS)
    print(f"{made} calls, no difference")
