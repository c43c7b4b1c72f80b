"""The Redis backend keeps the contract, on each flavour of server, in a Cluster, behind Sentinels and over TLS."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ambidex.core.ports import Capability
from ambidex.testing import BackendContract
from ambidex.testing.concurrency import ConcurrencyContract
from ambidex.testing.contract import Contract
from ambidex.testing.kv import KeyValueContract
from ambidex.testing.log import LogContract
from ambidex.testing.record_writers import RecordsConcurrencyContract
from tests.services import Certificates, Proxy
from tests.services.handle import Service


class _OnServer(Contract):
    capabilities = frozenset({Capability.KV, Capability.LOG, Capability.RECORDS})
    url: ClassVar[str]

    def make_url(self, tmp_path: Path) -> str:
        return self.url


class _AnotherWay(_OnServer, KeyValueContract, LogContract, ConcurrencyContract, RecordsConcurrencyContract):
    """What a different way to the same server could break; the rest is the server's, and tested there."""


class TestRedis(_OnServer, BackendContract):
    @pytest.fixture(autouse=True)
    def _place(self, redis_server: Service) -> None:
        type(self).url = redis_server.url


class TestCluster(_OnServer, BackendContract):
    @pytest.fixture(autouse=True)
    def _place(self, redis_cluster: Service) -> None:
        type(self).url = redis_cluster.url


class TestSentinel(_AnotherWay):
    @pytest.fixture(autouse=True)
    def _place(self, redis_sentinel: Service) -> None:
        type(self).url = redis_sentinel.url


class TestTls(_AnotherWay):
    @pytest.fixture(autouse=True)
    def _place(self, redis_server: Service, certificates: Certificates) -> Iterator[None]:
        with Proxy(redis_server.url, tls=certificates) as proxy:
            type(self).url = f"{proxy.url}?ssl_ca_certs={certificates.ca}&prefix=over-tls:"
            yield
