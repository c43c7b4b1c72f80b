"""Vectors on PostgreSQL: kept beside the texts as they were given, and searched by pgvector where it is there.

The port calls this. pgvector compares halves of unit vectors, derived from what was given. Where the extension is
missing and may not be created, or a vector is too long for it, the vectors themselves are read and compared here: slow
for many, and right. The invariant: both ways look at every vector that the filters leave, so neither loses results.
"""

from __future__ import annotations

import heapq
import logging
import math
import struct
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from ambidex.backends.postgres.schema import TABLES_LOCK, do
from ambidex.backends.postgres.search_graph import Graph
from ambidex.backends.postgres.wire import bigint_array, sized_array
from ambidex.backends.relational.sql import Row, Statement

__all__ = ["Half", "Nearest", "Vectors", "nearest_of", "unit_half"]

_log = logging.getLogger("ambidex")

_LONGEST = 16_000  # what halfvec can hold
_AGAIN_SECONDS = 60.0
_PAGE = 1_000

Run = Callable[[Sequence[Statement]], Awaitable[list[list[Row]]]]
Nearest = dict[int, float]

_FIND = (
    "SELECT quote_ident(n.nspname), t.oid::bigint, string_to_array(substring(e.extversion, '[0-9.]*'), '.')::int[]"
    " >= '{0,8}', to_regclass(?) IS NOT NULL FROM pg_extension e"
    " JOIN pg_depend d ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'"
    " JOIN pg_type t ON t.oid = d.objid AND d.classid = 'pg_type'::regclass AND t.typname = 'halfvec'"
    " JOIN pg_namespace n ON n.oid = t.typnamespace WHERE e.extname = 'vector'"
)
_CREATE = (
    "DO $ambidex$ BEGIN BEGIN CREATE EXTENSION IF NOT EXISTS vector;"
    " EXCEPTION WHEN OTHERS THEN NULL; END; END $ambidex$"
)


class Half(NamedTuple):
    """pgvector's type for halves, as this database has it.

    Attributes:
        schema: where it is.
        oid: its number.
        graphs: whether a graph can be read on until enough meet a filter or are not deleted: from 0.8.
    """

    schema: str
    oid: int
    graphs: bool

    def array(self, vectors: Sequence[Sequence[float]]) -> bytes:
        """Return unit vectors in the binary form of an array of the type."""
        return sized_array(self.oid, [unit_half(vector) for vector in vectors])


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector) or 1.0
    return [one / length for one in vector]


def unit_half(vector: Sequence[float]) -> bytes:
    """Return the unit vector of a direction in the binary form of pgvector's type."""
    return struct.pack(f">HH{len(vector)}e", len(vector), 0, *_unit(vector))


class Vectors:
    """What this process knows of the database's vectors; both colours of the leaf share one.

    Args:
        prefix: of the tables: a schema and its dot, or "".
        where: the database, for messages.
    """

    def __init__(self, prefix: str, where: str) -> None:
        self._table = f"{prefix}ambidex_vectors"
        self._texts, self._items = f"{prefix}ambidex_texts", f"{prefix}ambidex_items"
        self._space = f"(SELECT space FROM {prefix}ambidex_spaces WHERE namespace = ?)"
        self._where = where
        self.forget()

    def forget(self) -> None:
        """Ask the database anew."""
        self._known: Half | None = None
        self._graphs: dict[tuple[str, int], Graph] = {}
        self._refused_until = -math.inf
        self._warned = False

    async def half(self, run: Run, *, lasting: bool) -> Half | None:
        """Return pgvector's type, its table being there, or None where there is none to be had.

        Args:
            run: sends statements.
            lasting: whether what is made stays; not inside a transaction, which may be undone.
        """
        if self._known is not None:
            return self._known
        ask = (_FIND, (self._table,))
        found = (await run([ask]))[0]
        if not found and time.monotonic() >= self._refused_until:
            found = (await run([TABLES_LOCK, (_CREATE, ()), ask]))[-1]
        if not found:
            self._refused_until = time.monotonic() + _AGAIN_SECONDS
            if not self._warned:
                self._warned = True
                _log.warning(
                    "%s has no pgvector 0.7 or newer: vectors are compared one by one, which is slow for many; install "
                    "it on the server and run CREATE EXTENSION vector",
                    self._where,
                )
            return None
        half = Half(*found[0][:3])
        if not found[0][3]:
            await self._make(run, half)
        if lasting:
            self._known = half
        return half

    async def _make(self, run: Run, half: Half) -> None:
        """Make the table, with the vectors that were stored before it could be."""
        table = self._table
        follow = f"DELETE FROM {table} v USING old_texts t WHERE v.item = t.item; RETURN NULL;"
        made = [
            f"CREATE TABLE {table} (item bigint PRIMARY KEY, space int NOT NULL, dimension int NOT NULL,"
            f" half {half.schema}.halfvec NOT NULL)",
            f"CREATE INDEX ambidex_vectors_space ON {table} (space, dimension, item)",
            f"CREATE FUNCTION {table}_follow() RETURNS trigger LANGUAGE plpgsql"
            f" AS $follow$ BEGIN {follow} END $follow$",
            f"CREATE TRIGGER ambidex_vectors_follow AFTER DELETE ON {self._texts} REFERENCING OLD TABLE AS old_texts"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {table}_follow()",
        ]
        # Apart and first, so that no writer who is under way holds it and meets what is made; and because only after
        # the lock of a table does this session see what others have made.
        held = [TABLES_LOCK, (do("true", [f"LOCK TABLE {self._texts} IN SHARE ROW EXCLUSIVE MODE"]), ())]
        await run([*held, (do(f"to_regclass('{table}') IS NULL", made), ())])
        last = 0
        select = (
            f"SELECT i.space, t.item, t.vector FROM {self._texts} t JOIN {self._items} i ON i.item = t.item"
            f" WHERE t.item > ? AND t.vector IS NOT NULL AND length(t.vector) <= {4 * _LONGEST}"
            f" ORDER BY t.item LIMIT {_PAGE}"
        )
        insert = (
            f"INSERT INTO {self._table} SELECT item, space, dimension, half"
            f" FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::{half.schema}.halfvec[])"
            f" AS given (space, dimension, item, half) JOIN {self._texts} t USING (item)"
            " ON CONFLICT DO NOTHING"
        )
        while rows := (await run([(select, (last,))]))[0]:
            vectors = [array("f", row[2]) for row in rows]
            spaces, items = [row[0] for row in rows], [row[1] for row in rows]
            sizes = bigint_array(list(map(len, vectors)))
            # Under the same lock, so that no text is deleted between the look at it and its vector.
            await run([*held, (insert, (bigint_array(spaces), sizes, bigint_array(items), half.array(vectors)))])
            last = items[-1]

    @property
    def known(self) -> Half | None:
        """What is known of the type without asking."""
        return self._known

    def graph(self, namespace: str, dimension: int) -> Graph | None:
        """Return the graph that a namespace had when it was last asked for; what is found by it is to be checked."""
        return self._graphs.get((namespace, dimension))

    def note(self, namespace: str, dimension: int, graph: Graph | None) -> None:
        """Note which graph a namespace has."""
        if graph is not None:
            self._graphs[namespace, dimension] = graph
        elif self._graphs:
            self._graphs.pop((namespace, dimension), None)

    def fits(self, half: Half | None, dimension: int) -> bool:
        """Tell whether pgvector holds vectors of a length."""
        return half is not None and dimension <= _LONGEST

    def store(
        self, half: Half, namespace: str, numbers: Sequence[int], vectors: Sequence[Sequence[float] | None]
    ) -> list[Statement]:
        """Return what makes the derived vectors of new items; those of deleted texts go by a trigger."""
        statements: list[Statement] = []
        given = [(number, vector) for number, vector in zip(numbers, vectors, strict=True) if vector is not None]
        given = [(number, vector) for number, vector in given if len(vector) <= _LONGEST]
        if given:
            sizes = bigint_array([len(vector) for _, vector in given])
            items = bigint_array([number for number, _ in given])
            halves = half.array([vector for _, vector in given])
            insert = (
                f"INSERT INTO {self._table} SELECT item, {self._space}, dimension, half"
                f" FROM unnest(?::bigint[], ?::bigint[], ?::{half.schema}.halfvec[]) AS given (dimension, item, half)"
            )
            statements.append((insert, (namespace, sizes, items, halves)))
        return statements

    def nearest(self, half: Half, space: int, vector: Sequence[float], kept: bytes | None, depth: int) -> Statement:
        """Return what finds the cosines of the nearest items: rows of number and cosine, the nearest first.

        Args:
            half: the type.
            space: the namespace's number, not its name, by which the planner could not tell a small one from a large.
            vector: of the query.
            kept: the numbers of the items to look at, as an array; None: all.
            depth: how many.
        """
        among, bound = "", list[bytes]()
        if kept is not None:
            among, bound = " AND item = ANY (?::bigint[])", [kept]
        sql = (
            f"SELECT item, -(half OPERATOR({half.schema}.<#>) ?::{half.schema}.halfvec) AS cosine FROM {self._table}"
            f" WHERE space = ? AND dimension = ?{among} ORDER BY cosine DESC, item LIMIT ?"
        )
        return sql, (unit_half(vector), space, len(vector), *bound, depth)

    def page(self, namespace: str, dimension: int, after: int, filters: str, bound: Sequence[object]) -> Statement:
        """Return what reads a page of vectors as they were given: rows of number and vector."""
        sql = (
            f"SELECT i.item, t.vector FROM {self._items} i JOIN {self._texts} t ON t.item = i.item"
            f" WHERE i.space = {self._space} AND length(t.vector) = ? AND i.item > ?{filters}"
            f" ORDER BY i.item LIMIT {_PAGE}"
        )
        return sql, (namespace, 4 * dimension, after, *bound)


def nearest_of(vector: Sequence[float], rows: Sequence[Row], so_far: Nearest, depth: int) -> Nearest:
    """Return the nearest of those known so far and of rows ``(number, vector)``."""
    unit = _unit(vector)
    found = [(score, -item) for item, score in so_far.items()]
    for item, stored in rows:
        other = array("f", stored)
        length = math.hypot(*other) or 1.0
        found.append((sum(map(float.__mul__, unit, other)) / length, -item))
    return {-item: score for score, item in heapq.nlargest(depth, found)}
