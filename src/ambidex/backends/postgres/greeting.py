"""The first question on every new connection; the connections of both colours ask it.

It finds out whether a pooler stands between (then the process id in libpq's hands is not the server's), chooses the
session's settings where there is none, and reads how durable the server is. The invariant: nothing is ever set on a
session that a pooler could hand to somebody else.
"""

from __future__ import annotations

import logging

from psycopg.pq.abc import PGconn

from ambidex.backends.postgres.server import Server
from ambidex.backends.relational.sql import Row, Statement

__all__ = ["greeting", "heed"]

_log = logging.getLogger("ambidex")

_SET = (
    "set_config('statement_timeout', ?, false) || set_config('lock_timeout', ?, false)"
    " || CASE WHEN ? = 'relaxed' THEN set_config('synchronous_commit', 'off', false)"
    " WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false)"
    " ELSE '' END"
    " || CASE WHEN version() LIKE '%linux%' AND current_setting('server_version_num')::int >= 140000"
    " THEN set_config('client_connection_check_interval', '1s', false) ELSE '' END"
)
_ASK = (
    f"SELECT direct, CASE WHEN direct THEN {_SET} END, current_setting('fsync'), current_setting('synchronous_commit')"
    " FROM (SELECT pg_backend_pid() = ?::int AS direct) AS session"
)


def greeting(server: Server, pgconn: PGconn) -> list[Statement]:
    """Return the question."""
    pid = 0 if server.options.pooled else pgconn.backend_pid
    # The server gives up a little after the client, which then has closed the connection already.
    limit = f"{int(server.settings.timeout * 1000) + 500}ms"
    return [(_ASK, (limit, limit, server.settings.durability, pid))]


def heed(server: Server, answer: Row) -> bool:
    """Return whether statements may be prepared under names; warn once of a server that can lose what it confirms."""
    direct, _, fsync, synchronous_commit = answer
    forgetful = fsync == "off" or (synchronous_commit == "off" and not direct)
    if forgetful and server.settings.durability == "durable" and not server.warned:
        server.warned = True
        _log.warning(
            "%s has fsync=%s and synchronous_commit=%s: it may lose acknowledged writes in a crash, and "
            "durability=durable was asked for",
            server.where,
            fsync,
            synchronous_commit,
        )
    return bool(direct)
