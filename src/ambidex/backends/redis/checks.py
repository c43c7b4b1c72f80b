"""What a server's settings mean for the durability that was asked for; asked once of each server, with the login.

The invariant: a server whose settings cannot be read (managed ones often forbid CONFIG) is taken as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from ambidex.backends.redis.wire import ReplyError, pack
from ambidex.errors import ConfigurationError
from ambidex.settings import Durability

__all__ = ["COMMANDS", "examine"]

_log = logging.getLogger("ambidex")
_NAMES = ("maxmemory-policy", "appendonly", "appendfsync")

COMMANDS = [pack("CONFIG", "GET", name) for name in _NAMES]
"""One command for each setting, because servers before 7.0 take only one name."""


def examine(replies: Iterable[Any], durability: Durability, where: str) -> None:
    """Warn of settings that lose data, given the replies to :data:`COMMANDS`.

    Raises:
        ConfigurationError: durability is asked for and the server drops any key when its memory is full.
    """
    found: dict[str, str] = {}
    for reply in replies:
        if isinstance(reply, ReplyError):
            _log.debug("the settings of %s cannot be read: %s", where, reply)
        else:
            found.update({name.decode(): value.decode() for name, value in dict(reply).items()})
    policy = found.get("maxmemory-policy", "noeviction")
    if policy.startswith("allkeys-"):
        problem = (
            f"{where} has maxmemory-policy {policy}, which deletes stored data when memory is full; "
            "set it to noeviction or volatile-ttl"
        )
        if durability == "durable":
            raise ConfigurationError(f"{problem}, or say that losing data is fine with ?durability=relaxed")
        _log.warning("%s", problem)
    if durability == "durable":
        _warn_of_loss(found, where)


def _warn_of_loss(found: dict[str, str], where: str) -> None:
    if found.get("appendonly", "yes") != "yes":
        _log.warning(
            "%s has appendonly no: writes since the last snapshot are lost when it stops; "
            "set appendonly yes and appendfsync always, or say ?durability=relaxed",
            where,
        )
    elif found.get("appendfsync", "always") != "always":
        _log.warning(
            "%s has appendfsync %s: the last moments of writes are lost in a power cut; "
            "set appendfsync always, or say ?durability=relaxed",
            where,
            found["appendfsync"],
        )
