"""The tables of a SQLite database and how an older file becomes a current one.

The writer's connection runs this when it opens.

Each migration runs once, in order, in one transaction with the row that records it. The invariant: a released
migration is never edited; a change is a new one at the end. A file written by a newer ambidex is refused rather than
guessed at.
"""

from __future__ import annotations

from typing import cast

import apsw

from ambidex.backends.relational import kv, log
from ambidex.backends.sqlite import search
from ambidex.errors import ConfigurationError

__all__ = ["MIGRATIONS", "migrate"]

MIGRATIONS: tuple[tuple[str, ...], ...] = ((*kv.SCHEMA, *log.SCHEMA, *search.SCHEMA),)


def migrate(conn: apsw.Connection, path: str) -> None:
    """Bring the schema up to date.

    Raises:
        ConfigurationError: the file was written by a newer version of ambidex.
    """
    if conn.table_exists("main", "ambidex_schema") and _version(conn) == len(MIGRATIONS):
        return  # without taking the write lock, so that opening never waits for a writer
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("CREATE TABLE IF NOT EXISTS ambidex_schema (version INTEGER PRIMARY KEY, at TEXT NOT NULL)")
        have = _version(conn)
        if have > len(MIGRATIONS):
            raise ConfigurationError(
                f"{path} has schema version {have}, this version of ambidex knows {len(MIGRATIONS)}; upgrade ambidex"
            )
        for version, statements in enumerate(MIGRATIONS[have:], have + 1):
            for statement in statements:
                conn.execute(statement)
            conn.execute("INSERT INTO ambidex_schema VALUES (?, datetime('now'))", (version,))
        conn.execute("COMMIT")
    except BaseException:
        conn.execute("ROLLBACK")
        raise


def _version(conn: apsw.Connection) -> int:
    ((version,),) = conn.execute("SELECT coalesce(max(version), 0) FROM ambidex_schema").fetchall()
    return cast("int", version)
