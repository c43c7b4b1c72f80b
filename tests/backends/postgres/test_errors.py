"""What goes wrong with PostgreSQL, in ambidex's words: typed, with the remedy, without secrets."""

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.errors import (
    AmbidexError,
    AuthenticationFailed,
    ConfigurationError,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from tests.services import postgres
from tests.services.certificates import Certificates
from tests.services.handle import Service
from tests.services.ports import free_port
from tests.services.postgres import PostgresServer
from tests.services.proxy import Proxy


def _both(url: str) -> list[AmbidexError]:
    storage = UnifiedStorage(url, timeout=5)
    errors = []
    with pytest.raises(AmbidexError) as caught:
        storage.sync.kv.set("key", 1)
    errors.append(caught.value)
    with pytest.raises(AmbidexError) as caught:
        asyncio.run(storage.aio.kv.set("key", 1))
    errors.append(caught.value)
    storage.close()
    return errors


def test_nobody_listens() -> None:
    for error in _both(f"postgresql://ada:hidden@127.0.0.1:{free_port()}/app"):
        assert isinstance(error, Unavailable)
        assert error.applied == "no"
        assert "hidden" not in str(error)


def test_no_such_host() -> None:
    for error in _both("postgresql://ada:hidden@no-such-host.invalid/app"):
        assert isinstance(error, (ConfigurationError, Unavailable))
        assert "hidden" not in str(error)


def test_no_such_database(postgres_server: Service) -> None:
    for error in _both(postgres_server.url.replace("/postgres", "/nowhere")):
        assert isinstance(error, ConfigurationError)
        assert "nowhere" in str(error)


def test_wrong_password() -> None:
    if reason := postgres.unavailable("wheel"):
        pytest.skip(reason)
    with PostgresServer("wheel", password="right") as server:
        for error in _both(server.url.replace("right", "wrong-one")):
            assert isinstance(error, AuthenticationFailed)
            assert "wrong-one" not in str(error)
        storage = UnifiedStorage(server.url)
        storage.sync.kv.set("key", 1)
        asyncio.run(storage.aio.kv.get("key"))
        storage.close()


def test_tls_is_checked_in_full(certificates: Certificates) -> None:
    if reason := postgres.unavailable("system", tls=True):
        pytest.skip(reason)
    with PostgresServer("system", tls=certificates) as server:
        storage = UnifiedStorage(server.url)
        storage.sync.kv.set("key", 1)
        assert asyncio.run(storage.aio.kv.get("key")) == 1
        storage.close()
        base = server.url.split("?")[0]
        storage = UnifiedStorage(f"{base}?tls=true&sslrootcert={certificates.ca}")
        assert storage.sync.kv.get("key") == 1
        storage.close()
        for error in _both(f"{base}?tls=true"):  # the system's authorities do not know this one
            assert isinstance(error, ConfigurationError)
            assert "certificate" in str(error)


def test_a_server_without_tls_is_refused_when_tls_is_asked_for(postgres_server: Service, tmp_path: object) -> None:
    for error in _both(f"{postgres_server.url}?tls=true"):
        assert isinstance(error, ConfigurationError)
        assert "SSL" in str(error)


def test_a_user_without_rights(postgres_server: Service) -> None:
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS poor")
        admin.execute("CREATE ROLE poor LOGIN")
    for error in _both(postgres_server.url.replace("postgres@", "poor@") + "?schema=forbidden"):
        assert isinstance(error, PermissionDenied)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_lost_reply_is_never_a_silent_double(place: str, make_proxy: Callable[[str], Proxy], mode: str) -> None:
    proxy = make_proxy(place)
    storage = UnifiedStorage(proxy.url)
    storage.sync.kv.set("count", 0)
    proxy.lose_replies(times=None, match=b"count", every=5)
    known = unknown = 0
    with asyncio.Runner() as runner:
        for _ in range(50):
            try:
                if mode == "async":
                    runner.run(storage.aio.kv.incr("count"))
                else:
                    storage.sync.kv.incr("count")
                known += 1
            except OutcomeUnknown:
                unknown += 1
    proxy.heal()
    assert unknown >= 5
    assert known + unknown == 50
    assert storage.sync.kv.get("count") == 50  # each was executed exactly once, and repeated by nobody
    storage.close()
