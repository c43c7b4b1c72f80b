"""Graphs (HNSW) over the vectors of large namespaces, and the statement that asks one; the port and upkeep call this.

A graph is an index over the vectors of one namespace up to a number; the newer ones are compared one by one until
there are enough of them for a new graph, and fewer are enough when nobody writes. Adding to a graph takes several times
the work of building it at once, and the writer would wait for it. The invariant: the statement finds the nearest by its
own words; a graph only makes it fast, so one that is missing costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ambidex.backends.relational.sql import Row, Statement

__all__ = ["GRAPHS", "Graph", "build", "find", "nearest", "shown", "wanting"]

GRAPHS = (
    "CREATE TABLE {s}ambidex_graphs (space int NOT NULL, dimension int NOT NULL, bound bigint NOT NULL,"
    " name text NOT NULL, PRIMARY KEY (space, dimension))",
)

_LONGEST = 4_000  # what an HNSW index over halves can hold
_MANY, _SHARE = 10_000, 0.2
"""A graph is built for so many vectors without one, if they are such a share of all."""
_REST_MANY, _REST_SHARE = 500, 0.01
"""When nobody writes, so many and such a share are enough, where there are vectors for a graph at all."""
_CONSTRUCTED = 128
"""Candidates when a node is put in its place. With pgvector's own 64, a search needs nearly twice as many as now."""
_LEAST_CANDIDATES = 120
"""Among so many the nearest are looked for, however few are wanted."""
_LOCK = 1634558310  # beside the one of search_upkeep.py

_SETTINGS = (
    "set_config('hnsw.ef_search', ?, true), set_config('hnsw.iterative_scan', 'relaxed_order', true),"
    " set_config('hnsw.max_scan_tuples', '40000', true), set_config('jit', 'off', true)"
)
"""With conditions, the graph is read until enough of its nodes meet them. The settings end with the request."""

Ask = Callable[..., list[Row]]
Filters = tuple[str, Sequence[Any]]


class Graph(NamedTuple):
    """One namespace's graph for one dimension."""

    space: int
    dimension: int
    bound: int


def wanting(items: int, dimension: int) -> bool:
    """Tell whether a namespace without a graph probably lacks one."""
    return items >= _MANY and dimension <= _LONGEST


def find(prefix: str, namespace: str, dimension: int, depth: int | None = None) -> Statement:
    """Return what reads which graph a namespace has, and gets ready to ask it.

    Its answer is a row that begins with space and bound, or none.

    Args:
        prefix: of the tables.
        namespace: whose.
        dimension: of the vectors.
        depth: how many are to be found in the same request; None: none.
    """
    settings, bound = ("", ()) if depth is None else (f", {_SETTINGS}", (str(max(depth, _LEAST_CANDIDATES)),))
    sql = (
        f"SELECT g.space, g.bound{settings} FROM {prefix}ambidex_graphs g"
        f" JOIN {prefix}ambidex_spaces s ON s.space = g.space WHERE s.namespace = ? AND g.dimension = ?"
    )
    return sql, (*bound, namespace, dimension)


def nearest(prefix: str, type_schema: str, graph: Graph, half: bytes, filters: Filters, depth: int) -> Statement:
    """Return what finds the nearest by a graph and among the vectors behind it: rows of number and cosine.

    Args:
        prefix: of the tables.
        type_schema: where pgvector's types are.
        graph: what there is.
        half: the query's unit vector in the type's binary form.
        filters: conditions on an item ``i`` as SQL, each with its AND, and the values to bind.
        depth: how many, at most 1,000; :func:`find` has got ready for as many.
    """
    found, bound = _found(prefix, type_schema, graph, half, filters, depth)
    return f"SELECT item, -distance {found}", bound


def shown(prefix: str, type_schema: str, graph: Graph, half: bytes, depth: int, top_k: int) -> Statement:
    """Return what finds the nearest and shows the first ``top_k``; the other arguments are those of :func:`nearest`.

    Its answer is rows of number, cosine, the least cosine of all that were found, id, title, text and metadata.
    """
    found, bound = _found(prefix, type_schema, graph, half, ("", ()), depth)
    sql = (
        "SELECT i.item, -distance, -last, i.id, t.title, t.text, i.metadata::text FROM (SELECT item, distance,"
        f" max(distance) OVER () AS last FROM (SELECT item, distance {found}) AS near ORDER BY distance, item"
        f" LIMIT {top_k})"  # in the text, or else the server plans anew each time, hoping for a smaller one
        f" AS best JOIN {prefix}ambidex_items i ON i.item = best.item JOIN {prefix}ambidex_texts t"
        " ON t.item = best.item ORDER BY distance, i.item"
    )
    return sql, bound


def _found(
    prefix: str, type_schema: str, graph: Graph, half: bytes, filters: Filters, depth: int
) -> tuple[str, Sequence[Any]]:
    # The numbers stand in the text, for only so does the planner see that the index fits; all are the database's own.
    conditions, bound = filters
    among = ""
    if conditions:  # a scalar, which is asked of each node that the graph offers and never turned into a join
        among = f" AND (SELECT true FROM {prefix}ambidex_items i WHERE i.item = v.item{conditions})"
    column = f"half::{type_schema}.halfvec({graph.dimension})"
    distance = f"{column} OPERATOR({type_schema}.<#>) ?::{type_schema}.halfvec({graph.dimension})"
    which = f"FROM {prefix}ambidex_vectors v WHERE space = {graph.space} AND dimension = {graph.dimension}"
    by_graph = (
        f"(SELECT item, {distance} AS distance {which} AND item <= {graph.bound}{among}"
        f" ORDER BY {distance} LIMIT {depth})"
    )
    behind = f"(SELECT item, {distance} AS distance {which} AND item > {graph.bound}{among} ORDER BY 2 LIMIT {depth})"
    sql = f"FROM ({by_graph} UNION ALL {behind}) AS found ORDER BY distance, item LIMIT {depth}"
    return sql, (half, *bound, half, half, *bound)


def build(ask: Ask, prefix: str, type_schema: str, space: int, alone: bool, seen: Mapping[int, int]) -> dict[int, int]:
    """Build the graphs that a namespace needs, and drop those in whose place they come.

    Args:
        ask: runs a statement on a connection that is in no transaction.
        prefix: of the tables.
        type_schema: where pgvector's types are.
        space: the namespace's number.
        alone: whether locks of a session can be held, so that nobody else builds at the same time.
        seen: what this returned some time ago; where nobody has written since, smaller steps are worth while.

    Returns:
        By dimension the last vector of those that are worth a graph when nobody writes any more.
    """
    waiting: dict[int, int] = {}
    if alone and not ask("SELECT pg_try_advisory_lock(?, ?)", (_LOCK, space))[0][0]:
        return {0: 0}  # who builds now does not know of vectors that came since
    try:
        counts = ask(
            "SELECT v.dimension, count(*), count(*) FILTER (WHERE v.item > coalesce(g.bound, 0)), max(v.item)"
            f" FROM {prefix}ambidex_vectors v LEFT JOIN {prefix}ambidex_graphs g"
            " ON g.space = v.space AND g.dimension = v.dimension WHERE v.space = ? GROUP BY v.dimension",
            (space,),
        )
        for dimension, total, fresh, last in counts:
            if dimension > _LONGEST or total < _MANY:
                continue
            at_rest = fresh >= _REST_MANY and fresh >= _REST_SHARE * total
            if (fresh >= _MANY and fresh >= _SHARE * total) or (at_rest and seen.get(dimension) == last):
                _build(ask, prefix, type_schema, Graph(space, dimension, last), alone)
            elif at_rest:
                waiting[dimension] = last
    finally:
        if alone:
            ask("SELECT pg_advisory_unlock(?, ?)", (_LOCK, space))
    return waiting


def _build(ask: Ask, prefix: str, type_schema: str, graph: Graph, alone: bool) -> None:
    known = ask(
        f"SELECT name FROM {prefix}ambidex_graphs WHERE space = ? AND dimension = ?", (graph.space, graph.dimension)
    )
    names = f"ambidex_graph_{graph.space}_{graph.dimension}"
    if alone:  # what somebody was interrupted in
        left: list[Any] = ask(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE i.indrelid = to_regclass(?) AND starts_with(c.relname, ?)",
            (f"{prefix}ambidex_vectors", f"{names}_"),
        )
        for name in left:
            if name not in known:
                ask(f"DROP INDEX CONCURRENTLY IF EXISTS {prefix}{name[0]}")
        ask("SELECT set_config('maintenance_work_mem', '256MB', false)")
    name = f"{names}_{graph.bound}"
    ask(
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {prefix}ambidex_vectors USING hnsw"
        f" ((half::{type_schema}.halfvec({graph.dimension})) {type_schema}.halfvec_ip_ops)"
        f" WITH (m = 16, ef_construction = {_CONSTRUCTED})"
        f" WHERE space = {graph.space} AND dimension = {graph.dimension} AND item <= {graph.bound}"
    )
    ask(f"ANALYZE {prefix}ambidex_vectors")  # or else the planner may think that few vectors meet the bound
    ask(
        f"INSERT INTO {prefix}ambidex_graphs VALUES (?, ?, ?, ?) ON CONFLICT (space, dimension)"
        " DO UPDATE SET bound = excluded.bound, name = excluded.name",
        (*graph, name),
    )
    for (old,) in known:
        if old != name:
            ask(f"DROP INDEX CONCURRENTLY IF EXISTS {prefix}{old}")
