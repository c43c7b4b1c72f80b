"""The options of a PostgreSQL URL, checked; ``database.py`` is built from these.

Everything that libpq knows (``sslmode``, ``sslrootcert``, ``target_session_attrs`` and so on) is handed to it as it is.
Options of ambidex itself:

- ``schema``: the schema that holds the tables; without it, the first one on the user's search path;
- ``pool_size``: connections at most for the threads of a process, and as many for each event loop (10);
- ``pgbouncer``: ``true`` behind a pooler in transaction mode (found out by itself where the pooler hides the server's
  process ids, as PgBouncer does), which rules out named prepared statements and session settings;
- ``tls``: ``true`` asks for an encrypted connection whose certificate is checked in full (``sslmode=verify-full``),
  against the system's authorities unless ``sslrootcert`` names others;
- ``isolation``: of transactions, ``repeatable-read`` (the default: who loses a race gets Conflict), ``serializable``
  or ``read-committed``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from ambidex.errors import ConfigurationError
from ambidex.settings import BackendUrl

__all__ = ["Options"]

_OWN = ("schema", "pool_size", "pgbouncer", "tls", "isolation")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_ISOLATION = {
    "repeatable-read": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
    "read-committed": "READ COMMITTED",
}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Options:
    """What a URL asks for.

    Attributes:
        conninfo: libpq's parameters; may hold a password.
        schema: the schema of the tables, or "".
        pool_size: connections at most, for the threads and for each loop.
        pooled: whether a transaction pooler stands between, as far as the URL says.
        isolation: the level of transactions, as SQL.
    """

    conninfo: dict[str, str]
    schema: str
    pool_size: int
    pooled: bool
    isolation: str

    def __repr__(self) -> str:
        return f"Options(schema={self.schema!r}, pool_size={self.pool_size}, pooled={self.pooled})"

    @classmethod
    def parse(cls, url: BackendUrl, connections: int = 10) -> Options:
        """Read the options of a URL; ``connections`` is the size of a pool where the URL does not say it.

        Raises:
            ConfigurationError: one is unknown or cannot work; the message names it.
        """
        own = {name: value for name, value in url.options if name in _OWN}
        conninfo = _conninfo(url)
        if _flag(url, own, "tls"):
            mode = conninfo.setdefault("sslmode", "verify-full")
            if mode != "verify-full":
                raise ConfigurationError(f"tls=true means sslmode=verify-full, the URL says {mode!r}; remove one")
            conninfo.setdefault("sslrootcert", "system")
        schema = own.get("schema", "")
        if schema and not _SCHEMA.match(schema):
            raise ConfigurationError(f"schema={schema!r} is not a plain name (letters, digits, _)")
        size = own.get("pool_size", str(min(connections, 1000)))
        if not size.isdecimal() or not 1 <= int(size) <= 1000:
            raise ConfigurationError(f"pool_size must be 1 to 1000, not {size!r}")
        isolation = own.get("isolation", "repeatable-read")
        if isolation not in _ISOLATION:
            raise ConfigurationError(f"isolation must be one of {', '.join(_ISOLATION)}, not {isolation!r}")
        return cls(conninfo, schema, int(size), _flag(url, own, "pgbouncer"), _ISOLATION[isolation])


def _flag(url: BackendUrl, own: dict[str, str], name: str) -> bool:
    value = own.get(name, "false").lower()
    if value not in _TRUTH:
        raise ConfigurationError(f"{name} must be true or false, not {value!r} in {url.display!r}")
    return _TRUTH[value]


def _conninfo(url: BackendUrl) -> dict[str, str]:
    parts = urlsplit(url.url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in _OWN]
    try:
        found = conninfo_to_dict(parts._replace(scheme="postgresql", query=urlencode(query)).geturl())
    except ProgrammingError as error:
        raise ConfigurationError(f"{url.display!r} is no PostgreSQL URL: {error}") from None
    conninfo = {name: str(value) for name, value in found.items()}
    conninfo["client_encoding"] = "UTF8"
    conninfo.setdefault("application_name", "ambidex")
    for name in ("keepalives_idle", "keepalives_interval"):
        conninfo.setdefault(name, "15")
    return conninfo
