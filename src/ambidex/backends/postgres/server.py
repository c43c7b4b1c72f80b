"""The PostgreSQL server that a URL names and how to reach it; the connections of both colours are opened from this.

The invariant: it holds no connection and nothing of a process, so whoever connects can have it without what else is
kept of the database.
"""

from __future__ import annotations

from psycopg.conninfo import make_conninfo

from ambidex.backends.postgres.options import Options
from ambidex.errors import redact
from ambidex.settings import BackendUrl, Settings

__all__ = ["Server"]


class Server:
    """Where to connect, and how.

    Attributes:
        where: the server as errors and logs name it, without a secret.
        warned: whether it was said already that it may lose what it confirms.
    """

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        self.settings = settings
        self.timeout = settings.timeout
        self.options = Options.parse(url, settings.connections(10))
        self.where = f"the PostgreSQL server at {_place(self.options.conninfo)}"
        self.warned = False

    def conninfo(self, **more: str) -> str:
        """Return libpq's connection string."""
        return make_conninfo("", **(self.options.conninfo | more))


def _place(conninfo: dict[str, str]) -> str:
    host = conninfo.get("host") or conninfo.get("hostaddr") or "the local socket"
    return redact(f"{host}:{conninfo.get('port', '5432')}/{conninfo.get('dbname', '')}")
