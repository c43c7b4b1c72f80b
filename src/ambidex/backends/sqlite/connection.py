"""Opening SQLite connections, and the reading ones that each thread keeps; the leaf pair and the writer call this.

The invariant: a connection is used by one thread at a time and never in a process that did not open it. Reading
connections cannot write, wait for no lock, and stop a query when their :class:`Reader`'s limit says so.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from ambidex.backends.sqlite.errors import translate
from ambidex.errors import Closed

__all__ = ["STEPS", "LongRead", "Reader", "Readers", "abandon", "open_reader", "open_writer"]

STEPS = 1000
"""VM instructions between two looks at a query's limit, about 25 µs."""

_CACHE_KIB = 8 * 1024
_abandoned: list[object] = []


def abandon(resource: object) -> None:
    """Keep what a fork inherited from ever being closed here: closing it could disturb the parent's file."""
    import ctypes

    _abandoned.append(resource)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(resource))


def open_writer(path: str, durable: bool, busy_ms: int) -> apsw.Connection:
    """Open the connection that writes, creating the file if its folder exists."""
    try:
        conn = apsw.Connection(path)
        conn.set_busy_timeout(busy_ms)
        conn.execute("PRAGMA journal_mode = WAL").fetchall()
        conn.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}").fetchall()
        conn.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").fetchall()
    except apsw.Error as error:
        raise translate(error, path, "opening") from None
    return conn


def open_reader(path: str) -> apsw.Connection:
    """Open a connection that can only read.

    A database that can be neither written nor given its shared-memory file (a read-only medium) is opened as
    immutable, so that its data stays readable.
    """
    try:
        conn = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            conn.execute("SELECT 1 FROM sqlite_schema").fetchall()
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            if os.access(os.path.dirname(path) or ".", os.W_OK) or _has_content(path + "-wal"):
                raise
            conn.close()
            quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            conn = apsw.Connection(f"file:{quoted}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        conn.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").fetchall()
    except apsw.Error as error:
        raise translate(error, path, "opening") from None
    return conn


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


class LongRead:
    """A query that may take its time, until its deadline or until somebody sets ``stopped``."""

    __slots__ = ("deadline", "stopped")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.stopped = False


class Reader:
    """A reading connection with the limit of the query that runs on it.

    SQLite counts instructions for each statement from its preparation on, so the count here starts anew with each
    query.
    """

    __slots__ = ("__weakref__", "_long", "_looks", "_until", "conn", "execute")

    def __init__(self, conn: apsw.Connection) -> None:
        self.conn = conn
        self.execute: Callable[..., apsw.Cursor] = conn.execute
        self._looks = -1
        self._until = 0.0
        self._long: LongRead | None = None
        conn.set_progress_handler(self._over, STEPS)

    def bound(self) -> None:
        """Let the next query run for at most about 2 * STEPS instructions."""
        self._looks = 0

    def until(self, deadline: float) -> None:
        """Let the next query run until a deadline."""
        self._looks = -1
        self._until = deadline
        self._long = None

    def run(self, sql: str, args: Sequence[Any], read: LongRead) -> list[tuple[Any, ...]]:
        """Run a query to its end, its deadline or its ``stopped``."""
        self.until(read.deadline)
        self._long = read
        return self.execute(sql, args).fetchall()

    def _over(self) -> bool:
        if self._looks < 0:
            return time.monotonic() > self._until or (self._long is not None and self._long.stopped)
        self._looks += 1
        return self._looks >= 2


class Readers:
    """One reader a thread, made at first use there; closed with the thread or by :meth:`close`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.reset()

    def reset(self) -> None:
        """Start empty (also after a fork, whose inherited readers are abandoned)."""
        self._local = threading.local()
        self._guard = threading.Lock()
        self._all: weakref.WeakSet[Reader] = weakref.WeakSet()

    def get(self) -> Reader:
        """Return this thread's reader."""
        try:
            return self._local.reader  # type: ignore[no-any-return]  # a threading.local has no declared attributes
        except AttributeError:
            return self._open()

    def _open(self) -> Reader:
        reader = Reader(open_reader(self._path))
        with self._guard:
            self._all.add(reader)
        self._local.reader = reader
        return reader

    def inherited(self) -> list[Reader]:
        """Return every reader, for a child that must abandon them."""
        return list(self._all)

    def close(self) -> None:
        """Close every thread's reader; one that is at work closes when its thread next asks for it."""
        with self._guard:
            readers, self._all, self._local = list(self._all), weakref.WeakSet(), threading.local()
        for reader in readers:
            try:
                reader.conn.close()
            except apsw.ThreadingViolationError:
                continue  # its thread is inside a query; the connection goes with the last reference to it
            except apsw.Error as error:
                raise Closed(str(translate(error, self._path, "closing"))) from None
