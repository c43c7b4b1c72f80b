"""Translation of the operating system's errors into ambidex's; the modules of local blobs raise through it.

The invariant: no OSError leaves this package, and each message names the place and what to do.
"""

from __future__ import annotations

import errno

from ambidex import errors

__all__ = ["translate"]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FILES = {errno.EMFILE, errno.ENFILE}
_NOT_OURS = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}


def translate(error: OSError, root: str, key: str) -> errors.AmbidexError:
    """Return the ambidex error for what a call on the file of ``key`` below ``root`` raised."""
    where = f"the blob {key!r} in {root}" if key else f"the folder of blobs {root}"
    detail = f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, type(error).__name__)})"
    if error.errno == errno.ENOENT:
        return errors.NotFound(f"{where} does not exist")
    if error.errno in _NO_SPACE:
        return errors.StorageFull(f"no space is left for {where}: {detail}; free some and repeat")
    if error.errno in _REFUSED:
        return errors.PermissionDenied(f"{where} is refused: {detail}; check the owner and mode of the folder")
    if error.errno in _NOT_OURS:
        return errors.PermissionDenied(
            f"{where} is not a plain file in plain folders: {detail}; a link there could lead outside, remove it"
        )
    if error.errno in _NO_FILES:
        return errors.Overloaded(f"this process has too many files open for {where}: {detail}")
    if error.errno == errno.ENAMETOOLONG:
        return errors.InvalidKey(f"{where} has a name too long for this file system; use a shorter key")
    return errors.OutcomeUnknown(f"{where} could not be used: {detail}; check the disk")
