"""Which bucket, with which credentials, and clients for it; both leaves of the object store take theirs from here.

The invariant: a client made for a number of seconds ends every request, with its retries, within them. obstore fixes
its limits when a client is made, so there is one a step of a coarse scale, and a call takes the next lower step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.store import S3Store

from ambidex.errors import ConfigurationError
from ambidex.runtime.process import ForkLock
from ambidex.settings import BackendUrl

__all__ = ["Target"]

_OPTIONS = ("endpoint", "region", "virtual_hosted", "session_token", "anonymous")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_TRUE = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_STEPS = 4  # to the power of two: the next lower step is at least five sixths of what was asked for
_RETRIES = 2


class Target:
    """A bucket and a prefix in it.

    Args:
        url: ``s3://key:secret@bucket/prefix?endpoint=…&region=…&virtual_hosted=…``; what it does not say comes from the
            usual ``AWS_*`` variables.
        timeout: the most seconds of a request.

    Raises:
        ConfigurationError: no bucket, an unknown option, or half of the credentials.
    """

    def __init__(self, url: BackendUrl, timeout: float) -> None:
        parts = urlsplit(url.url)
        self.place = f"the bucket s3://{parts.hostname or ''}{parts.path}"
        self.timeout = timeout
        self._bucket = parts.hostname or ""
        self._prefix = url.path.strip("/")
        options = dict(url.options)
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ConfigurationError(
                f"unknown option {unknown[0]!r} in {url.display!r}; there are: {', '.join(_OPTIONS)}"
            )
        if not self._bucket or any(part in ("", ".", "..") for part in self._prefix.split("/") if self._prefix):
            raise ConfigurationError(f"{url.display!r} names no bucket and prefix; one looks like s3://bucket/prefix")
        self._config = _config(parts.username, parts.password, options, self._bucket, url.display)
        self._clients: dict[int, S3Store] = {}
        self._guard = ForkLock()

    def client(self, seconds: float) -> S3Store:
        """Return a client whose calls end within so many seconds."""
        step = math.floor(_STEPS * math.log2(max(0.001, min(seconds, self.timeout))))
        client = self._clients.get(step)
        if client is None:
            with self._guard:
                client = self._clients.get(step)
                if client is None:
                    client = self._clients[step] = self._make(2 ** (step / _STEPS))
        return client

    def forget(self) -> None:
        """Let go of the clients and their connections."""
        with self._guard:
            self._clients = {}

    def _make(self, seconds: float) -> S3Store:
        # The last attempt starts at most after 0.4 + 0.1 of the time and takes at most half of it.
        limits: dict[str, Any] = {
            "allow_http": str(self._config.get("endpoint", "")).startswith("http://"),
            "timeout": timedelta(seconds=seconds * 0.5),
            "connect_timeout": timedelta(seconds=min(5.0, seconds * 0.5)),
        }
        retry: dict[str, Any] = {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=seconds * 0.4),
            "backoff": {"init_backoff": timedelta(seconds=0.05), "max_backoff": timedelta(seconds=seconds * 0.1)},
        }
        make: Callable[..., S3Store] = S3Store
        return make(
            self._bucket, prefix=self._prefix or None, config=self._config, client_options=limits, retry_config=retry
        )


def _config(
    user: str | None, secret: str | None, options: Mapping[str, str], bucket: str, shown: str
) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if (user is None) != (secret is None):
        raise ConfigurationError(f"{shown!r} has half of the credentials; write s3://key:secret@bucket")
    if user is not None and secret is not None:
        config |= {"access_key_id": unquote(user), "secret_access_key": unquote(secret)}
    for option in ("region", "session_token"):
        if option in options:
            config[option] = options[option]
    hosted = _flag("virtual_hosted", options, shown)
    if _flag("anonymous", options, shown):
        config["skip_signature"] = True
    endpoint = options.get("endpoint") or next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    if endpoint:
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(f"the endpoint in {shown!r} must begin with https:// or http://")
        scheme, _, host = endpoint.rstrip("/").partition("://")
        # obstore wants the bucket in the host where requests are addressed so
        config["endpoint"] = f"{scheme}://{bucket}.{host}" if hosted else f"{scheme}://{host}"
    config["virtual_hosted_style_request"] = hosted
    return config


def _flag(name: str, options: Mapping[str, str], shown: str) -> bool:
    value = options.get(name, "0").lower()
    if value not in _TRUE:
        raise ConfigurationError(f"{name} in {shown!r} must be true or false, not {value!r}")
    return _TRUE[value]
