"""Frozen settings from a URL, keyword overrides, the environment or TOML text; ``ambidex.storage`` is built from one.

The invariant: nothing here does I/O, opens anything or imports a driver, and no secret appears in a ``repr``. A
setting that cannot work is refused here, with its name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ambidex.errors import ConfigurationError, redact

__all__ = ["OVERRIDES", "SCHEMES", "BackendUrl", "Settings", "default_url"]

OVERRIDES = ("kv", "records", "search", "blobs", "log", "locks")
"""The capabilities that a keyword of ``UnifiedStorage`` can place on another backend."""

SCHEMES: Mapping[str, str] = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "valkeys": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "s3": "objects",
    "file": "files",
}
"""URL scheme to the name of the backend's folder."""

_EXTRAS = {"postgres": "postgres", "redis": "redis", "objects": "objects"}
_SUFFIXED = {"postgresql", "postgres", "sqlite"}  # SQLAlchemy writes the driver behind a plus sign
_COMMON = ("timeout", "durability", "max_value_bytes", "lease_timeout", "embedder")
_EMBEDDERS = ("auto", "none", "wordllama", "minilm")

Durability = Literal["durable", "relaxed"]


class BackendUrl(NamedTuple):
    """A parsed URL: which backend, where, and its own options."""

    backend: str
    scheme: str
    url: str
    """The URL without ambidex's own options, as the driver wants it; may hold a password."""
    path: str
    """The decoded path, for file backends."""
    options: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"BackendUrl({self.display})"

    @property
    def display(self) -> str:
        """The URL without secrets."""
        return redact(self.url)


class Settings:
    """Everything that can be chosen, checked and frozen.

    Args:
        url: where the data lives; None means ``AMBIDEX_URL`` or the embedded default.
        timeout: seconds that a call may take in all, retries included.
        durability: "durable" (an acknowledged write survives a power cut) or "relaxed" (it survives a crash of the
            process).
        max_value_bytes: the largest stored value.
        lease_timeout: seconds that a transaction may hold the writer.
        secret: what cursors of pages are signed with; None means ``AMBIDEX_SECRET``, else a secret that is kept in the
            storage itself.
        json_serializer: writes the nested data of records as JSON text; None means the usual encoder.
        pool_size: connections to a server that a pool may have; None means the backend's own choice. One in the URL
            comes first.
        max_overflow: connections beyond ``pool_size`` that it may have.
        embedder: what makes vectors of the texts of the index: a callable (see
            :class:`ambidex.core.embedding.Embedder`), "wordllama" (extra ``search``), "minilm" (extra ``minilm``) or
            "minilm:/folder" with the model's files, "none", or "auto": WordLlama if it is installed. Nothing is ever
            downloaded.
        **overrides: a URL for a capability that is kept elsewhere (see :data:`OVERRIDES`).

    Raises:
        ConfigurationError: a URL, option or value that cannot work; the message names it.
    """

    __slots__ = (
        "durability",
        "embedder",
        "json_serializer",
        "lease_timeout",
        "local_blobs",
        "max_overflow",
        "max_value_bytes",
        "overrides",
        "pool_size",
        "secret",
        "timeout",
        "url",
    )

    url: BackendUrl
    overrides: Mapping[str, BackendUrl]
    timeout: float
    durability: Durability
    embedder: Any
    max_value_bytes: int
    lease_timeout: float
    secret: bytes | None
    json_serializer: Callable[[Any], str | bytes] | None
    pool_size: int | None
    max_overflow: int | None
    local_blobs: BackendUrl
    """Where media goes if neither the main backend nor ``blobs`` has a place for it: the user's data folder."""

    def __init__(  # noqa: PLR0913  # every setting by its name
        self,
        url: str | None = None,
        *,
        timeout: float | None = None,
        durability: Durability | None = None,
        max_value_bytes: int | None = None,
        lease_timeout: float | None = None,
        secret: str | bytes | None = None,
        json_serializer: Callable[[Any], str | bytes] | None = None,
        pool_size: int | None = None,
        max_overflow: int | None = None,
        embedder: Any = None,
        environ: Mapping[str, str] | None = None,
        **overrides: str | None,
    ) -> None:
        env = os.environ if environ is None else environ
        parsed, own = parse_url(default_url(env) if url is None else url)

        def pick(name: str, given: Any, default: Any) -> Any:
            for value in (given, own.get(name), env.get(f"AMBIDEX_{name.upper()}")):
                if value is not None:
                    return value
            return default

        put = object.__setattr__
        put(self, "url", parsed)
        put(self, "timeout", _number("timeout", pick("timeout", timeout, 30.0), 0.001, 86_400))
        put(self, "lease_timeout", _number("lease_timeout", pick("lease_timeout", lease_timeout, 10.0), 0.001, 86_400))
        put(
            self, "durability", _choice("durability", pick("durability", durability, "durable"), ("durable", "relaxed"))
        )
        size = _number(
            "max_value_bytes", pick("max_value_bytes", max_value_bytes, 64 * 1024 * 1024), 1, 512 * 1024 * 1024
        )
        put(self, "max_value_bytes", int(size))
        put(self, "secret", _secret(secret or env.get("AMBIDEX_SECRET")))
        if json_serializer is not None and not callable(json_serializer):
            raise ConfigurationError("json_serializer must be callable, e.g. json.dumps")
        put(self, "json_serializer", json_serializer)
        put(self, "pool_size", None if pool_size is None else int(_number("pool_size", pool_size, 1, 10_000)))
        overflow = None if max_overflow is None else int(_number("max_overflow", max_overflow, 0, 10_000))
        put(self, "max_overflow", overflow)
        put(self, "embedder", _embedder(pick("embedder", embedder, "auto")))
        put(self, "overrides", _parse_overrides(overrides))
        put(self, "local_blobs", parse_url(f"file://{_quoted(_data_folder(env))}/blobs")[0])

    def connections(self, default: int) -> int:
        """Return how many connections a pool may have, in all; ``default`` where nothing was chosen."""
        return default if self.pool_size is None else self.pool_size + (self.max_overflow or 0)

    @classmethod
    def from_toml(cls, text: str) -> Settings:
        """Read settings from the ``[ambidex]`` table of TOML text (keys as the arguments of this class)."""
        import tomllib

        try:
            table = tomllib.loads(text).get("ambidex", {})
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"the settings are not TOML: {error}") from None
        if not isinstance(table, dict):
            raise ConfigurationError("the settings have a value named ambidex where a table [ambidex] is expected")
        unknown = set(table) - {"url", *_COMMON, *OVERRIDES}
        if unknown:
            raise ConfigurationError(f"unknown setting {min(unknown)!r} in [ambidex]")
        return cls(table.pop("url", None), **table)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are frozen; make new ones to change {name!r}")

    def __repr__(self) -> str:
        places = "".join(f", {name}={place.display!r}" for name, place in self.overrides.items())
        return f"Settings({self.url.display!r}{places}, timeout={self.timeout}, durability={self.durability!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, ({name: getattr(self, name) for name in self.__slots__},)


def _restore(values: dict[str, Any]) -> Settings:
    settings = object.__new__(Settings)
    for name, value in values.items():
        object.__setattr__(settings, name, value)
    return settings


def _parse_overrides(overrides: Mapping[str, str | None]) -> dict[str, BackendUrl]:
    places: dict[str, BackendUrl] = {}
    for name, place in overrides.items():
        if name not in OVERRIDES:
            raise ConfigurationError(
                f"unknown setting {name!r}; a capability can be placed elsewhere by: {', '.join(OVERRIDES)}"
            )
        if place is not None:
            places[name] = parse_url(place)[0]
    return places


def parse_url(url: str) -> tuple[BackendUrl, dict[str, str]]:
    """Split a URL into the backend's part and ambidex's own options (``?timeout=5&durability=relaxed``).

    Raises:
        ConfigurationError: no URL, an unknown scheme, or a missing path; the message shows a URL that works.
    """
    if "://" not in (url if type(url) is str else ""):
        raise ConfigurationError(
            f"{redact(str(url))!r} is not a storage URL; one looks like sqlite:///data.db or redis://localhost:6379/0"
        )
    if "\x00" in url:
        raise ConfigurationError("the storage URL contains a NUL character")
    scheme, rest = url.split("://", 1)
    scheme = scheme.lower()
    base, plus, _driver = scheme.partition("+")
    if plus and base in _SUFFIXED:
        scheme = base
    backend = SCHEMES.get(scheme) or _registered.get(scheme)
    if backend is None:
        known = ", ".join(sorted({*SCHEMES, *_registered}))
        raise ConfigurationError(f"unknown scheme {scheme!r} in {redact(url)!r}; there are: {known}")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        # sqlite://:memory: is no host and port, and several hosts are their backend's to read
        _port = None if backend == "sqlite" or "," in parts.netloc else parts.port
    except ValueError as error:
        raise ConfigurationError(f"the storage URL {redact(url)!r} is malformed: {error}") from None
    if "#" in rest:
        raise ConfigurationError(f"write %23 for the # in {redact(url)!r}: what stands behind it would be ignored")
    query = parse_qsl(parts.query, keep_blank_values=True)
    own = {name: value for name, value in query if name in _COMMON}
    others = tuple((name, value) for name, value in query if name not in _COMMON)
    path = unquote(parts.path)
    if backend == "sqlite":
        path = _sqlite_path(url, parts.netloc, path, others)
    elif backend == "memory" and others:
        raise ConfigurationError(f"unknown option {others[0][0]!r} in {redact(url)!r}")
    clean = f"{scheme}://{parts.netloc}{parts.path}" + (f"?{urlencode(others)}" if others else "")
    return BackendUrl(backend, scheme, clean, path, others), own


def _sqlite_path(url: str, host: str, path: str, options: tuple[tuple[str, str], ...]) -> str:
    if options:
        raise ConfigurationError(f"unknown option {options[0][0]!r} in {url!r}; SQLite knows: {', '.join(_COMMON)}")
    if host == ":memory:" or path in ("", "/", "/:memory:"):
        if host not in ("", ":memory:"):
            raise ConfigurationError(f"{url!r} has no path; write sqlite:///relative.db or sqlite:////absolute.db")
        return ":memory:"
    if host:
        raise ConfigurationError(f"{url!r} names a host; write three slashes for a file: sqlite:///{host}{path}")
    return path[1:]


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} must be a number, not {value!r}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise ConfigurationError(f"{name} must be between {low:g} and {high:g}, not {value!r}")
    return number


def _secret(value: str | bytes | None) -> bytes | None:
    if value is None:
        return None
    secret = value.encode() if isinstance(value, str) else bytes(value)
    if len(secret) < 16:
        raise ConfigurationError(
            "secret must have at least 16 bytes; make one with python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return secret


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return str(value)


def _embedder(value: Any) -> Any:
    if callable(value) or (isinstance(value, str) and len(value) > len("minilm:") and value.startswith("minilm:")):
        return value
    return _choice("embedder", value, _EMBEDDERS)


_registered: dict[str, str] = {}


def register_scheme(scheme: str, backend: str) -> None:
    """Let URLs of ``scheme`` name the backend ``backend`` (for third-party backends)."""
    _registered[scheme] = backend


def extra_for(backend: str) -> str | None:
    """Return the pip extra that brings a backend's driver, or None."""
    return _EXTRAS.get(backend)


def default_url(environ: Mapping[str, str]) -> str:
    """Return ``AMBIDEX_URL``, else a SQLite file in the platform's folder for user data."""
    url = environ.get("AMBIDEX_URL")
    if url:
        return url
    return f"sqlite:///{_quoted(_data_folder(environ))}/ambidex.db"


def _data_folder(environ: Mapping[str, str]) -> str:
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        base = environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        base = environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    return os.path.join(base, "ambidex")


def _quoted(path: str) -> str:
    return quote(path.replace(os.sep, "/"), safe="/:")
