"""Error replies and broken connections as ambidex's errors."""

import socket
import ssl

import hiredis
import pytest

from ambidex import errors
from ambidex.backends.redis.errors import broken, late, refused, unreachable


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", errors.AuthenticationFailed),
        ("NOAUTH Authentication required.", errors.AuthenticationFailed),
        ("NOPERM this user has no permissions to run the 'get' command", errors.PermissionDenied),
        ("OOM command not allowed when used memory > 'maxmemory'.", errors.StorageFull),
        ("ERR Error running script: -OOM command not allowed when used memory > 'maxmemory'.", errors.StorageFull),
        ("MISCONF Redis is configured to save RDB snapshots", errors.StorageFull),
        ("BUSY Redis is busy running a script.", errors.Busy),
        ("LOADING Redis is loading the dataset in memory", errors.Unavailable),
        ("CLUSTERDOWN Hash slot not served", errors.Unavailable),
        ("READONLY You can't write against a read only replica.", errors.Unavailable),
        ("ERR max number of clients reached", errors.Overloaded),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", errors.Corrupted),
        ("AMBIDEX incr needs an integer", errors.UnsupportedValue),
        ("ERR something new", errors.FinalError),
    ],
)
def test_error_replies(text: str, kind: type[errors.AmbidexError]) -> None:
    error = refused(hiredis.ReplyError(text), "Redis at here")
    assert type(error) is kind
    assert error.applied == "no"


def test_a_sent_write_without_reply_is_unknown() -> None:
    assert type(broken("gone", "here", sent=True, write=True)) is errors.OutcomeUnknown
    assert type(broken("gone", "here", sent=True, write=False)) is errors.Unavailable
    assert type(broken("gone", "here", sent=False, write=True)) is errors.Unavailable
    assert [late("here", sent=sent).applied for sent in (True, False)] == ["unknown", "no"]


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ConnectionRefusedError(111, "refused"), errors.Unavailable),
        (socket.gaierror(-2, "unknown"), errors.Unavailable),
        (TimeoutError(), errors.Unavailable),
        (ssl.SSLError(1, "handshake"), errors.Unavailable),
        (ssl.SSLCertVerificationError(1, "self-signed"), errors.ConfigurationError),
    ],
)
def test_connections_that_cannot_be_made(raised: OSError, kind: type[errors.AmbidexError]) -> None:
    assert type(unreachable(raised, "here")) is kind
