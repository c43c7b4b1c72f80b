"""Local files keep the contract of blobs, and media on them that of media."""

from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from ambidex.testing import BlobContract, MediaContract


@pytest.mark.parametrize("durability", ["durable", "relaxed"])
class TestFiles(BlobContract, MediaContract):
    @pytest.fixture(autouse=True)
    def _how(self, durability: str) -> None:
        self.durability = durability

    def make_storage(self, tmp_path: Path) -> UnifiedStorage:
        return UnifiedStorage("memory://", blobs=f"file://{tmp_path}/a%20folder", durability=self.durability)
