"""One SQLite database in this process.

Its readers, its writer and its transactions; both leaf colours stand on one of these.

The invariant: nothing is open while the process forks, so that a child inherits no connection. SQLite keeps a
process's locks in memory beside the kernel's: a child that inherited an open database would believe to hold locks
that it does not hold, and lose what it writes when the parent closes. A child forked at a moment when the database
could not be closed (inside a transaction of the forking thread) is refused its use.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import apsw

from ambidex.backends.relational.sql import Args, Row
from ambidex.backends.sqlite.connection import InlineReader, LongRead, Reader, Readers, abandon, open_writer
from ambidex.backends.sqlite.errors import translate
from ambidex.backends.sqlite.jobs import Lease
from ambidex.backends.sqlite.schema import migrate, reclaim
from ambidex.backends.sqlite.writer import KeepWaiting, Writer
from ambidex.core.runtime import current_deadline
from ambidex.errors import Closed, ForkedUse, PermissionDenied, StorageFull
from ambidex.runtime.process import rest_during_fork
from ambidex.settings import BackendUrl, Settings, default_url, parse_url

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from ambidex.backends.sqlite.search_space import Spaces

__all__ = ["Database"]

T = TypeVar("T")

_WORKERS = 4
_REST_SECONDS = 5.0

_inherited: dict[str, list[object]] = {}
"""The files that could not be closed before this process was forked, with what holds their connections."""


class Database:
    """What the two colours of the leaf share."""

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        self.settings = settings
        self._private = url.path == ":memory:"
        self._folder: _Folder | None = None
        self.path = "" if self._private else os.path.abspath(url.path)
        self._makes_folder = not self._private and url.path == _default_path()
        self.timeout = settings.timeout
        self.lease: ContextVar[Lease | None] = ContextVar("ambidex_sqlite_lease", default=None)
        self.on_close: list[Callable[[], None]] = []
        self._make()
        rest_during_fork(self)

    def _make(self) -> None:
        self._guard = threading.Lock()
        self._executor_guard = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._long: weakref.WeakSet[LongRead] = weakref.WeakSet()
        self._resting: object | None = None
        self._guarded = False
        self.ready = False
        self._set_path(self.path)

    def _set_path(self, path: str) -> None:
        self.path = path
        self.readers = Readers(lambda: Reader(path, self.timeout))
        self.inline = Readers(lambda: InlineReader(path))
        self.writer = Writer(path, self._connect, reclaim)
        self._spaces: Spaces | None = None

    @property
    def spaces(self) -> Spaces:
        """What this process holds of the index's namespaces; needs numpy."""
        if self._spaces is None:
            from ambidex.backends.sqlite.search_space import Spaces

            with self._executor_guard:
                if self._spaces is None:
                    self._spaces = Spaces(self.path)
        return self._spaces

    def ensure_open(self, until: float) -> None:
        """Create the file and its tables if this process has not looked yet.

        A database that cannot be written can still be read.

        Args:
            until: the absolute monotonic moment up to which to wait for other processes.
        """
        with self._guard:
            if self.ready:
                return
            if self.path and os.path.realpath(self.path) in _inherited:
                raise ForkedUse(
                    f"{self.path} was in use, by a transaction or a long read, when this process was forked from its "
                    "parent; fork outside of transactions"
                )
            if self._private and self._folder is None:
                self._folder = _Folder()
                self._set_path(self._folder.file)
            elif self._makes_folder:
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                self.writer.open(until)
            except (PermissionDenied, StorageFull):
                if not os.path.exists(self.path):
                    raise
            self.ready = True

    def blob_folder(self) -> str:
        """Return the folder beside the database in which its blobs are kept."""
        if self._private or self._makes_folder:  # it has no place before it is open
            self.ensure_open(current_deadline(self.timeout))
        return self.path + "-blobs"

    def read(self, sql: str, args: Args, read: LongRead) -> list[Row]:
        """Run a query on this thread's reader."""
        try:
            return self.readers.get().rows(sql, args, read)
        except Exception as error:
            raise translate(error, self.path, "reading") from None

    def read_in_worker(self, sql: str, args: Args, read: LongRead) -> list[Row]:
        """Run a query that an event loop waits for, unless it does so no longer."""
        if read.stopped:
            raise Closed(f"the SQLite database {self.path} was closed before a read was begun; it may be repeated")
        return self.read(sql, args, read)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run the call on one of the threads for what would hold up an event loop."""
        from concurrent.futures import ThreadPoolExecutor  # cannot be imported by a thread that outlives the main one

        with self._executor_guard:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_WORKERS, "ambidex-sqlite-reader")
            return self._executor.submit(call)

    def long_read(self, until: float) -> LongRead:
        """Return the handle of a query for a worker thread; a close stops it."""
        read = LongRead(until)
        with self._executor_guard:
            self._long.add(read)
        return read

    def close(self) -> None:
        """Close everything; usable again afterwards."""
        with self._executor_guard:
            executor, self._executor = self._executor, None
            for read in list(self._long):
                read.stopped = True
        if executor is not None:
            executor.shutdown(wait=True)  # without the guard, which a thread of it may be waiting for
        with self._guard:
            self.ready = False
            self._spaces = None
            self.readers.close()
            self.inline.close()
            self.writer.close()
            if self._folder is not None:
                self._folder.remove()
                self._folder = None
                self.path = ""
            for forget in self.on_close:
                forget()

    # Forking.

    def before_fork(self) -> None:
        """Close everything and let nobody begin, as far as that is possible soon."""
        until = time.monotonic() + _REST_SECONDS
        self._guarded = self._guard.acquire(timeout=_REST_SECONDS)
        self._resting = self.writer.rest(until)
        rested = self.readers.rest(until)
        rested = self.inline.rest(until) and rested
        if self.path and not (rested and self._guarded and self._resting is not None):
            _inherited[os.path.realpath(self.path)] = [self.readers.all(), self.inline.all(), self.writer]

    def after_fork_in_parent(self) -> None:
        """Let everybody go on."""
        if self.path:
            _inherited.pop(os.path.realpath(self.path), None)
        self.inline.resume()
        self.readers.resume()
        if self._resting is not None:
            self.writer.resume(self._resting)
        if self._guarded:
            self._guard.release()

    def after_fork(self) -> None:
        """Start with nothing open; a private database continues as a copy."""
        inherited = _inherited.get(os.path.realpath(self.path)) if self.path else None
        if inherited is not None:
            abandon(inherited)
        self._make()
        if self._folder is not None and inherited is None:
            try:
                self._folder = self._folder.copy()
            except (apsw.Error, OSError):
                _inherited[os.path.realpath(self.path)] = []  # no copy, and the parent's own must not be shared
            else:
                self._set_path(self._folder.file)

    def _connect(self, keep_waiting: KeepWaiting) -> apsw.Connection:
        conn = open_writer(self.path, self.settings.durability == "durable", keep_waiting)
        try:
            migrate(conn, self.path)
        except BaseException as error:
            system_errno = conn.system_errno
            conn.close(True)
            if isinstance(error, apsw.Error):
                raise translate(error, self.path, "opening", system_errno) from None
            raise
        return conn


class _Folder:
    """The temporary folder of a private database; it goes with the object, in the process that made it."""

    def __init__(self) -> None:
        import tempfile

        self._name = tempfile.mkdtemp(prefix="ambidex-")
        self.file = os.path.join(self._name, "private.db")
        self._finalizer = weakref.finalize(self, _remove, self._name, os.getpid())

    def copy(self) -> _Folder:
        """Return a folder of this process with the same data."""
        folder = _Folder()
        if os.path.exists(self.file):
            source = apsw.Connection(self.file, flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                source.execute("VACUUM INTO ?", (folder.file,)).fetchall()
            finally:
                source.close()
        blobs = self.file + "-blobs"
        import shutil

        if os.path.isdir(blobs):  # a blob never changes, so a second name for it is a copy
            shutil.copytree(blobs, folder.file + "-blobs", copy_function=os.link)
        return folder

    def remove(self) -> None:
        """Remove it now."""
        self._finalizer()


def _remove(folder: str, process: int) -> None:
    if process == os.getpid():
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def _default_path() -> str:
    environ = {name: value for name, value in os.environ.items() if name != "AMBIDEX_URL"}
    return parse_url(default_url(environ))[0].path
