"""PostgreSQL over psycopg's libpq: one round trip a request, batches where many tasks ask at once.

``ambidex.storage`` makes a backend for ``postgresql://…``; ``options.py`` says what may stand behind the ``?``. Read
``session.py`` for how requests and replies are kept apart, ``batches.py`` for what is coalesced. The invariant: both
colours work on the same tables, and neither keeps anything of them in memory.
"""

from __future__ import annotations

from ambidex.backends.postgres.database import Database
from ambidex.backends.postgres.driver import AsyncPostgresLeaf, BlockingPostgresLeaf
from ambidex.core.ports import Capability
from ambidex.settings import BackendUrl, Settings

__all__ = ["PostgresBackend"]


class PostgresBackend:
    """Implements :class:`ambidex.core.ports.Backend`."""

    name = "postgres"
    remote = True
    capabilities = frozenset(
        {Capability.KV, Capability.RECORDS, Capability.LOG, Capability.SEARCH, Capability.TRANSACTIONS}
    )

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        database = Database(url, settings)
        self.blocking = BlockingPostgresLeaf(database)
        self.aio = AsyncPostgresLeaf(database)
