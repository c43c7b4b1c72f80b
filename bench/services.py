"""Servers and storages for the rows that need one; ``bench.redis`` and ``bench.postgres`` call this.

A private server is started at first use and serves every row of the run; it ends with the process. The environment
variables that point the tests at an existing server point the benchmarks at it, too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ambidex import UnifiedStorage
from ambidex.core.ports import Capability
from ambidex.errors import ConfigurationError
from bench.data import KEYS, document
from bench.harness import CannotRun, require

__all__ = ["settle", "storage", "url"]


@functools.cache
def url(kind: str) -> str:
    """Return the URL of a running server.

    Args:
        kind: its name in ``tests.services.catalogue``.

    Raises:
        CannotRun: none of its flavours can run here.
    """
    service = require("tests.services.catalogue", "the folder tests/services").KINDS[kind]
    reasons = []
    for flavour in service.flavours:
        reason = service.unavailable(flavour)
        if reason is None:
            return str(_made(kind, service, flavour).start().url)
        reasons.append(f"{flavour}: {reason}")
    raise CannotRun(f"no {kind} server ({'; '.join(reasons)})")


def _made(kind: str, service: Any, flavour: str) -> Any:
    """Return a server as it is run in earnest: the tests' PostgreSQL has little memory, so that it starts fast."""
    if kind != "postgres" or flavour == "external":
        return service.create(flavour)
    return require("tests.services.postgres").PostgresServer(flavour, settings={"shared_buffers": "512MB"})


@contextmanager
def storage(kind: str) -> Iterator[UnifiedStorage]:
    """Open our storage on a server, with the documents in it.

    Raises:
        CannotRun: this version of ambidex has no such backend, or its driver is not installed.
    """
    opened = UnifiedStorage(url(kind))
    try:
        kv = opened.sync.kv
    except ConfigurationError as error:
        raise CannotRun(str(error)) from None
    try:
        kv.set_many({key: document(number) for number, key in enumerate(KEYS)})
        yield opened
    finally:
        opened.sync.close()


def settle(storage: UnifiedStorage, namespace: str, vector: Any) -> None:
    """Wait until what PostgreSQL does for a namespace of the index beside the calls is done; nothing elsewhere.

    Args:
        storage: what holds it.
        namespace: of the index.
        vector: one to ask with, which shows what there is to be done.
    """
    if storage.settings.overrides.get("search", storage.settings.url).backend != "postgres":
        return
    index = storage.sync.index
    database = storage._core.leaf(Capability.SEARCH, True)._db  # type: ignore[attr-defined]
    if (thread := database.upkeep._thread) is not None:
        thread.join()
    index.search("", vector=vector, namespace=namespace)
    upkeep, space = database.upkeep, index._space(namespace)
    upkeep.look_after(space, upkeep.look_after(space))
