"""Every exception that ambidex raises; callers catch these, and no driver's own exception ever escapes.

The invariant: each class says whether the operation took effect (``applied``), whether the same call may be
repeated (``retryable``), and, when the server said so, how long to wait (``retry_after``, seconds).

The tree::

    AmbidexError
    ├── RetryableError            applied "no",  retryable
    │   ├── Unavailable           the server cannot be reached
    │   │   └── CircuitOpen       it failed so often that calls are refused for a while
    │   ├── Overloaded            more work is waiting than can be served in time
    │   │   └── PoolTimeout       no connection came free before the deadline
    │   ├── Busy                  somebody else holds the write lock
    │   ├── Conflict              a concurrent transaction won; run the unit again
    │   └── RateLimited           the server asks for a pause
    ├── UncertainError            applied "unknown", not retryable without an operation id
    │   ├── OutcomeUnknown        the connection broke after the request was sent
    │   │   └── NotReplicated     made, but too few replicas have it: a failover would lose it
    │   └── DeadlineExceeded      the call's time ran out (also a TimeoutError)
    ├── FinalError                applied "no", repeating cannot help
    │   ├── NotFound              (also a LookupError)
    │   ├── AlreadyExists
    │   ├── VersionConflict
    │   ├── InvalidKey            (also a ValueError)
    │   ├── InvalidQuery          (also a ValueError)
    │   ├── UnsupportedValue      (also a ValueError)
    │   │   └── ValueTooLarge
    │   ├── PermissionDenied
    │   │   ├── TenantMismatch
    │   │   └── AuthenticationFailed
    │   ├── LeaseLost
    │   ├── StorageFull
    │   ├── Corrupted
    │   ├── DecryptionFailed
    │   ├── ConfigurationError    (also a ValueError)
    │   ├── CapabilityMissing
    │   └── PartialFailure        a batch, item by item; applied "unknown" where a part was
    └── UsageError                a bug in the calling code (also a RuntimeError)
        ├── WrongLoop
        ├── ForkedUse
        ├── NestedCheckout
        ├── Closed
        └── Suspended
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

Applied = Literal["no", "yes", "unknown"]

__all__ = [
    "AlreadyExists",
    "AmbidexError",
    "AuthenticationFailed",
    "Busy",
    "CapabilityMissing",
    "CircuitOpen",
    "Closed",
    "ConfigurationError",
    "Conflict",
    "Corrupted",
    "DeadlineExceeded",
    "DecryptionFailed",
    "FinalError",
    "ForkedUse",
    "InvalidKey",
    "InvalidQuery",
    "LeaseLost",
    "NestedCheckout",
    "NotFound",
    "NotReplicated",
    "OutcomeUnknown",
    "Overloaded",
    "PartialFailure",
    "PermissionDenied",
    "PoolTimeout",
    "RateLimited",
    "RetryableError",
    "StorageFull",
    "Suspended",
    "TenantMismatch",
    "Unavailable",
    "UncertainError",
    "UnsupportedValue",
    "UsageError",
    "ValueTooLarge",
    "VersionConflict",
    "WrongLoop",
    "redact",
]

_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s:/@]*):(?P<secret>[^\s]*)@")
_SHOWN = 20
_SECRET_PAIR = re.compile(r"(?i)\b(\w*(?:password|passwd|secret|token|api_?key|access_?key))(\s*[=:]\s*)([^\s&;,'\"]+)")


def redact(text: str) -> str:
    """Return ``text`` with passwords in URLs and ``password=…`` pairs replaced by ``***``."""
    text = _CREDENTIALS.sub(r"\g<scheme>\g<user>:***@", text)
    return _SECRET_PAIR.sub(r"\1\2***", text)


class AmbidexError(Exception):
    """The root of every error raised by ambidex.

    Args:
        message: what happened and what to do about it; secrets in it are redacted.
        applied: overrides the class's answer to "did it take effect?".
        retryable: overrides the class's answer to "may the same call be repeated?".
        retry_after: seconds that the server asked the caller to wait, or None.
    """

    applied: Applied = "no"
    retryable: bool = False
    retry_after: float | None = None

    _FIELDS: ClassVar[tuple[str, ...]] = ("applied", "retryable", "retry_after")

    def __init__(
        self,
        message: str = "",
        *,
        applied: Applied | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(redact(message))
        if applied is not None:
            self.applied = applied
        if retryable is not None:
            self.retryable = retryable
        if retry_after is not None:
            self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), {name: getattr(self, name) for name in self._FIELDS})


def _rebuild(cls: type[AmbidexError], message: str, fields: dict[str, Any]) -> AmbidexError:
    """Make an error again in another process (exceptions cross process boundaries by reduction)."""
    return cls(message, **fields)


class RetryableError(AmbidexError):
    """Nothing was applied; the same call may be repeated."""

    retryable = True


class Unavailable(RetryableError):
    """The server cannot be reached or refused the connection."""


class CircuitOpen(Unavailable):
    """The server failed so often that calls are refused for ``retry_after`` seconds."""


class Overloaded(RetryableError):
    """More work is waiting than can be served before the deadline; the call was shed."""


class PoolTimeout(Overloaded):
    """No connection came free before the deadline."""


class Busy(RetryableError):
    """Another process or transaction holds the write lock."""


class Conflict(RetryableError):
    """A concurrent transaction won; nothing of this one remains, so run the unit again."""


class RateLimited(RetryableError):
    """The server asks for a pause of ``retry_after`` seconds."""


class UncertainError(AmbidexError):
    """The request was sent and no reply came: it may or may not have taken effect."""

    applied: Applied = "unknown"


class OutcomeUnknown(UncertainError):
    """The connection broke, or a flush failed, after the request was handed over."""


class NotReplicated(OutcomeUnknown):
    """The server has made the write, and too few replicas had it in time; it is lost if the server fails before."""


class DeadlineExceeded(UncertainError, TimeoutError):
    """The call's deadline passed. ``applied`` is "no" where the request never started."""


class FinalError(AmbidexError):
    """Nothing was applied, and repeating the call cannot help."""


class NotFound(FinalError, LookupError):
    """The named record, key or document does not exist."""


class AlreadyExists(FinalError):
    """A record with this identity or unique field exists."""


class VersionConflict(FinalError):
    """The record was changed since it was read; read it again and decide anew."""


class InvalidKey(FinalError, ValueError):
    """A key, namespace or identifier that no backend can hold."""


class InvalidQuery(FinalError, ValueError):
    """An unknown field or operator, a forged cursor, or a limit out of range."""


class UnsupportedValue(FinalError, ValueError):
    """A value that would not come back the same from every backend."""


class ValueTooLarge(UnsupportedValue):
    """A value above the configured size limit."""


class PermissionDenied(FinalError):
    """The file system or the server refused access."""


class TenantMismatch(PermissionDenied):
    """A tenant is missing, or the data belongs to another one."""


class AuthenticationFailed(PermissionDenied):
    """The server rejected the credentials."""


class LeaseLost(FinalError):
    """The lease behind a lock or transaction has ended; its work was not stored."""


class StorageFull(FinalError):
    """No space is left where the data is kept; what was stored before is readable."""


class Corrupted(FinalError):
    """Stored bytes are not what was written."""


class DecryptionFailed(FinalError):
    """A sealed value cannot be opened with the configured keys."""


class ConfigurationError(FinalError, ValueError):
    """A URL, setting or model that cannot work as given."""


class CapabilityMissing(FinalError):
    """The configured backend cannot do this; the message names one that can."""


class PartialFailure(FinalError):
    """Some items of a batch failed.

    Args:
        message: what became of the batch.
        errors: why each failed item failed, by its place in the batch.
        ids: what each item became, in order; None where it was not stored.
        **overrides: see :class:`AmbidexError`.

    Attributes:
        errors: as given.
        ids: as given.
    """

    _FIELDS = (*AmbidexError._FIELDS, "errors", "ids")

    def __init__(
        self,
        message: str = "",
        errors: Mapping[int, AmbidexError] | None = None,
        ids: Sequence[str | None] = (),
        **overrides: Any,
    ) -> None:
        self.errors, self.ids, self._message = dict(errors or {}), list(ids), message
        overrides.setdefault("applied", "no" if not any(self.ids) else "unknown")
        shown = "; ".join(f"item {place}: {error}" for place, error in list(self.errors.items())[:_SHOWN])
        more = f"; and {len(self.errors) - _SHOWN} more" if len(self.errors) > _SHOWN else ""
        super().__init__(f"{message}: {shown}{more}" if shown else message, **overrides)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._message, {name: getattr(self, name) for name in self._FIELDS})


class UsageError(AmbidexError, RuntimeError):
    """A bug in the calling code."""


class WrongLoop(UsageError):
    """An object bound to one event loop was used from another."""


class ForkedUse(UsageError):
    """An object that cannot cross ``os.fork()`` was used in the child."""


class NestedCheckout(UsageError):
    """A task that holds a connection asked for a second one, which can wedge a pool."""


class Closed(UsageError):
    """A handle was used after its end."""


class Suspended(UsageError):
    """An operation driven from synchronous code awaited something that really suspends."""
