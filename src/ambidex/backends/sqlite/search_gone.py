"""The log of items that disappeared, so that whoever knows a namespace learns of them without reading what is left.

``search_schema.forget`` writes it, inside the transaction that deletes; ``search_space.py`` reads it. Each entry names
the one before it. The invariant: entries that lead from one known disappearance to the current one, each naming the
one before, hold every item that disappeared in between. Where the chain is broken (the log was cut, many items went at
once, an older file was put in place of this one) the reader is told so, and reads the numbers of all items.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from ambidex.backends.relational.sql import Args, Row

__all__ = ["SCHEMA", "note", "since"]

SCHEMA = (
    "CREATE TABLE ambidex_gone (space INTEGER NOT NULL, gone INTEGER NOT NULL, before INTEGER NOT NULL,"
    " items BLOB, PRIMARY KEY (space, gone)) WITHOUT ROWID",
)

_MOST_ITEMS = 4_096
"""Of more items that disappear at once, the log says only that they did."""
_MOST_ENTRIES = 1_024
_CUT_EVERY = 64

_NUMBER = (
    "UPDATE ambidex_numbers SET last = max(last + 1, CAST(unixepoch('subsec') * 1000000 AS INTEGER)) RETURNING last"
)
_ADD = "INSERT INTO ambidex_gone SELECT space, ?, gone, ? FROM ambidex_spaces WHERE space = ?"
_MARK = "UPDATE ambidex_spaces SET gone = ? WHERE space = ?"
_CUT = (
    "DELETE FROM ambidex_gone WHERE space = ? AND gone <="
    f" (SELECT gone FROM ambidex_gone WHERE space = ? ORDER BY gone DESC LIMIT 1 OFFSET {_MOST_ENTRIES})"
)
_SINCE = "SELECT gone, before, items FROM ambidex_gone WHERE space = ? AND gone > ? ORDER BY gone"


def note(conn: apsw.Connection, space: int, items: Sequence[Any]) -> None:
    """Write down that items of a namespace are gone.

    Args:
        conn: the writer's, inside the transaction that deletes them.
        space: the namespace.
        items: their numbers.
    """
    found: list[Any] = conn.execute(_NUMBER).fetchall()
    gone = int(found[0][0])
    conn.execute(_ADD, (gone, array("q", items).tobytes() if len(items) <= _MOST_ITEMS else None, space)).fetchall()
    conn.execute(_MARK, (gone, space)).fetchall()
    if gone % _CUT_EVERY == 0:
        conn.execute(_CUT, (space, space)).fetchall()


def since(read: Callable[[str, Args], list[Row]], space: int, known: int, gone: int) -> bytes | None:
    """Return the numbers of the items that disappeared, 8 bytes each; None where the log does not tell.

    Args:
        read: runs a query.
        space: the namespace.
        known: the last disappearance that is known.
        gone: the last one that must be.
    """
    if known == gone:
        return b""
    items: list[bytes] = []
    reached = False
    for number, before, some in read(_SINCE, (space, known)):
        if before != known or some is None:
            return None
        known = number
        reached = reached or number == gone
        items.append(some)
    return b"".join(items) if reached else None
