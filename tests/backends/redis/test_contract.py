"""The Redis backend keeps the contract, on each flavour of server, in a Cluster, behind Sentinels and over TLS."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ambidex.core.ports import Capability
from ambidex.testing import BackendContract
from tests.services import Certificates, Proxy
from tests.services.handle import Service


class _OnServer(BackendContract):
    capabilities = frozenset({Capability.KV, Capability.LOG, Capability.RECORDS})
    url: ClassVar[str]

    def make_url(self, tmp_path: Path) -> str:
        return self.url


class TestRedis(_OnServer):
    @pytest.fixture(autouse=True)
    def _place(self, redis_server: Service) -> None:
        type(self).url = redis_server.url


class TestCluster(_OnServer):
    @pytest.fixture(autouse=True)
    def _place(self, redis_cluster: Service) -> None:
        type(self).url = redis_cluster.url


class TestSentinel(_OnServer):
    machine_examples = 2

    @pytest.fixture(autouse=True)
    def _place(self, redis_sentinel: Service) -> None:
        type(self).url = redis_sentinel.url


class TestTls(_OnServer):
    machine_examples = 2

    @pytest.fixture(autouse=True)
    def _place(self, redis_server: Service, certificates: Certificates) -> Iterator[None]:
        with Proxy(redis_server.url, tls=certificates) as proxy:
            type(self).url = f"{proxy.url}?ssl_ca_certs={certificates.ca}&prefix=over-tls:"
            yield
