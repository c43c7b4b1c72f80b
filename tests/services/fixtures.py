"""pytest fixtures over the services; `tests/conftest.py` loads them with `pytest_plugins`.

Session scoped, one parameter a flavour, started by the first test that asks. They are shared, so
a test that kills, pauses or reconfigures starts its own: `with RedisServer(flavour) as server`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.services import certificates as certificates_module
from tests.services.catalogue import KINDS
from tests.services.certificates import Certificates
from tests.services.handle import Flavour, Service
from tests.services.proxy import Proxy


def _shared(kind: str, flavour: Flavour) -> Iterator[Service]:
    if reason := KINDS[kind].unavailable(flavour):
        pytest.skip(f"{kind} ({flavour}): {reason}")
    with KINDS[kind].create(flavour) as service:
        yield service


@pytest.fixture(scope="session", params=KINDS["postgres"].flavours)
def postgres_server(request: pytest.FixtureRequest) -> Iterator[Service]:
    """PostgreSQL; a PostgresServer, or External."""
    yield from _shared("postgres", request.param)


@pytest.fixture(scope="session", params=KINDS["redis"].flavours)
def redis_server(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A single Redis or Valkey; a RedisServer, or External."""
    yield from _shared("redis", request.param)


@pytest.fixture(scope="session", params=KINDS["cluster"].flavours)
def redis_cluster(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Three masters and three replicas; a RedisCluster, or External."""
    yield from _shared("cluster", request.param)


@pytest.fixture(scope="session", params=KINDS["sentinel"].flavours)
def redis_sentinel(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Three Sentinels over a master and a replica; a RedisSentinel, or External."""
    yield from _shared("sentinel", request.param)


@pytest.fixture(scope="session", params=KINDS["pgbouncer"].flavours)
def pgbouncer_server(request: pytest.FixtureRequest) -> Iterator[Service]:
    """PgBouncer in transaction mode, pool of 2, before a PostgreSQL of its own, or External."""
    yield from _shared("pgbouncer", request.param)


@pytest.fixture(scope="session", params=KINDS["s3"].flavours)
def s3_server(request: pytest.FixtureRequest) -> Iterator[Service]:
    """An object store with an empty bucket; an S3Server, or External."""
    yield from _shared("s3", request.param)


@pytest.fixture(scope="session", params=KINDS["s3-signed"].flavours)
def signed_s3_server(request: pytest.FixtureRequest) -> Iterator[Service]:
    """An object store that checks signatures, with a bucket; a SignedS3Server, or External."""
    yield from _shared("s3-signed", request.param)


@pytest.fixture
def make_proxy() -> Iterator[Callable[[str], Proxy]]:
    """`make_proxy(url)` starts a proxy before that server; all of them stop with the test."""
    with ExitStack() as proxies:
        yield lambda upstream: proxies.enter_context(Proxy(upstream))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A throw-away authority and a certificate for 127.0.0.1."""
    if reason := certificates_module.unavailable():
        pytest.skip(reason)
    directory: Path = tmp_path_factory.mktemp("certificates")
    return Certificates.create(directory)
