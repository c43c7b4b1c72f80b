"""Translation of apsw's exceptions into ambidex's; every SQLite module raises through :func:`translate`.

The invariant: no apsw exception leaves this package, and each message names the database file and what to do.
"""

from __future__ import annotations

import errno
import os

import apsw

from ambidex import errors

__all__ = ["translate"]

_TAKEN = {apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY, apsw.SQLITE_CONSTRAINT_ROWID}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FILES = {errno.EMFILE, errno.ENFILE}


def translate(error: Exception, path: str, doing: str = "using", system_errno: int = 0) -> errors.AmbidexError:
    """Return the ambidex error for what apsw raised.

    Args:
        error: what was raised.
        path: the database.
        doing: what the caller did to it, as a participle.
        system_errno: the connection's last error number of the operating system.
    """
    if isinstance(error, errors.AmbidexError):
        return error
    detail = f"{error} ({type(error).__name__})"
    where = f"the SQLite database {path}"
    code = getattr(error, "extendedresult", 0)
    if isinstance(error, apsw.BusyError | apsw.LockedError | apsw.ProtocolError):
        return errors.Busy(
            f"{where} is locked by another process: {detail}; the call may be repeated", retry_after=0.05
        )
    if isinstance(error, apsw.FullError):
        return errors.StorageFull(f"no space is left for {where}: {detail}; free some and repeat")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return errors.Corrupted(f"{where} is damaged or not a database: {detail}; restore it from a backup")
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.AuthError):
        return errors.PermissionDenied(
            f"{where} cannot be written: {detail}; check the owner and mode of the file and its folder"
        )
    if isinstance(error, apsw.CantOpenError):
        return _cannot_open(path, where, detail, system_errno)
    if isinstance(error, apsw.IOError):
        return _io(code, system_errno, where, detail)
    if isinstance(error, apsw.TooBigError):
        return errors.ValueTooLarge(f"a value is too large for {where}: {detail}")
    if isinstance(error, apsw.InterruptError):
        return errors.DeadlineExceeded(f"the deadline passed while {doing} {where}", applied="no")
    if isinstance(error, apsw.ConnectionClosedError | apsw.ThreadingViolationError):
        return errors.Closed(f"{where} was closed while a call was under way; the call may be repeated")
    if isinstance(error, apsw.ConstraintError) and code in _TAKEN:
        return errors.AlreadyExists(f"a unique value is taken: {str(error).rpartition(': ')[2]}")
    return _other(error, where, detail)


def _cannot_open(path: str, where: str, detail: str, system_errno: int) -> errors.AmbidexError:
    """Find out which of the many reasons for SQLITE_CANTOPEN it is."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return errors.ConfigurationError(f"the folder of {where} does not exist; create {folder} or correct the URL")
    if os.path.isdir(path):
        return errors.ConfigurationError(
            f"{path} is a folder, and a SQLite URL names a file; write sqlite:///{path}/data.db"
        )
    reason = system_errno or _why_not_opened(path)
    if reason in _NO_FILES:
        return errors.Overloaded(
            f"{where} cannot be opened: {detail}; too many files are open, so close some or raise the limit (ulimit -n)"
        )
    if reason in _NO_SPACE:
        return errors.StorageFull(f"{where} cannot be opened: {detail}; the disk is full")
    return errors.PermissionDenied(
        f"{where} cannot be opened: {detail}; check the owner and mode of the file and of {folder}"
    )


def _why_not_opened(path: str) -> int:
    """Return the error number with which the operating system refuses to open the file, 0 if it does not."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno or 0
    return 0


def _io(code: int, system_errno: int, where: str, detail: str) -> errors.AmbidexError:
    if code in (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC):
        return errors.OutcomeUnknown(f"the disk under {where} failed to flush: {detail}; read back before repeating")
    if system_errno in _NO_SPACE or code == apsw.SQLITE_IOERR_SHMSIZE:
        return errors.StorageFull(f"writing to {where} failed: {detail}; the disk or a file size limit is exhausted")
    if system_errno in _NO_FILES:
        return errors.Overloaded(f"working on {where} failed: {detail}; too many files are open")
    if code in (apsw.SQLITE_IOERR_CORRUPTFS, apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_SHORT_READ):
        return errors.Corrupted(f"{where} cannot be read back: {detail}; restore it from a backup")
    return errors.Unavailable(f"the disk under {where} failed: {detail}")


def _other(error: Exception, where: str, detail: str) -> errors.AmbidexError:
    if isinstance(error, apsw.NoMemError | MemoryError):
        return errors.Overloaded(f"no memory is left for work on {where}: {detail}")
    if isinstance(error, OverflowError):
        return errors.UnsupportedValue(f"an integer is outside 64 bits: {detail}")
    if isinstance(error, UnicodeError):
        return errors.UnsupportedValue(f"a text cannot be stored: {detail}")
    return errors.FinalError(f"{where} refused: {detail}")
