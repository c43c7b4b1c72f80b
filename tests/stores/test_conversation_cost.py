"""What a turn (append and window) costs inside a backend does not grow with the conversation: steps, rows and bytes.

What it asks of a port is counted in test_conversation_windows; memory, where that is all, is not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from ambidex import SyncStorage
from tests.services import PostgresServer, RedisServer, postgres
from tests.services.resp import call, info
from tests.torture.redis_support import server_flavour

LENGTHS = (10, 1_000, 10_000)


class Meter(ABC):
    """A place for conversations, and how much work a call is there."""

    url: str

    @abstractmethod
    def work(self, turn: Callable[[SyncStorage], object]) -> int:
        """Run with a storage of its own that has been used before, and return the work in units of the backend."""

    def opened(self) -> SyncStorage:
        storage = SyncStorage(self.url)
        storage.conversations.exists("nobody")
        storage.conversations.append("warm", _user("up"))
        return storage


class Sqlite(Meter):
    """Steps of SQLite's virtual machine."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/chats.db?durability=relaxed"

    def work(self, turn: Callable[[SyncStorage], object]) -> int:
        steps: list[int] = []

        def hook(connection: apsw.Connection) -> None:
            def ended(event: dict[str, Any]) -> None:
                if "max(version)" not in str(event.get("sql", "")):
                    steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])

            connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, ended)

        apsw.connection_hooks.append(hook)
        try:
            storage = self.opened()
            storage.conversations.get("nobody")
            steps.clear()
            turn(storage)
            found = sum(steps)
            storage.close()
        finally:
            apsw.connection_hooks.remove(hook)
        return found


_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


class Postgres(Meter):
    """Rows that the server reads and writes, by its own statistics; a connection hands those in when it ends."""

    def __init__(self, server: PostgresServer) -> None:
        self.url = server.url
        self._server = server

    def work(self, turn: Callable[[SyncStorage], object]) -> int:
        storage = self.opened()
        storage.close()
        before = self._rows()
        storage = SyncStorage(self.url)
        turn(storage)
        storage.close()
        return self._rows() - before

    def _rows(self) -> int:
        with psycopg.connect(self._server.url, autocommit=True) as admin:
            while admin.execute(_OTHERS).fetchone() != (0,):
                pass
            row = admin.execute(
                "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del)"
                " FROM pg_stat_user_tables"
            ).fetchone()
        assert row is not None
        return int(row[0] or 0)


class Redis(Meter):
    """Bytes that the server receives and sends, and commands that it runs, those of scripts among them."""

    def __init__(self, server: RedisServer) -> None:
        self.url = f"{server.url}?durability=relaxed"
        self._server = server

    def work(self, turn: Callable[[SyncStorage], object]) -> int:
        storage = self.opened()
        storage.conversations.get("nobody")
        before = self._sums()
        turn(storage)
        after = self._sums()
        storage.close()
        idle = self._sums()
        return (after - before) - (self._sums() - idle)

    def _sums(self) -> int:
        found = info(call(self._server.address, "INFO", "everything"))
        counts = (value.split("calls=")[1].split(",")[0] for name, value in found.items() if "cmdstat_" in name)
        return int(found["total_net_input_bytes"]) + int(found["total_net_output_bytes"]) + sum(map(int, counts))


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def meter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Meter]:
    if request.param == "sqlite":
        yield Sqlite(tmp_path)
    elif request.param == "redis":
        with RedisServer(server_flavour()) as server:
            yield Redis(server)
    else:
        if reason := postgres.unavailable("wheel"):
            pytest.skip(f"postgres: {reason}")
        with PostgresServer("wheel", settings={"autovacuum": "off"}) as database:
            yield Postgres(database)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def turn(chat: str) -> Callable[[SyncStorage], object]:
    def run(storage: SyncStorage) -> object:
        storage.conversations.append(chat, _user("a new message"))
        return storage.conversations.window(chat)

    return run


def test_a_turn_is_the_same_work_however_long_the_conversation_is(meter: Meter) -> None:
    storage = meter.opened()
    for length in LENGTHS:
        messages = [{"role": "system", "content": "be kind"}, *(_user(f"message {n:5}") for n in range(length - 1))]
        for at in range(0, length, 1_000):
            storage.conversations.append(f"chat {length:5}", *messages[at : at + 1_000])
    storage.close()
    short, middle, long = (meter.work(turn(f"chat {length:5}")) for length in LENGTHS)
    assert short > 0
    assert long <= middle * 1.05
    assert long <= short * 3  # a window of ten messages against one of twenty, and the search for the system prompt
    everything = meter.work(lambda storage: storage.conversations.history(f"chat {LENGTHS[-1]:5}"))
    assert everything > long * 20  # control: this measure shows what is read
