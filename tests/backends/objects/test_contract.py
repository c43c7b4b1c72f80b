"""The object store keeps the contract of blobs, and media on it that of media, against a real S3 server."""

from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from ambidex.testing import BlobContract, MediaContract
from tests.services import Service


class TestObjects(BlobContract, MediaContract):
    @pytest.fixture(autouse=True)
    def _server(self, s3_server: Service) -> None:
        self.url = s3_server.url

    def make_storage(self, tmp_path: Path) -> UnifiedStorage:
        return UnifiedStorage("memory://", blobs=self.url)


class TestObjectsOnAnotherServer(MediaContract):
    @pytest.fixture(autouse=True)
    def _server(self, signed_s3_server: Service) -> None:
        self.url = signed_s3_server.url

    def make_storage(self, tmp_path: Path) -> UnifiedStorage:
        return UnifiedStorage("memory://", blobs=self.url)


class TestObjectsBelowAPrefix(BlobContract):
    @pytest.fixture(autouse=True)
    def _server(self, s3_server: Service) -> None:
        self.url = s3_server.url.replace("?", "/below/a%20prefix?")

    def make_storage(self, tmp_path: Path) -> UnifiedStorage:
        return UnifiedStorage("memory://", blobs=self.url)
