"""Opening SQLite connections, and the reading ones that each thread keeps; the leaf pair and the writer call this.

The invariant: a connection is used by one thread at a time, and none is open while the process forks. Reading
connections cannot write; each query on one ends within its limit, which is a deadline, or for an *inline* connection
a few dozen microseconds of work and a bounded size of value.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import apsw

from ambidex.backends.sqlite.columns import add_collation
from ambidex.backends.sqlite.errors import translate
from ambidex.core.runtime import current_deadline
from ambidex.errors import Closed, DeadlineExceeded

__all__ = [
    "INLINE_BYTES",
    "STEPS",
    "InlineReader",
    "LongRead",
    "Reader",
    "Readers",
    "abandon",
    "open_reader",
    "open_writer",
]

STEPS = 1000
"""VM instructions between two looks at a query's limit, about 25 µs."""

INLINE_BYTES = 64 * 1024
"""The largest text, blob or row that an inline query may meet: copying it takes about 10 µs."""

_CACHE_KIB = 8 * 1024
_OPENING_SECONDS = 5.0

Row = tuple[Any, ...]


def pause(tries: int) -> None:
    """Wait a little before another process's lock is tried again, longer each time."""
    time.sleep(min(0.005, 0.0005 * 2 ** min(tries, 4)))


def abandon(inherited: object) -> None:
    """Keep what holds inherited connections from ever being finalised: closing one could disturb the parent's file."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def open_writer(path: str, durable: bool, keep_waiting: Callable[[int], bool]) -> apsw.Connection:
    """Open the connection that writes, creating the file if its folder exists.

    Args:
        path: the file.
        durable: whether each COMMIT is flushed to the disk.
        keep_waiting: SQLite's busy handler: called with the number of calls so far while another process holds a lock
            that is wanted, waits a little, and says whether to try again.
    """
    conn = None
    try:
        conn = apsw.Connection(path)
        conn.set_busy_handler(keep_waiting)
        add_collation(conn)
        _use_wal(conn, keep_waiting)
        conn.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}").fetchall()
        conn.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").fetchall()
    except BaseException as error:
        system_errno = conn.system_errno if conn is not None else 0
        if conn is not None:
            conn.close(True)
        if isinstance(error, apsw.Error):
            raise translate(error, path, "opening", system_errno) from None
        raise
    return conn


def _use_wal(conn: apsw.Connection, keep_waiting: Callable[[int], bool]) -> None:
    """Switch to write-ahead logging; SQLite does not call the busy handler for this, so that it is done here."""
    tries = 0
    while True:
        try:
            conn.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except apsw.BusyError:
            if not keep_waiting(tries):
                raise
            tries += 1


def open_reader(path: str) -> apsw.Connection:
    """Open a connection that can only read.

    A database that can be neither written nor given its shared-memory file (a read-only medium) is opened as
    immutable, so that its data stays readable.
    """
    conn = None
    try:
        conn = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        conn.set_busy_timeout(int(_OPENING_SECONDS * 1000))
        try:
            conn.execute("SELECT 1 FROM sqlite_schema").fetchall()
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            if not os.access(path, os.R_OK) or _has_content(path + "-wal"):
                raise
            if os.access(os.path.dirname(path) or ".", os.W_OK) and os.access(path, os.W_OK):
                raise
            conn.close()
            conn = open_immutable(path)
        add_collation(conn)
        conn.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").fetchall()
    except apsw.Error as error:
        system_errno = conn.system_errno if conn is not None else 0
        if conn is not None:
            conn.close(True)
        raise translate(error, path, "opening", system_errno) from None
    return conn


def open_immutable(path: str) -> apsw.Connection:
    """Open a file that nobody changes, without any file beside it."""
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return apsw.Connection(f"file:{quoted}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


class _Connection:
    """One thread's reading connection: opened at first use, and again after a close or a fork.

    ``lock`` is held during every use, so that whoever closes it finds it at rest.
    """

    __slots__ = ("__weakref__", "_conn", "_execute", "_path", "_process", "guard", "lock")

    def __init__(self, path: str) -> None:
        self._path = path
        self._process = os.getpid()
        self._conn: apsw.Connection | None = None
        self._execute: Callable[..., apsw.Cursor] | None = None
        self.lock = threading.Lock()
        self.guard = threading.RLock()
        """Held while the process forks."""

    def __del__(self) -> None:
        """Close with the thread, but not while the process forks: the child would find SQLite's own locks taken."""
        if self._conn is None:
            return
        if self._process == os.getpid():
            with self.guard:
                self.release()
        else:
            abandon(self._conn)

    def _open(self) -> Callable[..., apsw.Cursor]:
        conn = open_reader(self._path)
        self._set_up(conn)
        self._conn = conn
        # One cursor for all queries saves a sixth of a point read. Each query is read to its end at once, so that no
        # read transaction stays open behind it.
        self._execute = conn.cursor().execute
        return self._execute

    def _set_up(self, conn: apsw.Connection) -> None:
        """Install the handlers that hold the limit; they must not refer to this object.

        Else the two would keep each other alive, and the file open, when the thread has ended.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Close the connection; call with the lock held."""
        conn, self._conn, self._execute = self._conn, None, None
        if conn is not None:
            conn.close(True)

    def close(self) -> None:
        """Close the connection when the query that runs here, if one does, has ended."""
        with self.lock:
            self.release()


class _FewSteps:
    """The limit of inline queries."""

    __slots__ = ("looks",)

    def __init__(self) -> None:
        self.looks = 0

    def over(self) -> bool:
        # SQLite counts a statement's instructions over all its runs, so the first look may come at once.
        self.looks += 1
        return self.looks >= 2


class InlineReader(_Connection):
    """For an event loop's own thread.

    A query that turns out long raises InterruptError, one that meets a large value TooBigError, and one that would
    have to wait BusyError; the caller runs it again elsewhere.
    """

    __slots__ = ("_limit",)

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._limit = _FewSteps()

    def _set_up(self, conn: apsw.Connection) -> None:
        conn.set_busy_timeout(0)
        conn.limit(apsw.SQLITE_LIMIT_LENGTH, INLINE_BYTES)
        conn.set_progress_handler(self._limit.over, STEPS)

    def row(self, sql: str, args: Sequence[Any]) -> Row | None:
        """Return the first row."""
        with self.lock:
            execute = self._execute or self._open()
            self._limit.looks = 0
            rows = execute(sql, args).fetchall()
        return rows[0] if rows else None

    def rows(self, sql: str, args: Sequence[Any]) -> list[Row]:
        """Return all rows."""
        with self.lock:
            execute = self._execute or self._open()
            self._limit.looks = 0
            return execute(sql, args).fetchall()


class LongRead:
    """A query that may take its time, until its deadline or until somebody sets ``stopped``."""

    __slots__ = ("__weakref__", "deadline", "stopped")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.stopped = False


class _Deadline:
    """The limit of queries in threads that may block."""

    __slots__ = ("closing", "read", "timeout", "until")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.until: float | None = None
        """None until it is first asked for: most reads end before that."""
        self.read: LongRead | None = None
        self.closing = False

    @property
    def stopped(self) -> bool:
        return self.closing or (self.read is not None and self.read.stopped)

    def over(self) -> bool:
        if self.until is None:
            self.until = current_deadline(self.timeout)
        return time.monotonic() > self.until or self.stopped

    def keep_waiting(self, tries: int) -> bool:
        """Be SQLite's busy handler."""
        if self.over():
            return False
        pause(tries)
        return True


class Reader(_Connection):
    """For threads that may block: a query ends at its deadline, at most ``timeout`` seconds from its start."""

    __slots__ = ("_limit",)

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(path)
        self._limit = _Deadline(timeout)

    def _set_up(self, conn: apsw.Connection) -> None:
        conn.set_busy_handler(self._limit.keep_waiting)
        conn.set_progress_handler(self._limit.over, STEPS)

    def row(self, sql: str, args: Sequence[Any]) -> Row | None:
        """Return the first row; the deadline is the ambient one."""
        with self.lock:
            execute = self._execute or self._open()
            limit = self._limit
            limit.until = limit.read = None
            try:
                rows = execute(sql, args).fetchall()
            except apsw.InterruptError:
                raise self._why() from None
        return rows[0] if rows else None

    def rows(self, sql: str, args: Sequence[Any], read: LongRead) -> list[Row]:
        """Return all rows."""
        with self.lock:
            execute = self._execute or self._open()
            self._limit.until, self._limit.read = read.deadline, read
            try:
                return execute(sql, args).fetchall()
            except apsw.InterruptError:
                raise self._why() from None

    def close(self) -> None:
        """Stop the query that runs here, if one does, and close the connection."""
        self._limit.closing = True
        with self.lock:
            self._limit.closing = False
            self.release()

    def _why(self) -> Exception:
        """Return the error for a query that was stopped."""
        if self._limit.stopped:
            return Closed(f"the SQLite database {self._path} was closed during a read; the read may be repeated")
        return DeadlineExceeded(f"the deadline passed during a read of the SQLite database {self._path}", applied="no")


C = TypeVar("C", bound=_Connection)


class Readers(Generic[C]):
    """One connection a thread, made by ``make`` at first use there; it goes with the thread."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self.reset()

    def reset(self) -> None:
        """Start with none."""
        self._local = threading.local()
        self._guard = threading.RLock()  # a connection may be finalised by whatever this thread does under it
        self._all: weakref.WeakSet[C] = weakref.WeakSet()
        self._resting = False
        self._held: list[C] = []

    def get(self) -> C:
        """Return this thread's connection."""
        try:
            return self._local.reader  # type: ignore[no-any-return]  # a threading.local has no declared attributes
        except AttributeError:
            reader = self._make()
            reader.guard = self._guard
            with self._guard:
                self._all.add(reader)
            self._local.reader = reader
            return reader

    def all(self) -> list[C]:
        """Return the connections of all threads."""
        return list(self._all)

    def close(self) -> None:
        """Close every thread's connection; each opens again at its thread's next query."""
        with self._guard:
            readers = list(self._all)
        for reader in readers:
            reader.close()

    def rest(self, until: float) -> bool:
        """Close every connection and keep all threads from opening one; False if some query did not end in time.

        :meth:`resume` must follow.
        """
        if not self._guard.acquire(timeout=max(0.0, until - time.monotonic())):
            return False
        self._resting = True
        for reader in list(self._all):
            if not reader.lock.acquire(timeout=max(0.0, until - time.monotonic())):
                return False
            self._held.append(reader)
            reader.release()
        return True

    def resume(self) -> None:
        """Let the threads read again."""
        held, self._held = self._held, []
        for reader in held:
            reader.lock.release()
        if self._resting:
            self._resting = False
            self._guard.release()
