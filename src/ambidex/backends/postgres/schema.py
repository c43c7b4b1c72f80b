"""The tables of a PostgreSQL database and how an older one becomes a current one; the leaf pair runs this at first use.

The invariant: a released migration is never edited; a change is a new one at the end. Each runs once, in order, in one
transaction with the row that records it, under an advisory lock, so that any number of processes may start at the same
moment. A database written by a newer ambidex is refused rather than guessed at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ambidex.backends.postgres import search_graph, search_schema
from ambidex.backends.relational.sql import Row, Statement
from ambidex.errors import ConfigurationError

__all__ = ["MIGRATIONS", "TABLES_LOCK", "do", "migrate"]

TABLES_LOCK: Statement = ("SELECT pg_advisory_xact_lock(?)", (0x616D6269646578,))  # "ambidex"
"""Under this lock tables are made."""

# Keys compare by their bytes (COLLATE "C"), so that prefix scans are index scans under every locale. Room is left on
# each page, so that an updated row can stay there.
_FIRST = (
    'CREATE TABLE {s}ambidex_kv (key text COLLATE "C" PRIMARY KEY, value bytea, number bigint, version bigint NOT NULL,'
    " expires bigint, CHECK ((value IS NULL) <> (number IS NULL))) WITH (fillfactor = 90)",
    "CREATE INDEX ambidex_kv_expires ON {s}ambidex_kv (expires) WHERE expires IS NOT NULL",
    'CREATE TABLE {s}ambidex_streams (stream text COLLATE "C" PRIMARY KEY, seq bigint NOT NULL, floor bigint NOT NULL,'
    " expires bigint) WITH (fillfactor = 80)",
    "CREATE INDEX ambidex_streams_expires ON {s}ambidex_streams (expires) WHERE expires IS NOT NULL",
    'CREATE TABLE {s}ambidex_events (stream text COLLATE "C" NOT NULL, seq bigint NOT NULL, data bytea NOT NULL,'
    " PRIMARY KEY (stream, seq))",
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, (*search_schema.SCHEMA, *search_graph.GRAPHS))

Run = Callable[[Sequence[Statement]], Awaitable[list[list[Row]]]]


async def migrate(run: Run, schema: str, where: str) -> None:
    """Bring the tables up to date.

    Args:
        run: sends statements as one transaction.
        schema: the schema of the tables, or "".
        where: the database, for messages.

    Raises:
        ConfigurationError: the tables were made by a newer version of ambidex.
    """
    prefix = f"{schema}." if schema else ""
    ((found,),) = (await run([("SELECT to_regclass(?) IS NOT NULL", (f"{prefix}ambidex_schema",))]))[0]
    version = f"SELECT coalesce(max(version), 0) FROM {prefix}ambidex_schema"
    have = (await run([(version, ())]))[0][0][0] if found else 0
    if have < len(MIGRATIONS):
        ((have,),) = (await run([*_statements(schema, prefix), (version, ())]))[-1]
    if have > len(MIGRATIONS):
        raise ConfigurationError(
            f"the tables at {where} have version {have}, this version of ambidex knows {len(MIGRATIONS)}; "
            "upgrade ambidex"
        )


def _statements(schema: str, prefix: str) -> list[Statement]:
    statements: list[Statement] = [TABLES_LOCK]
    if schema:  # asked first, because CREATE SCHEMA IF NOT EXISTS wants a privilege even where there is one
        statements.append((do(f"to_regnamespace('{schema}') IS NULL", [f"CREATE SCHEMA {schema}"]), ()))
    statements.append(
        (
            f"CREATE TABLE IF NOT EXISTS {prefix}ambidex_schema"
            " (version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
            (),
        )
    )
    for version, migration in enumerate(MIGRATIONS, 1):
        record = f"INSERT INTO {prefix}ambidex_schema VALUES ({version})"
        absent = f"NOT EXISTS (SELECT FROM {prefix}ambidex_schema WHERE version >= {version})"
        texts = [statement.replace("{s}", prefix) for statement in migration]
        statements.append((do(absent, [*texts, record]), ()))
    return statements


def do(condition: str, statements: Sequence[str]) -> str:
    """Return one statement that runs several if a condition holds; none of them may have arguments."""
    body = "".join(f"{statement}; " for statement in statements)
    return f"DO $ambidex$ BEGIN IF {condition} THEN {body}END IF; END $ambidex$"
