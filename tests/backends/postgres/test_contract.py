"""The PostgreSQL backend keeps the contract, on each flavour of server and behind PgBouncer."""

from pathlib import Path
from typing import ClassVar

import pytest

from ambidex.core.ports import Capability
from ambidex.testing import BackendContract
from tests.services.handle import Service

CAPABILITIES = frozenset({Capability.KV, Capability.RECORDS, Capability.LOG, Capability.TRANSACTIONS})


class _OnServer(BackendContract):
    capabilities = CAPABILITIES
    url: ClassVar[str]

    def make_url(self, tmp_path: Path) -> str:
        return self.url


class TestPostgres(_OnServer):
    @pytest.fixture(autouse=True)
    def _place(self, postgres_server: Service) -> None:
        type(self).url = postgres_server.url


class TestPostgresSchema(_OnServer):
    """In a schema of its own, with transactions at the strictest level."""

    @pytest.fixture(autouse=True)
    def _place(self, postgres_server: Service) -> None:
        type(self).url = f"{postgres_server.url}?schema=apart&isolation=serializable"


class TestPgBouncer(_OnServer):
    @pytest.fixture(autouse=True)
    def _place(self, pgbouncer_server: Service) -> None:
        type(self).url = f"{pgbouncer_server.url}?pool_size=6"
