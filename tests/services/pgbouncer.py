"""A private PgBouncer in transaction mode before a PostgreSQL server, where it is installed.

Clients are trusted and reach the upstream's database as the upstream's user. In transaction mode
two statements of one client may run on two server connections: what a session keeps (named
prepared statements, SET, advisory locks) does not follow the client.
"""

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg

from tests.services import postgres
from tests.services.accounts import Account, unprivileged
from tests.services.handle import Flavour, Server
from tests.services.postgres import PostgresServer


def binary() -> Path | str:
    """Return pgbouncer's path, or the reason why there is none."""
    # Distributions put it in sbin, which an ordinary user's PATH lacks.
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    found = shutil.which("pgbouncer", path=folders)
    return Path(found) if found else "pgbouncer is not installed"


def unavailable(flavour: Flavour = "system") -> str | None:
    """Why PgBouncer cannot run here, or None. There is no wheel of it."""
    if flavour != "system":
        return "no pip package carries PgBouncer"
    account, found = unprivileged(), binary()
    return next((reason for reason in (found, account) if isinstance(reason, str)), None)


class PgBouncerServer(Server):
    """PgBouncer before the PostgreSQL server at the URL `upstream`, `pool_size` connections wide.

    Without `upstream` it brings a PostgreSQL of its own along, of whichever flavour runs.
    """

    kind = "pgbouncer"
    stop_signal = signal.SIGKILL  # it keeps nothing; which gentler signal waits depends on its version

    def __init__(
        self,
        upstream: str | None = None,
        *,
        pool_size: int = 2,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("system")
        self._upstream = upstream
        self._pool_size = pool_size
        self._settings = dict(settings or {})
        self.postgres: PostgresServer | None = None
        """The PostgreSQL that came along, once started."""
        account = unprivileged()
        if isinstance(account, Account):
            self.account = account

    @property
    def url(self) -> str:
        upstream = urlsplit(self._upstream or "")
        user, database = upstream.username or "postgres", upstream.path.lstrip("/") or "postgres"
        return f"postgresql://{user}@{self.host}:{self.port}/{database}"

    def unavailable(self) -> str | None:
        missing = unavailable()
        if missing is None and self._upstream is None:
            missing = postgres.unavailable("wheel") and postgres.unavailable("system")
        return missing

    def stop(self) -> None:
        super().stop()
        if self.postgres is not None:
            self.postgres.stop()
            self.postgres = self._upstream = None

    def configure(self, *, fresh: bool) -> None:
        if self._upstream is None:
            flavour: Flavour = "system" if postgres.unavailable("wheel") else "wheel"
            self.postgres = PostgresServer(flavour).start()
            self._upstream = self.postgres.url
        upstream = urlsplit(self._upstream)
        user, secret = unquote(upstream.username or "postgres"), unquote(upstream.password or "")
        settings = {
            "listen_addr": self.host,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",  # not `any`: with a wildcard database that fails
            "auth_file": str(self.directory / "users.txt"),
            "admin_users": user,  # may run SHOW POOLS and the like in the database `pgbouncer`
            "pool_mode": "transaction",
            "default_pool_size": str(self._pool_size),
            "max_client_conn": "500",
        } | self._settings
        database = f"* = host={upstream.hostname} port={upstream.port or 5432}"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        self._write("pgbouncer.ini", "\n".join(["[databases]", database, "[pgbouncer]", *lines]))
        quoted = [word.replace('"', '""') for word in (user, secret)]
        self._write("users.txt", '"{}" "{}"'.format(*quoted))

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        self.account.own(path)

    def command(self) -> list[str]:
        return [str(binary()), str(self.directory / "pgbouncer.ini")]

    def check(self) -> None:
        with psycopg.connect(self.url, connect_timeout=2, autocommit=True, prepare_threshold=None) as connection:
            connection.execute("SELECT 1")
