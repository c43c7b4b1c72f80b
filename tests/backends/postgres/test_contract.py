"""The PostgreSQL backend keeps the contract, on each flavour of server and behind PgBouncer."""

from pathlib import Path
from typing import ClassVar

import pytest

from ambidex.core.ports import Capability
from ambidex.testing import BackendContract
from ambidex.testing.concurrency import ConcurrencyContract
from ambidex.testing.contract import Contract
from ambidex.testing.kv import KeyValueContract
from ambidex.testing.log import LogContract
from ambidex.testing.record_numbers import RecordNumbersContract, RecordNumbersInTransactionsContract
from ambidex.testing.record_writers import RecordsConcurrencyContract, RecordsTransactionContract
from ambidex.testing.search import SearchContract
from ambidex.testing.transactions import TransactionContract
from tests.services.handle import Service

CAPABILITIES = frozenset(
    {Capability.KV, Capability.RECORDS, Capability.LOG, Capability.SEARCH, Capability.TRANSACTIONS}
)


class _OnServer(Contract):
    capabilities = CAPABILITIES
    url: ClassVar[str]

    def make_url(self, tmp_path: Path) -> str:
        return self.url


class _AnotherWay(
    _OnServer,
    KeyValueContract,
    LogContract,
    ConcurrencyContract,
    TransactionContract,
    RecordsConcurrencyContract,
    RecordsTransactionContract,
    RecordNumbersContract,
    RecordNumbersInTransactionsContract,
    SearchContract,
):
    """What a different way to the same server could break; the rest is the server's, and tested there."""


class TestPostgres(_OnServer, BackendContract):
    @pytest.fixture(autouse=True)
    def _place(self, postgres_server: Service) -> None:
        type(self).url = postgres_server.url


class TestPostgresSchema(_AnotherWay):
    """In a schema of its own, with transactions at the strictest level."""

    @pytest.fixture(autouse=True)
    def _place(self, postgres_server: Service) -> None:
        type(self).url = f"{postgres_server.url}?schema=apart&isolation=serializable"


class TestPgBouncer(_AnotherWay):
    @pytest.fixture(autouse=True)
    def _place(self, pgbouncer_server: Service) -> None:
        type(self).url = f"{pgbouncer_server.url}?pool_size=6"
