"""One private S3 server with one bucket: moto, which has the whole interface but believes every signature.

It keeps everything in memory: after `kill()` the bucket is there again, and empty.
"""

import importlib.util
import sys
import urllib.request

from tests.services.handle import Server

BUCKET = "media"


def unavailable() -> str | None:
    """Why the server cannot run here, or None."""
    missing = [name for name in ("moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]
    return f"the package {missing[0]} is not installed" if missing else None


class S3Server(Server):
    """An object store."""

    kind = "s3"

    def __init__(self) -> None:
        super().__init__("wheel")

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"s3://key:secret@{BUCKET}?endpoint={self.endpoint}&region=us-east-1"

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
