"""Making SQLite backends for tests, and driving their blocking colour."""

from pathlib import Path
from typing import Any

from ambidex.backends.sqlite import SqliteBackend
from ambidex.backends.sqlite.database import Database
from ambidex.settings import Settings, parse_url

COUNT_TO = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {}) SELECT max(n) FROM c"
"""A query that takes as long as one likes."""

FOR_EVER = COUNT_TO.format(10**12)


def backend(path: Path, **options: Any) -> SqliteBackend:
    url = f"sqlite:///{path}"
    return SqliteBackend(parse_url(url)[0], Settings(url, **{"durability": "relaxed", **options}))


def database(made: SqliteBackend) -> Database:
    return made.blocking._db
