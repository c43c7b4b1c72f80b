"""The tables of a SQLite database and how an older file becomes a current one; and the clearing of what has expired.

The writer's connection runs the first when it opens, the second inside a write transaction now and then.

Each migration runs once, in order, in one transaction with the row that records it. The invariant: a released
migration is never edited; a change is a new one at the end. A file written by a newer ambidex is refused rather than
guessed at.
"""

from __future__ import annotations

from typing import cast

import apsw

from ambidex.backends.relational import kv, log
from ambidex.backends.sqlite import records, search_gone
from ambidex.backends.sqlite import search_schema as search
from ambidex.errors import ConfigurationError

__all__ = ["MIGRATIONS", "NOW", "migrate", "reclaim"]

NOW = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (*kv.SCHEMA, *log.SCHEMA, *search.SCHEMA),
    ("CREATE INDEX ambidex_streams_expires ON ambidex_streams (expires) WHERE expires > 0",),
    search.REBUILT,
    search.UNTRIGGERED,
    search_gone.SCHEMA,
    records.SCHEMA,
)

_MOST_ROWS, _MOST_STREAMS = 500, 50
_PAUSE, _PAUSE_WITH_MORE = 1.0, 0.02

_KEYS = f"DELETE FROM ambidex_kv WHERE key IN (SELECT key FROM ambidex_kv WHERE expires <= {NOW} LIMIT {_MOST_ROWS})"
# An expired stream loses its entries, and then gets 0 for its time, which means "expired and empty": it keeps its
# place, and is not looked at again.
_DEAD = (
    f"SELECT stream FROM ambidex_streams WHERE expires > 0 AND expires <= {NOW} ORDER BY expires LIMIT {_MOST_STREAMS}"
)
_EVENTS = (
    "DELETE FROM ambidex_events WHERE (stream, seq) IN (SELECT e.stream, e.seq"
    f" FROM ({_DEAD}) d JOIN ambidex_events e ON e.stream = d.stream LIMIT {_MOST_ROWS})"
)
_STREAMS = (
    f"UPDATE ambidex_streams SET floor = seq, expires = 0 WHERE stream IN ({_DEAD})"
    " AND NOT EXISTS (SELECT 1 FROM ambidex_events e WHERE e.stream = ambidex_streams.stream)"
)


def reclaim(conn: apsw.Connection) -> float:
    """Delete a bounded number of rows whose time has passed; return the seconds until it should be done again.

    What expires faster than a bounded step a second is still caught up with: a step that was full is soon repeated.
    """
    full = False
    for statement, most in ((_KEYS, _MOST_ROWS), (_EVENTS, _MOST_ROWS), (_STREAMS, _MOST_STREAMS)):
        conn.execute(statement).fetchall()
        full = full or conn.changes() >= most
    return _PAUSE_WITH_MORE if full else _PAUSE


def migrate(conn: apsw.Connection, path: str) -> None:
    """Bring the schema up to date.

    Raises:
        ConfigurationError: the file was written by a newer version of ambidex.
    """
    if conn.table_exists("main", "ambidex_schema") and _version(conn, path) == len(MIGRATIONS):
        return  # without taking the write lock, so that opening never waits for a writer
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("CREATE TABLE IF NOT EXISTS ambidex_schema (version INTEGER PRIMARY KEY, at TEXT NOT NULL)")
        for version, statements in enumerate(MIGRATIONS[_version(conn, path) :], _version(conn, path) + 1):
            for statement in statements:
                conn.execute(statement)
            conn.execute("INSERT INTO ambidex_schema VALUES (?, datetime('now'))", (version,))
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def _version(conn: apsw.Connection, path: str) -> int:
    """Return the version of the file's schema, 0 where there is none."""
    ((found,),) = conn.execute("SELECT coalesce(max(version), 0) FROM ambidex_schema").fetchall()
    version = cast("int", found)
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"{path} has schema version {version}, this version of ambidex knows {len(MIGRATIONS)}; upgrade ambidex"
        )
    return version
