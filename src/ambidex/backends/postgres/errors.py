"""Translation of PostgreSQL's refusals and of broken connections into ambidex's errors; the leaf pair raises these.

The invariant: no psycopg exception leaves this package. Whether a call took effect is decided here and nowhere else:
a refusal by the server means that nothing was applied; a connection that broke after a write was handed over means
that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable

from psycopg.pq import DiagnosticField
from psycopg.pq.abc import PGresult

from ambidex import errors

__all__ = ["Lost", "Refused", "from_connect", "from_lost", "from_refusal"]


class Refused(Exception):
    """The server answered a statement with an error; the connection is in order unless ``fatal``."""

    def __init__(self, result: PGresult) -> None:
        self.sqlstate = _field(result, DiagnosticField.SQLSTATE)
        self.message = _field(result, DiagnosticField.MESSAGE_PRIMARY) or result.get_error_message()
        self.fatal = _field(result, DiagnosticField.SEVERITY_NONLOCALIZED) in ("FATAL", "PANIC", "")
        super().__init__(f"{self.message} ({self.sqlstate})")


class Lost(Exception):
    """The connection broke; ``sent`` tells whether (part of) a request had been handed over."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


def _field(result: PGresult, field: DiagnosticField) -> str:
    return (result.error_field(field) or b"").decode(errors="replace")


def from_lost(lost: Lost, where: str, *, write: bool) -> errors.AmbidexError:
    """Return the error for a broken connection."""
    if write and lost.sent:
        return errors.OutcomeUnknown(
            f"the connection to {where} broke after a write was sent: {_line(lost)}; read back before repeating"
        )
    return errors.Unavailable(f"the connection to {where} broke: {_line(lost)}; the call may be repeated")


# What the server or libpq says when a connection cannot be made; libpq hands over no SQLSTATE there.
_CONNECTING: tuple[tuple[tuple[str, ...], type[errors.AmbidexError], str], ...] = (
    (
        ("password authentication failed", "no password supplied", "authentication failed", "pg_hba.conf entry"),
        errors.AuthenticationFailed,
        "check user and password, and the server's pg_hba.conf",
    ),
    (("role ", "database "), errors.ConfigurationError, "correct the URL, or create it"),
    (("permission denied",), errors.PermissionDenied, "grant CONNECT to the user"),
    (
        ("certificate", "does not support SSL", "SSL error", "root.crt", "sslrootcert", "server name"),
        errors.ConfigurationError,
        "the server's certificate does not fit sslmode, sslrootcert and the host's name in the URL",
    ),
    (
        ("too many clients", "too many connections", "remaining connection slots", "no more connections"),
        errors.Overloaded,
        "lower pool_size, or raise the server's max_connections",
    ),
    (("could not translate host name", "invalid "), errors.ConfigurationError, "correct the URL"),
)


def from_connect(error: Exception, where: str) -> errors.AmbidexError:
    """Return the error for a connection that could not be made; nothing was applied."""
    text = _line(error)
    starting = ("starting up", "shutting down", "recovery mode", "not yet accepting")
    if not any(words in text for words in starting):
        for patterns, kind, remedy in _CONNECTING:
            if any(pattern in text for pattern in patterns) and (kind is not errors.ConfigurationError or _final(text)):
                return kind(f"{where} refused the connection: {text}; {remedy}")
    return errors.Unavailable(f"{where} cannot be reached: {text}")


def _final(text: str) -> bool:
    """Tell whether a message about a role, a database or a certificate says that it can never work."""
    return "does not exist" in text or "SSL" in text or "certificate" in text or "invalid" in text or "host" in text


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _kind(cls: type[errors.AmbidexError], remedy: str) -> Callable[[str], errors.AmbidexError]:
    return lambda text: cls(f"{text}; {remedy}")


_CONFLICT = _kind(errors.Conflict, "nothing of it was stored, run it again")
_BY_STATE: dict[str, Callable[[str], errors.AmbidexError]] = {
    "40001": _CONFLICT,
    "40P01": _CONFLICT,
    "55P03": lambda text: errors.Busy(f"{text}; somebody else holds the row, repeat the call", retry_after=0.05),
    "57014": lambda text: errors.DeadlineExceeded(f"the deadline passed in the server: {text}", applied="no"),
    "25P02": _kind(errors.Conflict, "an earlier statement of the transaction failed, run it again"),
    "25P03": _kind(errors.LeaseLost, "do slow work before the transaction, or raise lease_timeout"),
    "25P04": _kind(errors.LeaseLost, "do slow work before the transaction, or raise lease_timeout"),
    "25006": _kind(errors.PermissionDenied, "the server is read-only; name its primary in the URL"),
    "42501": _kind(errors.PermissionDenied, "grant the user what is missing"),
    "23505": _kind(errors.AlreadyExists, "there is one already"),
    "53100": _kind(errors.StorageFull, "free space on the server"),
    "53200": _kind(errors.Overloaded, "the server has no memory left"),
    "53300": _kind(errors.Overloaded, "raise the server's max_connections, or lower pool_size"),
    "54000": _kind(errors.ValueTooLarge, "store it as a blob"),
    "0A000": _kind(errors.Unavailable, "the tables changed meanwhile, repeat the call"),
    "26000": _kind(errors.Unavailable, "set ?pgbouncer=true if a pooler stands before the server"),
    "42P05": _kind(errors.Unavailable, "set ?pgbouncer=true if a pooler stands before the server"),
}
_BY_CLASS: dict[str, Callable[[str], errors.AmbidexError]] = {
    "08": _kind(errors.Unavailable, "repeat the call"),
    "22": _kind(errors.UnsupportedValue, "nothing was stored"),
    "28": _kind(errors.AuthenticationFailed, "check user and password"),
    "40": _CONFLICT,
    "53": _kind(errors.Overloaded, "the server lacks resources"),
    "57": _kind(errors.Unavailable, "repeat the call"),
    "58": _kind(errors.Unavailable, "the server's disk failed"),
    "XX": _kind(errors.Corrupted, "see the server's log"),
}


def from_refusal(refused: Refused, where: str, *, write: bool = False) -> errors.AmbidexError:
    """Return the error for a statement that the server refused."""
    text = f"{where} refused: {refused.message} ({refused.sqlstate or 'no code'})"
    make = _BY_STATE.get(refused.sqlstate) or _BY_CLASS.get(refused.sqlstate[:2])
    if refused.fatal and write and refused.sqlstate not in _BY_STATE:
        # "terminating connection" may also be said after the commit, while the server waits for a replica
        return errors.OutcomeUnknown(f"{text}; read back before repeating")
    return errors.FinalError(text) if make is None else make(text)
