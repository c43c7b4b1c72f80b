"""Proves that the servers of this folder start, freeze, die, come back and leave nothing behind.

Each row runs on each flavour that this machine has. The suite trusts these helpers: a fault that
does not really happen would make every torture row pass.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import psycopg
import pytest

from tests.services import (
    Certificates,
    PgBouncerServer,
    PostgresServer,
    RedisCluster,
    RedisOptions,
    RedisSentinel,
    RedisServer,
    Server,
    StartFailed,
    keeper,
    pgbouncer,
    ports,
    postgres,
    redis,
    resp,
)
from tests.services.catalogue import KINDS
from tests.services.handle import Flavour

ROOT = Path(__file__).parents[2]
DURABLE = RedisOptions(appendonly=True, appendfsync="always")
flavours = pytest.mark.parametrize("flavour", ["wheel", "system"])


def need(reason: str | None) -> None:
    if reason:
        pytest.skip(reason)


def make_server(kind: str, flavour: Flavour) -> Server:
    need(KINDS[kind].unavailable(flavour))
    return RedisServer(flavour, options=DURABLE) if kind == "redis" else PostgresServer(flavour)


def write(server: Server, value: int) -> None:
    if isinstance(server, RedisServer):
        server.call("SET", "key", value)
        return
    with psycopg.connect(server.url, connect_timeout=2) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", (value,))


def read(server: Server) -> int:
    if isinstance(server, RedisServer):
        return int(cast("str", server.call("GET", "key", timeout=0.3)))
    # connect_timeout has whole seconds, of at least 2
    with psycopg.connect(server.url, connect_timeout=2) as connection:
        row = connection.execute("SELECT max(value) FROM kept").fetchone()
    assert row is not None
    return cast("int", row[0])


EVERY_KIND = [(kind, flavour) for kind in ("redis", "postgres") for flavour in ("wheel", "system")]
servers = pytest.mark.parametrize(("kind", "flavour"), EVERY_KIND)

postgres_only = pytest.mark.parametrize("server", EVERY_KIND[2:], ids="-".join, indirect=True)


@pytest.fixture(scope="module", params=EVERY_KIND, ids="-".join)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One for all tests that leave it running: initdb takes its second."""
    with make_server(*request.param) as started:
        yield started


@servers
def test_starts_answers_on_loopback_only_and_leaves_nothing(kind: str, flavour: Flavour) -> None:
    server = make_server(kind, flavour).start()
    write(server, 7)
    assert read(server) == 7
    assert server.port in range(1024, 32_768)
    with socket.socket() as probe:
        # All of 127/8 reaches a server that listens on every address, but not one on 127.0.0.1.
        assert probe.connect_ex(("127.0.0.2", server.port)) != 0
    members, directory = keeper.tree(server.pid), server.directory
    server.stop()
    server.stop()
    assert not any(map(keeper.alive, members))
    assert not directory.exists()


def test_paused_answers_nobody_and_resumes(server: Server) -> None:
    write(server, 1)
    server.pause()
    with pytest.raises((OSError, psycopg.OperationalError)):
        read(server)
    server.resume()
    assert read(server) == 1


@postgres_only
def test_pause_freezes_postgres_sessions_that_are_open(server: Server) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        server.pause()
        connection.pgconn.send_query(b"SELECT 1")
        connection.pgconn.flush()
        time.sleep(0.2)
        connection.pgconn.consume_input()
        assert connection.pgconn.is_busy()
        server.resume()
        assert connection.pgconn.get_result() is not None
        assert connection.pgconn.get_result() is None  # the end, so that it can be closed in order


@servers
def test_paused_it_can_still_be_stopped(kind: str, flavour: Flavour) -> None:
    server = make_server(kind, flavour).start()
    members = keeper.tree(server.pid)
    server.pause()
    server.stop()
    assert not any(map(keeper.alive, members))


def test_comes_back_on_the_same_port_with_its_data(server: Server) -> None:
    write(server, 1)
    port, pids = server.port, [server.pid]
    server.kill()
    assert not server.running
    server.start()
    assert (server.port, read(server)) == (port, 1)
    pids.append(server.pid)
    server.restart()
    assert (server.port, read(server)) == (port, 1)
    pids.append(server.pid)
    assert len(set(pids)) == 3


def test_a_killed_postgres_leaves_no_shared_memory() -> None:
    server = make_server("postgres", "wheel").start()
    directory = cast("PostgresServer", server).data
    segment = (directory / "postmaster.pid").read_text().splitlines()[6].split()[1]
    server.kill()
    server.stop()
    table = Path("/proc/sysvipc/shm")
    if not table.exists():
        pytest.skip("this system does not list its shared memory")
    assert segment not in [line.split()[1] for line in table.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_two_at_once_do_not_meet(kind: str) -> None:
    with make_server(kind, "wheel") as one, make_server(kind, "wheel") as other:
        write(one, 1)
        write(other, 2)
        assert (read(one), read(other)) == (1, 2)


@servers
def test_a_taken_port_is_replaced(kind: str, flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        taken = holder.getsockname()[1]
        offers = iter([taken, ports.free_port()])
        monkeypatch.setattr("tests.services.handle.free_port", lambda *, bus: next(offers))
        with make_server(kind, flavour) as server:
            assert server.port != taken


def test_free_ports_leave_room_for_the_bus_and_differ() -> None:
    drawn = [ports.free_port(bus=True) for _ in range(200)]
    assert len(set(drawn)) == 200
    assert max(drawn) + ports.BUS_OFFSET < 65_536


def test_a_failed_start_says_why_and_leaves_nothing() -> None:
    need(redis.unavailable("wheel"))
    server = RedisServer(options=RedisOptions(extra={"no-such-directive": "1"}))
    with pytest.raises(StartFailed, match="no-such-directive"):
        server.start()
    with pytest.raises(AssertionError):
        _ = server.directory


# --- kinds and their options ---


def test_the_wheel_brings_pgvector() -> None:
    server = cast("PostgresServer", make_server("postgres", "wheel"))
    with server, psycopg.connect(server.url) as connection:
        assert "vector" in server.extensions()
        connection.execute("CREATE EXTENSION vector")


@flavours
def test_postgres_password_and_settings(flavour: Flavour) -> None:
    need(postgres.unavailable(flavour))
    with PostgresServer(flavour, password="p@ss/'", settings={"work_mem": "5MB"}) as server:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url, password="wrong")


@flavours
def test_postgres_verify_full(flavour: Flavour, certificates: Certificates, tmp_path: Path) -> None:
    need(postgres.unavailable(flavour, tls=True))
    with PostgresServer(flavour, tls=certificates) as server:
        psycopg.connect(server.url).close()
        stranger = Certificates.create(tmp_path)
        with pytest.raises(psycopg.OperationalError, match="certificate"):
            psycopg.connect(server.url, sslrootcert=str(stranger.ca))


@flavours
def test_redis_options(flavour: Flavour) -> None:
    need(redis.unavailable(flavour))
    options = RedisOptions(appendonly=True, maxmemory="8mb", maxmemory_policy="allkeys-lru", password="p ss")
    with RedisServer(flavour, options=options) as server:
        assert server.call("CONFIG", "GET", "maxmemory-policy") == [
            "maxmemory-policy",
            "allkeys-lru",
        ]
        assert server.url.startswith("redis://:p%20ss@")
        with pytest.raises(resp.ReplyError, match="NOAUTH"):
            resp.call(server.address, "PING")


@flavours
def test_redis_tls(flavour: Flavour, certificates: Certificates) -> None:
    need(redis.unavailable(flavour, tls=True))
    with RedisServer(flavour, options=RedisOptions(tls=certificates)) as server:
        assert server.url.startswith("rediss://")
        assert server.call("PING") == "PONG"
        with pytest.raises(OSError, match=r"."):
            resp.call(server.address, "PING", timeout=0.5)


@flavours
def test_cluster_promotes_a_replica(flavour: Flavour) -> None:
    need(redis.unavailable(flavour))
    with RedisCluster(flavour) as cluster:
        directories = [node.directory for node in cluster.nodes]
        assert all(node.port + ports.BUS_OFFSET < 65_536 for node in cluster.nodes)
        old = cluster.master_of("key")
        old.call("SET", "key", "1")
        old.wait_replicated()
        old.kill()

        def promoted() -> bool:
            with contextlib.suppress(OSError, resp.ReplyError):
                new = cluster.master_of("key")
                return new is not old and new.call("SET", "other{key}", "2") == "OK"
            return False

        assert keeper.wait_until(promoted, 20)
        assert cluster.master_of("key").call("GET", "key") == "1"
        old.start()
        cluster.wait_settled()
        assert cast("list[object]", old.call("ROLE"))[0] == "slave"
    assert not any(map(Path.exists, directories))


@flavours
def test_sentinels_promote_the_replica(flavour: Flavour) -> None:
    need(redis.unavailable(flavour))
    with RedisSentinel(flavour, options=RedisOptions(password="secret")) as group:
        old = group.master()
        old.call("SET", "key", "1")
        old.wait_replicated()
        old.kill()
        assert keeper.wait_until(lambda: group.master() is not old, 20)
        new = group.master()
        assert keeper.wait_until(lambda: cast("list[object]", new.call("ROLE"))[0] == "master", 10)
        assert new.call("GET", "key") == "1"


def test_pgbouncer_shares_server_connections_between_transactions() -> None:
    need(PgBouncerServer().unavailable())
    with PgBouncerServer(pool_size=1) as server:
        query = "SELECT pg_backend_pid()"
        with contextlib.ExitStack() as open_ones:
            clients = [
                open_ones.enter_context(psycopg.connect(server.url, prepare_threshold=None, autocommit=True))
                for _ in range(3)
            ]
            backends = {client.execute(query).fetchone() for client in clients}
        assert len(backends) == 1
        upstream = server.postgres
    assert upstream is not None
    assert not upstream.running
    assert pgbouncer.unavailable("wheel")


# --- what outlives the test process: nothing ---

CHILD = """
import sys, time
from tests.services import PostgresServer, RedisServer
servers = [PostgresServer("wheel").start(), RedisServer("wheel").start()]
if "pause" in sys.argv:
    for server in servers: server.pause()
for server in servers: print(server.pid, server.directory)
print("ready", flush=True)
if "exit" not in sys.argv: time.sleep(60)
"""


@pytest.mark.parametrize("how", ["exit", "SIGTERM", "SIGKILL", "pause"])
def test_servers_end_with_their_process(how: str) -> None:
    need(postgres.unavailable("wheel") or redis.unavailable("wheel"))
    owned: list[tuple[int, Path]] = []
    with subprocess.Popen([sys.executable, "-c", CHILD, how], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in iter(child.stdout.readline, "ready\n"):
            pid, directory = line.split(maxsplit=1)
            owned.append((int(pid), Path(directory.strip())))
        if how != "exit":
            child.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)

    def gone() -> bool:
        return not any(keeper.alive(pid) or directory.exists() for pid, directory in owned)

    assert len(owned) == 2
    assert keeper.wait_until(gone, 10)


def test_a_thread_that_starts_a_server_may_end() -> None:
    need(redis.unavailable("wheel"))
    with RedisServer() as server:
        server.kill()
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        time.sleep(0.1)
        assert server.call("PING") == "PONG"


def test_a_fork_owns_nothing() -> None:
    need(redis.unavailable("wheel"))
    with RedisServer() as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert server.call("PING") == "PONG"


# --- for people, and for existing servers ---


def test_the_command_prints_urls_and_stops_on_ctrl_c() -> None:
    need(redis.unavailable("wheel"))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.services", "redis", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        text = "".join(iter(child.stdout.readline, "]\n")) + "]"
        (row,) = json.loads(text)
        port = int(row["url"].removesuffix("/0").rpartition(":")[2])
        assert resp.call(("127.0.0.1", port), "PING") == "PONG"
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_variable_points_at_an_existing_server(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS["redis"]
    monkeypatch.setenv(kind.variable, "redis://elsewhere:6379/5")
    assert kind.flavours == ("external",)
    with kind.create("external") as service:
        assert service.url == "redis://elsewhere:6379/5"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(postgres, "DISTRIBUTION_FOLDERS", "/nowhere/*/bin")
    assert "redis-server" in str(redis.unavailable("system"))
    assert "initdb" in str(postgres.unavailable("system"))
    with pytest.raises(StartFailed, match="redis-server"):
        RedisServer("system").start()


def test_options_show_no_password() -> None:
    assert "secret" not in repr(replace(DURABLE, password="secret"))
