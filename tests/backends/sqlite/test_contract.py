"""The SQLite backend keeps the contract."""

from pathlib import Path

from ambidex.core.ports import Capability
from ambidex.testing import BackendContract


class TestSqlite(BackendContract):
    capabilities = frozenset(Capability) - {Capability.LOCKS}

    def make_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/test.db"
