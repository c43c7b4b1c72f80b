"""What makes searching stay fast while a namespace grows, done beside the calls that write; the leaf pair tells it.

Small batches of postings are joined to larger ones, postings of deleted items are dropped when there are many, and
vectors get a graph (HNSW) when they are too many to be compared one by one. One thread a process does this over a
connection of its own, and ends when nothing is left to do; what pays only once nobody writes waits until then. The
invariant: nothing of it changes what a query finds, so it may be interrupted, repeated or done by two processes at
once, and its failure is only noted; each step is one transaction in which rows that it deletes are written anew.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ambidex.backends.postgres.blocking import BlockingConnection, Expired
from ambidex.backends.postgres.errors import Lost, Refused
from ambidex.backends.postgres.search_graph import build
from ambidex.backends.postgres.search_schema import STAMPS, Texts
from ambidex.backends.postgres.search_vectors import Vectors
from ambidex.backends.postgres.search_words import without
from ambidex.backends.postgres.server import Server
from ambidex.backends.postgres.wire import bigint_array, bytea_array
from ambidex.backends.relational.sql import Row
from ambidex.errors import AmbidexError

__all__ = ["Upkeep"]

_log = logging.getLogger("ambidex")

_WRITES, _ITEMS = 16, 1_000
"""About every so many writes, or items written, somebody looks whether there is something to do."""
_QUERIES = 1_000
"""So does somebody about every so many queries by a graph: who wrote may have gone before the graph was there."""
_MANY_BATCHES = 16
_MANY_GONE, _GONE_SHARE = 1_000, 0.1
_PAGE = 2_000
_SECONDS, _PATIENCE = 3_600.0, 2.0
_REST_SECONDS, _REST_FACTOR = 10.0, 10.0
"""Nobody writes if nothing came for so long. Graphs that are built for that take a tenth of the time at most."""
_LOCK = 1634558309  # beside the one of search_schema.py


class Upkeep:
    """The upkeep of one database in this process.

    Args:
        server: where the tables are.
        vectors: which graphs this process knows.
        prefix: of the tables: a schema and its dot, or "".
    """

    def __init__(self, server: Server, vectors: Vectors, prefix: str) -> None:
        self._server, self._vectors, self._prefix = server, vectors, prefix
        self._sql = Texts.of(prefix)
        self._connection: BlockingConnection | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a child, without a word on the parent's connection."""
        if self._connection is not None:
            self._connection.abandon()
        self._connection = None
        self._guard = threading.Lock()
        self._woken = threading.Event()
        self._due: set[str] = set()
        self._resting: dict[str, tuple[float, Mapping[int, int]]] = {}  # when to look again, and what there was
        self._busy: dict[str, float] = {}  # until when no graph is built for the rest's sake
        self._thread: threading.Thread | None = None
        self._stopped = False

    def written(self, namespace: str, items: int) -> None:
        """Note a write of so many items; now and then, look after the namespace in a thread."""
        if random.random() < 1 / _WRITES + items / _ITEMS:  # noqa: S311  # not a secret
            self._begin(namespace)

    def asked(self, namespace: str, *, missing: bool) -> None:
        """Note a query among many vectors, by a graph or for want of one; now and then, do as after a write."""
        if random.random() < 1 / (_WRITES if missing else _QUERIES):  # noqa: S311  # not a secret
            self._begin(namespace)

    def _begin(self, namespace: str) -> None:
        with self._guard:
            self._stopped = False
            self._due.add(namespace)
            self._woken.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ambidex-upkeep", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Interrupt what is under way."""
        with self._guard:
            thread, connection = self._thread, self._connection
            self._stopped = True
            self._due.clear()
            self._resting.clear()
            self._woken.set()
            if connection is not None:
                _interrupt(connection)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            namespace, seen = work
            began = time.monotonic()
            try:
                waiting = self.look_after(namespace, seen)
            except (AmbidexError, Lost, Refused, Expired) as error:
                _log.debug("the upkeep of the index at %s was interrupted: %s", self._server.where, error)
                continue
            now = time.monotonic()
            with self._guard:
                if seen:
                    self._busy[namespace] = now + _REST_FACTOR * (now - began)
                if waiting and not self._stopped:
                    self._resting[namespace] = max(now + _REST_SECONDS, self._busy.get(namespace, 0.0)), waiting

    def _next(self) -> tuple[str, Mapping[int, int]] | None:
        """Return the namespace to look after and what was seen there before it rested; None when there is no more."""
        while True:
            with self._guard:
                if self._due:
                    return self._due.pop(), {}
                self._woken.clear()
                first = min(self._resting.items(), key=lambda one: one[1][0], default=None)
                wait = first[1][0] - time.monotonic() if first else 0.0
                if first and wait <= 0:
                    del self._resting[first[0]]
                    return first[0], first[1][1]
                connection, self._connection = self._connection, None
                if not first:
                    self._thread = None
            if connection is not None and not connection.broken:
                connection.close()
            if not first:
                return None
            self._woken.wait(wait)

    def look_after(self, namespace: str, seen: Mapping[int, int] | None = None) -> Mapping[int, int]:
        """Do what is to be done in a namespace, on this thread.

        Args:
            namespace: where.
            seen: what this returned before a rest.

        Returns:
            What is worth doing only if nobody writes for a while; nothing in it: all is done.

        Raises:
            Lost, Refused, Expired: the server refused, or went away; the rest remains for the next time.
        """
        waiting: Mapping[int, int] = {}
        rows = self._ask(f"SELECT space FROM {self._prefix}ambidex_spaces WHERE namespace = ?", (namespace,))
        for (space,) in rows:
            for step in (self._join_changes, self._join_batches, self._purge):
                if not self._stopped:
                    self._locked(space, namespace, step)
            half = self._vectors.known
            if half is not None and half.graphs and not self._stopped:
                assert self._connection is not None  # noqa: S101  # the steps have made it
                waiting = build(self._ask, self._prefix, half.schema, space, self._connection.lasting, seen or {})
        return waiting

    def _ask(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        connection = self._connection
        if connection is None or connection.broken:
            made = BlockingConnection(self._server, 0, time.monotonic() + self._server.timeout)
            with self._guard:
                self._connection = connection = made
                if self._stopped:
                    raise Lost("it was closed", sent=False)
            if connection.lasting:
                self._ask("SELECT set_config('statement_timeout', '0', false)")
        return connection.run([(sql, args)], time.monotonic() + _SECONDS)[0]

    def _locked(self, space: int, namespace: str, step: Any) -> None:
        """Take a step as one transaction, unless somebody else takes one in this namespace."""
        self._ask("BEGIN")
        try:
            ((free,),) = self._ask("SELECT pg_try_advisory_xact_lock(?, ?)", (_LOCK, space))
            if free:
                self._ask(self._sql.share, (namespace,))
                step(space)
            self._ask("COMMIT")
        except Refused:
            self._ask("ROLLBACK")
            raise

    def _join_changes(self, space: int) -> None:
        """Make one change of the many that have no postings."""
        table = f"{self._prefix}ambidex_changes"
        ((many,),) = self._ask(f"SELECT count(*) FROM {table} WHERE space = ? AND level IS NULL", (space,))
        if many >= _MANY_BATCHES:
            self._join(space, "level IS NULL", None)

    def _join(self, space: int, which: str, level: int | None) -> None:
        table = f"{self._prefix}ambidex_changes"
        self._ask(
            f"WITH taken AS (DELETE FROM {table} WHERE space = ? AND {which} RETURNING *)"
            f" INSERT INTO {table} (space, stamp, level, items, words)"
            f" SELECT space, (sum(stamp) % {STAMPS})::bigint, ?::smallint, sum(items)::bigint, sum(words)::bigint"
            " FROM taken GROUP BY space",
            (space, level),
        )

    def _join_batches(self, space: int) -> None:
        """Join the batches of a level where there are many."""
        changes, postings = f"{self._prefix}ambidex_changes", f"{self._prefix}ambidex_postings"
        counts: dict[int | None, int] = dict(
            self._ask(f"SELECT level, count(*) FROM {changes} WHERE space = ? GROUP BY level", (space,))
        )
        for level in range(3):
            if counts.get(level, 0) < _MANY_BATCHES:
                continue
            self._ask(
                f"WITH taken AS (DELETE FROM {postings} WHERE space = ? AND level = ? RETURNING term, batch, docs)"
                f" INSERT INTO {postings} (space, term, level, batch, docs) SELECT ?::int, term, ?::smallint,"
                " min(batch), string_agg(docs, ''::bytea ORDER BY batch) FROM taken GROUP BY term ORDER BY term",
                (space, level, space, level + 1),
            )
            self._join(space, f"level = {level}", level + 1)
            counts[level + 1] = counts.get(level + 1, 0) + 1

    def _purge(self, space: int) -> None:
        """Drop the postings of deleted items when there are many."""
        p = self._prefix
        ((many, items),) = self._ask(
            f"SELECT (SELECT count(*) FROM {p}ambidex_gone WHERE space = ?),"
            f" (SELECT coalesce(sum(items), 0)::bigint FROM {p}ambidex_changes WHERE space = ?)",
            (space, space),
        )
        if many < _MANY_GONE or many < _GONE_SHARE * items:
            return
        gone = frozenset(item for (item,) in self._ask(f"SELECT item FROM {p}ambidex_gone WHERE space = ?", (space,)))
        last = (-1, -(1 << 31), -1)
        while rows := self._ask(
            f"SELECT level::int, term, batch, docs FROM {p}ambidex_postings"
            " WHERE space = ? AND (level, term, batch) > (?, ?, ?) ORDER BY level, term, batch LIMIT ?",
            (space, *last, _PAGE),
        ):
            last = rows[-1][:3]
            changed = [(*row[:3], left) for row in rows if len(left := without(row[3], gone)) < len(row[3])]
            if changed:
                self._rewrite(space, changed)
        self._ask(
            f"DELETE FROM {p}ambidex_gone WHERE space = ? AND item = ANY (?::bigint[])",
            (space, bigint_array(list(gone))),
        )

    def _rewrite(self, space: int, rows: Sequence[Row]) -> None:
        table = f"{self._prefix}ambidex_postings"
        levels, terms, batches, docs = zip(*rows, strict=True)
        self._ask(
            f"WITH given AS (SELECT * FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bytea[])"
            f" AS given (level, term, batch, docs)), ended AS (DELETE FROM {table} p USING given g WHERE p.space = ?"
            " AND p.level = g.level AND p.term = g.term AND p.batch = g.batch AND g.docs = '')"
            f" UPDATE {table} p SET docs = g.docs FROM given g WHERE p.space = ? AND p.level = g.level"
            " AND p.term = g.term AND p.batch = g.batch AND g.docs <> ''",
            (bigint_array(levels), bigint_array(terms), bigint_array(batches), bytea_array(docs), space, space),
        )


def _interrupt(connection: BlockingConnection) -> None:
    """Let the thread that waits on a connection find it closed."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has gone
