"""Translation of obstore's exceptions into ambidex's; everything in this package that calls obstore raises through it.

The invariant: no obstore exception leaves this package, and what one says of requests and their signatures stays out of
the message: only the server's status and code, and the remedy.
"""

from __future__ import annotations

import re

from obstore import exceptions as driver

from ambidex import errors

__all__ = ["translate"]

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_KIND = re.compile(r"kind: (\w+)")
_IDENTITY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "ServiceQuotaExceededException"}
_BUSY = {"SlowDown", "RequestLimitExceeded", "TooManyRequests"}
_METADATA_SERVICE = re.compile(r"169\.254\.|fd00:ec2::254|/latest/api/token")


def translate(error: BaseException, place: str, key: str, writing: bool) -> errors.AmbidexError:
    """Return the ambidex error for what obstore raised.

    Args:
        error: what was raised.
        place: the object store, without secrets.
        key: the blob, or "".
        writing: whether the call may have changed something.
    """
    text = str(error)
    code, status = _first(_CODE, text), int(_first(_STATUS, text) or 0)
    where = f"the blob {key!r} in {place}" if key else place
    said = f" ({code or status or _first(_KIND, text) or type(error).__name__})"
    if _METADATA_SERVICE.search(text):
        return errors.AuthenticationFailed(
            f"no credentials for {place}: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put them into the URL"
        )
    if code == "NoSuchBucket":
        return errors.ConfigurationError(f"{place} does not exist; make the bucket, or correct the URL{said}")
    if isinstance(error, FileNotFoundError):
        return errors.NotFound(f"{where} does not exist")
    if code in _FULL or status == 507:
        return errors.StorageFull(f"no space is left in {place}{said}")
    if code in _IDENTITY or isinstance(error, driver.UnauthenticatedError):
        return errors.AuthenticationFailed(f"{place} rejected the credentials{said}; check key, secret and clock")
    if isinstance(error, driver.PermissionDeniedError) or status in (401, 403):
        return errors.PermissionDenied(f"{place} refused access to {key or 'the bucket'!r}{said}")
    if code in _BUSY or status == 429:
        return errors.RateLimited(f"{place} asks to slow down{said}", retry_after=1.0)
    return _transport(text, status, where, said, writing)


def _transport(text: str, status: int, where: str, said: str, writing: bool) -> errors.AmbidexError:
    kind = _first(_KIND, text)
    if kind == "Timeout":
        return errors.DeadlineExceeded(
            f"{where} did not answer before the deadline", applied="unknown" if writing else "no"
        )
    if kind == "Connect":
        return errors.Unavailable(f"{where} cannot be reached{said}; is the endpoint right, and up?")
    if "NotPartial" in text:
        return errors.CapabilityMissing(
            f"the server of {where} answers a range with 200 instead of 206, "
            "so ranges of large files cannot be read there"
        )
    if writing:
        return errors.OutcomeUnknown(f"writing {where} failed{said}; writing it again does no harm", retryable=True)
    if 400 <= status < 500:
        return errors.InvalidQuery(f"the server refused the request for {where}{said}")
    return errors.Unavailable(f"reading {where} failed{said}")


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""
