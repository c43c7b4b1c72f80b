"""A third party's conformance class, as a type checker sees it; never run."""

from pathlib import Path

from ambidex.core.ports import Capability
from ambidex.testing import BackendContract, Subject


class TestMine(BackendContract):
    capabilities = frozenset({Capability.KV})

    def make_url(self, tmp_path: Path) -> str:
        return f"mine://{tmp_path}"

    async def test_own_rule(self, subject: Subject) -> None:
        await subject.kv.set("key", 1)
