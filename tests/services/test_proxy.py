"""Proves that each fault of the proxy really happens, and that without one it changes nothing.

A fault that does not happen would make the torture row that relies on it pass.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.services import (
    Certificates,
    PostgresServer,
    Proxy,
    RedisServer,
    keeper,
    postgres,
    redis,
    resp,
)
from tests.services.handle import Flavour


def need(reason: str | None) -> None:
    if reason:
        pytest.skip(reason)


@pytest.fixture
def store() -> Iterator[RedisServer]:
    flavour: Flavour = "system" if redis.unavailable("wheel") else "wheel"
    need(redis.unavailable(flavour))
    with RedisServer(flavour) as server:
        yield server


@pytest.fixture
def proxy(store: RedisServer, make_proxy: Callable[[str], Proxy]) -> Proxy:
    return make_proxy(store.url)


def receive_all(connection: socket.socket) -> None:
    while connection.recv(100):
        pass


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def test_the_proxy_passes_bytes_and_counts(proxy: Proxy) -> None:
    assert proxy.url.endswith(f"@127.0.0.1:{proxy.port}/0") or "@" not in proxy.url
    text = "x" * 3_000_000
    resp.call(proxy.address, "SET", "big", text)
    assert resp.call(proxy.address, "GET", "big") == text
    assert proxy.accepted == 2
    assert keeper.wait_until(lambda: proxy.connections == 0, 2)
    with socket.create_connection(proxy.address):
        assert keeper.wait_until(lambda: proxy.connections == 1, 2)


def test_a_delay_is_a_latency_of_its_direction(proxy: Proxy) -> None:
    proxy.delay(requests=0.1, replies=0.2)
    assert timed(lambda: resp.call(proxy.address, "PING")) >= 0.3
    with socket.create_connection(proxy.address) as connection:

        def pipelined() -> None:
            for _ in range(5):
                connection.sendall(b"PING\r\n")
                time.sleep(0.02)
            seen = b""
            while seen.count(b"PONG") < 5:
                seen += connection.recv(100)

        assert 0.3 <= timed(pipelined) < 1.2  # five latencies in a row would be 1.5
    proxy.heal()
    assert timed(lambda: resp.call(proxy.address, "PING")) < 0.1


def test_frozen_it_accepts_and_holds_back(proxy: Proxy) -> None:
    proxy.freeze()
    with socket.create_connection(proxy.address, 0.3) as connection:
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(10)
        proxy.thaw()
        assert connection.recv(10) == b"+PONG\r\n"


def test_frozen_replies_still_let_requests_through(store: RedisServer, proxy: Proxy) -> None:
    proxy.freeze(requests=False)
    with pytest.raises(TimeoutError):
        resp.call(proxy.address, "INCR", "counter", timeout=0.3)
    assert store.call("GET", "counter") == "1"


def test_reset_all_reaches_every_client_at_once(proxy: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(proxy.address, 2)) for _ in range(5)]
        for client in clients:
            client.sendall(b"PING\r\n")
            assert client.recv(10) == b"+PONG\r\n"
        assert proxy.reset_all() == 5
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(10)
    assert resp.call(proxy.address, "PING") == "PONG"
    assert keeper.wait_until(lambda: proxy.connections == 0, 2)


def test_a_lost_reply_was_executed(store: RedisServer, proxy: Proxy) -> None:
    proxy.lose_replies(None, match=b"INCR", every=3)
    failures = 0
    for _ in range(30):
        try:
            resp.call(proxy.address, "INCR", "counter")
        except ConnectionResetError:
            failures += 1
    assert (failures, proxy.lost) == (10, 10)
    assert store.call("GET", "counter") == "30"
    proxy.heal()
    assert resp.call(proxy.address, "INCR", "counter") == 31


def test_a_lost_reply_behind_pipelined_ones_was_executed(store: RedisServer, proxy: Proxy) -> None:
    for round_ in range(1, 6):
        proxy.lose_replies(1, match=b"INCR")
        with socket.create_connection(proxy.address, 5) as connection:
            connection.sendall(b"DEBUG SLEEP 0.02\r\n" * 4)
            time.sleep(0.001)
            connection.sendall(b"INCR counter\r\n")  # the replies that come first are not its own
            with pytest.raises(ConnectionResetError):
                receive_all(connection)
        assert store.call("GET", "counter", timeout=5) == str(round_)


def test_a_lost_commit_of_postgres_was_executed(make_proxy: Callable[[str], Proxy]) -> None:
    flavour: Flavour = "system" if postgres.unavailable("wheel") else "wheel"
    need(postgres.unavailable(flavour))
    with PostgresServer(flavour) as server, psycopg.connect(server.url, autocommit=True) as direct:
        proxy = make_proxy(server.url)
        direct.execute("CREATE TABLE counted (value int)")
        connection = psycopg.connect(proxy.url, autocommit=True)
        proxy.lose_replies(match=b"INSERT")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO counted VALUES (1)")
        connection.close()
        assert direct.execute("SELECT count(*) FROM counted").fetchone() == (1,)


def test_without_a_server_the_proxy_resets(store: RedisServer, proxy: Proxy) -> None:
    store.kill()
    with pytest.raises(ConnectionError):
        resp.call(proxy.address, "PING")
    store.start()
    assert resp.call(proxy.address, "PING") == "PONG"


def test_a_killed_server_ends_proxied_connections(store: RedisServer, proxy: Proxy) -> None:
    with socket.create_connection(proxy.address, 2) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(10) == b"+PONG\r\n"
        store.kill()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""


def test_the_proxy_terminates_tls(store: RedisServer, certificates: Certificates) -> None:
    with Proxy(store.url, tls=certificates) as proxy:
        assert proxy.url.startswith("rediss://")
        tls = certificates.client_context()
        assert resp.call(proxy.address, "PING", tls=tls) == "PONG"
        proxy.lose_replies(match=b"INCR")
        with pytest.raises(OSError, match=r"."):
            resp.call(proxy.address, "INCR", "counter", tls=tls)
    assert store.call("GET", "counter") == "1"


def test_the_proxy_serves_and_obeys_an_event_loop(proxy: Proxy) -> None:
    async def ping() -> bytes:
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(b"PING\r\n")
        reply = await reader.readline()
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            await reader.readline()
        writer.close()
        return reply

    assert asyncio.run(ping()) == b"+PONG\r\n"


def test_a_stopped_proxy_leaves_no_thread_and_no_port(store: RedisServer) -> None:
    before = threading.active_count()
    with Proxy(store.url) as proxy, socket.create_connection(proxy.address, 2) as connection:
        connection.sendall(b"PING\r\n")
        connection.recv(10)
        proxy.stop()
        with pytest.raises(ConnectionResetError):
            connection.recv(10)
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address)
