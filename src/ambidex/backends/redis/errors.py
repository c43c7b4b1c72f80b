"""Translation of Redis error replies and broken connections; every module here raises through these functions.

The invariant: no exception of a driver, a socket or TLS leaves this package. A request that was not written, or that
the server refused, was not applied; one that was written and not answered is unknown if it changes data.
"""

from __future__ import annotations

import socket
import ssl

from ambidex import errors

__all__ = ["broken", "code_of", "late", "refused", "unreachable"]

_RETRY_SOON = 0.05


def code_of(reply: Exception) -> str:
    """Return the first word of an error reply, such as "MOVED"."""
    return str(reply).partition(" ")[0]


def refused(reply: Exception, where: str) -> errors.AmbidexError:
    """Return the error for an error reply: the server answered and did not do it."""
    text = str(reply)
    code = code_of(reply)
    if code in ("WRONGPASS", "NOAUTH") or "invalid password" in text or "AUTH <password>" in text:
        return errors.AuthenticationFailed(f"{where} rejected the credentials: {text}; correct them in the URL")
    if code == "NOPERM":
        return errors.PermissionDenied(f"{where}: {text}; grant the user the commands and keys that are used")
    if "OOM command not allowed" in text:
        return errors.StorageFull(f"{where} is out of memory: {text}; raise maxmemory or delete data")
    if code == "MISCONF":
        return errors.StorageFull(f"{where} cannot write to its disk and takes no data: {text}")
    if code == "BUSY":
        return errors.Busy(f"{where} runs a long script: {text}", retry_after=_RETRY_SOON)
    if code in ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "NOREPLICAS", "MOVED", "ASK"):
        return errors.Unavailable(f"{where} cannot serve this now: {text}", retry_after=_RETRY_SOON)
    if "max number of clients" in text:
        return errors.Overloaded(f"{where} has no connection left: {text}; raise maxclients", retry_after=0.2)
    if code == "WRONGTYPE":
        return errors.Corrupted(f"{where} holds something else under this key: {text}; choose another ?prefix=")
    if code == "AMBIDEX":
        return errors.UnsupportedValue(text.removeprefix("AMBIDEX "))
    return errors.FinalError(f"{where} refused: {text}")


def unreachable(error: BaseException, where: str) -> errors.AmbidexError:
    """Return the error for a connection that could not be made."""
    if isinstance(error, errors.AmbidexError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return errors.ConfigurationError(
            f"the certificate of {where} is not trusted: {error}; name its authority with ?ssl_ca_certs="
        )
    if isinstance(error, ssl.SSLError):
        return errors.Unavailable(f"no TLS connection to {where}: {error}")
    if isinstance(error, socket.gaierror):
        return errors.Unavailable(f"the host of {where} is not known: {error}")
    if isinstance(error, TimeoutError):
        return errors.Unavailable(f"{where} did not answer the connection attempt in time")
    return errors.Unavailable(f"{where} cannot be reached: {error}")


def broken(error: BaseException | str, where: str, *, sent: bool, write: bool) -> errors.AmbidexError:
    """Return the error for a call whose connection ended before its reply."""
    if sent and write:
        return errors.OutcomeUnknown(
            f"the connection to {where} ended before the reply: {error}; read before repeating"
        )
    return errors.Unavailable(f"the connection to {where} ended: {error}")


def late(where: str, *, sent: bool) -> errors.DeadlineExceeded:
    """Return the error for a call whose time ran out."""
    if sent:
        return errors.DeadlineExceeded(f"the deadline passed before {where} answered")
    return errors.DeadlineExceeded(f"the deadline passed before the request was sent to {where}", applied="no")
