"""A Redis URL as data; :class:`ambidex.backends.redis.RedisBackend` parses its URL with :func:`parse`.

The forms::

    redis://user:password@host:6379/0            one server (also valkey://)
    redis+cluster://user:password@h1:6379,h2:6379 any nodes of a Cluster; the others are found from them
    redis+sentinel://:password@h1:26379,h2:26379/service/0
    rediss://…  rediss+cluster://…  rediss+sentinel://…   the same over TLS (also valkeys://)

The invariant: what cannot work is refused here, before any I/O, and no message or ``repr`` shows a password.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from ambidex.errors import ConfigurationError
from ambidex.settings import BackendUrl

__all__ = ["Address", "Login", "Target", "parse"]

_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^\[\]:,@]+))(?::(?P<port>\d{1,5}))?\Z")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,100}\Z")  # no brace: a hash tag is formed around the whole key
_OPTIONS = (
    "connect_timeout",
    "db",
    "pool_size",
    "prefix",
    "sentinel_password",
    "sentinel_username",
    "service",
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "wait_replicas",
    "wait_timeout",
)


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Login:
    """Who to log in as; an empty user name is the server's default user."""

    username: str = ""
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Everything that a URL says.

    Attributes:
        mode: what stands at the hosts.
        hosts: one server, some nodes of a Cluster, or the Sentinels.
        display: the URL for messages, without secrets.
        login: for the servers that hold data.
        db: the logical database, 0 in a Cluster.
        service: the master's name among the Sentinels.
        sentinel_login: for the Sentinels themselves.
        tls: options of the ``ssl_`` kind, or None without TLS.
        prefix: what every key begins with, so that other users of the database are left alone.
        pool_size: connections of synchronous callers to each server.
        connect_timeout: seconds for one connection attempt.
        wait_replicas: how many replicas must have a write before it is acknowledged.
        wait_timeout: seconds that they have for it.
    """

    mode: Literal["single", "cluster", "sentinel"]
    hosts: tuple[Address, ...]
    display: str
    login: Login = Login()
    db: int = 0
    service: str = ""
    sentinel_login: Login = Login()
    tls: Mapping[str, str] | None = field(default=None, repr=False)
    prefix: str = "ambidex:"
    pool_size: int = 10
    connect_timeout: float = 5.0
    wait_replicas: int = 0
    wait_timeout: float = 1.0

    def context(self) -> ssl.SSLContext | None:
        """Return what TLS connections are made with; None without TLS.

        The server's certificate and name are verified unless ``ssl_cert_reqs=none`` or ``ssl_check_hostname=false``
        say otherwise.

        Raises:
            ConfigurationError: a certificate file cannot be read.
        """
        if self.tls is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls.get("ssl_ca_certs"))
            if "ssl_certfile" in self.tls:
                context.load_cert_chain(self.tls["ssl_certfile"], self.tls.get("ssl_keyfile"))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"a certificate file of {self.display} cannot be used: {error}") from None
        unverified = self.tls.get("ssl_cert_reqs", "required") == "none"
        if unverified or self.tls.get("ssl_check_hostname", "true") == "false":
            context.check_hostname = False
        if unverified:
            context.verify_mode = ssl.CERT_NONE
        return context


def parse(place: BackendUrl, connections: int = 10) -> Target:
    """Read a URL; ``connections`` is the size of a pool where the URL does not say it.

    Raises:
        ConfigurationError: some part of it cannot work; the message names it.
    """
    parts = urlsplit(place.url)
    options = dict(place.options)
    for name in options:
        if name not in _OPTIONS:
            raise ConfigurationError(
                f"unknown option {name!r} in {place.display!r}; Redis knows: {', '.join(_OPTIONS)}"
            )
    secure = place.scheme.startswith(("rediss", "valkeys"))
    mode: Literal["single", "cluster", "sentinel"] = "single"
    if place.scheme.endswith("+cluster"):
        mode = "cluster"
    elif place.scheme.endswith("+sentinel"):
        mode = "sentinel"
    user, _, hosts = parts.netloc.rpartition("@")
    service, db = _path(mode, parts.path, options, place.display)
    return Target(
        mode=mode,
        hosts=_hosts(mode, hosts, place.display),
        display=place.display,
        login=_login(user),
        db=db,
        service=service,
        sentinel_login=Login(options.get("sentinel_username", ""), options.get("sentinel_password")),
        tls=_tls(options, place.display, secure=secure),
        prefix=_prefix(options.get("prefix", "ambidex:"), place.display),
        pool_size=int(_number(options, "pool_size", connections, 1, 20_000)),
        connect_timeout=_number(options, "connect_timeout", 5.0, 0.01, 3600),
        wait_replicas=int(_number(options, "wait_replicas", 0, 0, 100)),
        wait_timeout=_number(options, "wait_timeout", 1.0, 0.01, 3600),
    )


def _login(user: str) -> Login:
    name, colon, password = user.partition(":")
    return Login(unquote(name), unquote(password) if colon else None)


def _hosts(mode: str, text: str, display: str) -> tuple[Address, ...]:
    default = 26379 if mode == "sentinel" else 6379
    found = []
    for part in (text or "localhost").split(","):
        match = _HOST.match(part)
        port = int(match["port"] or default) if match else 0
        if match is None or not 0 < port < 65536:
            raise ConfigurationError(f"{part!r} in {display!r} is no host:port")
        found.append(Address(match["six"] or unquote(match["name"]), port))
    if mode == "single" and len(found) > 1:
        raise ConfigurationError(f"{display!r} names several hosts; write redis+cluster:// or redis+sentinel://")
    return tuple(found)


def _path(mode: str, path: str, options: Mapping[str, str], display: str) -> tuple[str, int]:
    """Return the Sentinel service and the database number."""
    parts = [unquote(part) for part in path.strip("/").split("/") if part]
    service = options.get("service", "")
    if mode == "sentinel":
        service = parts.pop(0) if parts else service
        if not service:
            raise ConfigurationError(f"{display!r} needs the master's name: redis+sentinel://host:26379/mymaster/0")
    text = options.get("db", parts.pop(0) if parts else "0")
    if parts or not text.isascii() or not text.isdigit():
        raise ConfigurationError(f"the path of {display!r} must be a database number such as /0")
    if mode == "cluster" and int(text):
        raise ConfigurationError(f"a Cluster has only database 0, and {display!r} asks for {text}")
    return service, int(text)


def _tls(options: Mapping[str, str], display: str, *, secure: bool) -> dict[str, str] | None:
    chosen = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if chosen and not secure:
        raise ConfigurationError(f"{display!r} has {min(chosen)} and no TLS; write rediss:// for it")
    for name, allowed in (("ssl_cert_reqs", ("required", "none")), ("ssl_check_hostname", ("true", "false"))):
        if chosen.get(name, allowed[0]) not in allowed:
            raise ConfigurationError(f"{name} must be {' or '.join(allowed)}, not {chosen[name]!r}")
    return chosen if secure else None


def _prefix(text: str, display: str) -> str:
    if not _PREFIX.match(text):
        raise ConfigurationError(f"the prefix in {display!r} must be 1 to 100 of A-Z a-z 0-9 _ . : -")
    return text


def _number(options: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    try:
        number = float(options.get(name, default))
    except ValueError:
        number = -1.0
    if not low <= number <= high:
        raise ConfigurationError(f"{name} must be between {low:g} and {high:g}, not {options[name]!r}")
    return number
