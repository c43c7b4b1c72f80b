"""The protocol without I/O: packing, reading, logging in; both colours' connections use it.

RESP3 (https://redis.io/docs/latest/develop/reference/protocol-spec/), parsed by hiredis, the parser of redis-py. The
invariant: nothing here waits, and one reply follows each command, in order; pushed messages are not replies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import hiredis

from ambidex.backends.redis.errors import code_of, refused
from ambidex.backends.redis.target import Login
from ambidex.errors import AmbidexError, AuthenticationFailed, ConfigurationError

__all__ = ["NOTHING", "Push", "ReplyError", "Script", "check_login", "login_commands", "new_reader", "pack"]

NOTHING: Final = object()
"""What the reader returns when the next reply is not complete."""

ReplyError = hiredis.ReplyError
Push = hiredis.PushNotification

Word = str | bytes | int


def new_reader() -> hiredis.Reader:
    """Return a parser for one connection."""
    return hiredis.Reader(notEnoughData=NOTHING)


def pack(*words: Word) -> bytes:
    """Return one command as bytes."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if type(word) is bytes else (word if type(word) is str else str(word)).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class Script:
    """A Lua script, run by its SHA-1 and sent whole only where the server does not know it.

    The invariant of every script here: all its keys share one slot.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def by_sha(self, keys: Iterable[Word], args: Iterable[Word]) -> bytes:
        """Return the command for a server that knows it."""
        return self._pack("EVALSHA", self._sha, keys, args)

    def whole(self, keys: Iterable[Word], args: Iterable[Word]) -> bytes:
        """Return the command for one that does not; afterwards it does."""
        return self._pack("EVAL", self._source, keys, args)

    def _pack(self, command: str, what: str, keys: Iterable[Word], args: Iterable[Word]) -> bytes:
        keys = list(keys)
        return pack(command, what, len(keys), *keys, *args)


def login_commands(login: Login, db: int) -> list[bytes]:
    """Return the commands that begin a connection."""
    hello: list[Word] = ["HELLO", 3]
    if login.password is not None:
        hello += ["AUTH", login.username or "default", login.password]
    commands = [pack(*hello, "SETNAME", "ambidex")]
    if db:
        commands.append(pack("SELECT", db))
    return commands


def check_login(replies: Iterable[Any], where: str) -> dict[bytes, Any]:
    """Return what the server says of itself, given the replies to :func:`login_commands`.

    Raises:
        AuthenticationFailed: wrong or missing credentials.
        ConfigurationError: too old a server, or no such database.
        Unavailable: it is starting.
    """
    hello, *others = replies
    for reply in (hello, *others):
        if isinstance(reply, ReplyError):
            raise _refused_login(reply, where)
    return dict(hello)


def _refused_login(reply: Exception, where: str) -> AmbidexError:
    text = str(reply)
    if code_of(reply) == "NOPROTO" or "unknown command" in text.lower():
        return ConfigurationError(f"{where} does not speak RESP3; Redis 6 or newer, or Valkey, is needed")
    if "DB index" in text:
        return ConfigurationError(f"{where} has no such database: {text}")
    if "without any password configured" in text:
        return AuthenticationFailed(f"{where} has no password set, and the URL gives one; remove it from the URL")
    return refused(reply, where)
