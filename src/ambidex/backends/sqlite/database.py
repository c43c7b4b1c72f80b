"""One SQLite database in this process.

Its readers, its writer and its transactions; both leaf colours stand on one of these.

The invariant: what belongs to a process stays in it. A forked child starts with nothing open and leaves what it
inherited untouched.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import apsw

from ambidex.backends.relational.sql import Args, Row
from ambidex.backends.sqlite.connection import LongRead, Readers, abandon, open_writer
from ambidex.backends.sqlite.errors import translate
from ambidex.backends.sqlite.jobs import Lease
from ambidex.backends.sqlite.schema import migrate
from ambidex.backends.sqlite.writer import Writer
from ambidex.errors import PermissionDenied, StorageFull
from ambidex.runtime.process import reset_after_fork
from ambidex.settings import BackendUrl, Settings, default_url, parse_url

__all__ = ["NOW", "Database"]

NOW = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
_WORKERS = 4
_RECLAIM = (
    f"DELETE FROM ambidex_kv WHERE key IN (SELECT key FROM ambidex_kv WHERE expires <= {NOW} LIMIT 500)",
    "DELETE FROM ambidex_events WHERE (stream, seq) IN"
    " (SELECT e.stream, e.seq FROM ambidex_streams s JOIN ambidex_events e"
    f" ON e.stream = s.stream WHERE s.expires <= {NOW} LIMIT 500)",
)


class Database:
    """What the two colours of the leaf share."""

    def __init__(self, url: BackendUrl, settings: Settings) -> None:
        self.settings = settings
        self._private = url.path == ":memory:"
        self.path = "" if self._private else os.path.abspath(url.path)
        self._made_by_default = url.path == parse_url(default_url({}))[0].path
        self.timeout = settings.timeout
        self.lease: ContextVar[Lease | None] = ContextVar("ambidex_sqlite_lease", default=None)
        self._guard = threading.Lock()
        self.ready = False
        self._executor: ThreadPoolExecutor | None = None
        self._make()
        reset_after_fork(self)

    def _make(self) -> None:
        self.readers = Readers(self.path)
        self.writer = Writer(self.path, self._connect, _reclaim)

    def after_fork(self) -> None:
        """Abandon what the parent has open."""
        for reader in self.readers.inherited():
            abandon(reader)
            abandon(reader.conn)
        self._guard = threading.Lock()
        self.ready = False
        self._executor = None
        self.writer.reset()
        self.readers.reset()

    def ensure_open(self) -> None:
        """Create the file and its tables if this process has not looked yet.

        A database that cannot be written can still be read.
        """
        if self.ready:
            return
        with self._guard:
            if self._private and not self.path:
                self.path = os.path.join(tempfile.mkdtemp(prefix="ambidex-"), "private.db")
                self._make()
            elif self._made_by_default:
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                self.writer.open()
            except (PermissionDenied, StorageFull):
                if not os.path.exists(self.path):
                    raise
            self.ready = True

    def read(self, sql: str, args: Args, read: LongRead) -> list[Row]:
        """Run a query on this thread's reader."""
        try:
            return self.readers.get().run(sql, args, read)
        except apsw.Error as error:
            raise translate(error, self.path, "reading") from None

    def executor(self) -> ThreadPoolExecutor:
        """Return the threads for reads that are too long for an event loop."""
        with self._guard:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_WORKERS, "ambidex-sqlite-reader")
            return self._executor

    def close(self) -> None:
        """Close everything; usable again afterwards."""
        with self._guard:
            executor, self._executor = self._executor, None
            self.ready = False
        if executor is not None:
            executor.shutdown(wait=True)
        self.writer.close()
        self.readers.close()
        if self._private and self.path:
            shutil.rmtree(os.path.dirname(self.path), ignore_errors=True)
            self.path = ""

    def _connect(self) -> apsw.Connection:
        conn = open_writer(self.path, self.settings.durability == "durable", int(self.timeout * 1000))
        try:
            migrate(conn, self.path)
        except BaseException:
            conn.close(True)
            raise
        return conn


def _reclaim(conn: apsw.Connection) -> None:
    """Delete a bounded number of rows whose time has passed."""
    for statement in _RECLAIM:
        conn.execute(statement)
