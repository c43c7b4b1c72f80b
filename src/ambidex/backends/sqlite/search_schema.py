"""The tables of the index and the statements that change them; the search port and the migrations use this.

An item is one row each in three places: what it is called and filtered by (narrow, so that a filter reads little), its
texts and vector, and the full-text index over the texts. The latter is written here and by no trigger: in a trigger
FTS5 flushes its buffer at every row, which takes three times as long. The invariant: the number of an item stands for
one text and one vector for ever. Replacing a text gives a new number, numbers grow, and because they come from the
clock they do not repeat even in a database that was restored from a backup; so whatever was derived from an item stays
right as long as the item exists. Every write gives its namespace a new stamp, every disappearance of an item a new
``gone``, every change of metadata a new ``noted``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import apsw

from ambidex.backends.sqlite import search_gone

__all__ = ["REBUILT", "SCHEMA", "UNTRIGGERED", "forget", "put", "space_of", "stamp"]

SCHEMA = (
    "CREATE TABLE ambidex_items (item INTEGER PRIMARY KEY, namespace TEXT NOT NULL, id TEXT NOT NULL,"
    " title TEXT NOT NULL,"
    " text TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB, UNIQUE (namespace, id))",
    "CREATE VIRTUAL TABLE ambidex_fts USING fts5(title, text, content='ambidex_items', content_rowid='item',"
    " tokenize='porter unicode61')",
    "CREATE TRIGGER ambidex_items_added AFTER INSERT ON ambidex_items BEGIN"
    " INSERT INTO ambidex_fts (rowid, title, text) VALUES (new.item, new.title, new.text); END",
    "CREATE TRIGGER ambidex_items_removed AFTER DELETE ON ambidex_items BEGIN"
    " INSERT INTO ambidex_fts (ambidex_fts, rowid, title, text) VALUES ('delete', old.item, old.title, old.text); END",
    "CREATE TRIGGER ambidex_items_changed AFTER UPDATE ON ambidex_items BEGIN"
    " INSERT INTO ambidex_fts (ambidex_fts, rowid, title, text) VALUES ('delete', old.item, old.title, old.text);"
    " INSERT INTO ambidex_fts (rowid, title, text) VALUES (new.item, new.title, new.text); END",
)
"""The first form, which :data:`REBUILT` replaces."""

_NOW = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"

REBUILT = (
    "DROP TRIGGER ambidex_items_added",
    "DROP TRIGGER ambidex_items_removed",
    "DROP TRIGGER ambidex_items_changed",
    "DROP TABLE ambidex_fts",
    "ALTER TABLE ambidex_items RENAME TO ambidex_items_1",
    "CREATE TABLE ambidex_spaces (space INTEGER PRIMARY KEY, namespace TEXT NOT NULL UNIQUE, stamp INTEGER NOT NULL,"
    " gone INTEGER NOT NULL DEFAULT 0, noted INTEGER NOT NULL DEFAULT 0, embedder TEXT NOT NULL DEFAULT '')",
    "CREATE TABLE ambidex_numbers (last INTEGER NOT NULL)",
    "CREATE TABLE ambidex_items (item INTEGER PRIMARY KEY, space INTEGER NOT NULL, id TEXT NOT NULL,"
    " metadata TEXT NOT NULL, UNIQUE (space, id))",
    "CREATE INDEX ambidex_items_space ON ambidex_items (space, item)",
    "CREATE TABLE ambidex_texts (item INTEGER PRIMARY KEY, vector BLOB, words BLOB, title TEXT NOT NULL,"
    " text TEXT NOT NULL)",
    "CREATE VIRTUAL TABLE ambidex_fts USING fts5(title, text, content='ambidex_texts', content_rowid='item',"
    " tokenize='porter unicode61')",
    "CREATE TRIGGER ambidex_texts_added AFTER INSERT ON ambidex_texts BEGIN"
    " INSERT INTO ambidex_fts (rowid, title, text) VALUES (new.item, new.title, new.text); END",
    "CREATE TRIGGER ambidex_texts_removed AFTER DELETE ON ambidex_texts BEGIN"
    " INSERT INTO ambidex_fts (ambidex_fts, rowid, title, text) VALUES ('delete', old.item, old.title, old.text); END",
    "INSERT INTO ambidex_spaces (namespace, stamp) SELECT DISTINCT namespace, abs(random() % 4503599627370496) + 1"
    " FROM ambidex_items_1",
    "INSERT INTO ambidex_items SELECT i.item, s.space, i.id, i.metadata FROM ambidex_items_1 i"
    " JOIN ambidex_spaces s ON s.namespace = i.namespace",
    "INSERT INTO ambidex_texts SELECT item, vector, NULL, title, text FROM ambidex_items_1",
    f"INSERT INTO ambidex_numbers SELECT max({_NOW}, coalesce((SELECT max(item) FROM ambidex_items_1), 0))",
    "DROP TABLE ambidex_items_1",
)

UNTRIGGERED = ("DROP TRIGGER ambidex_texts_added", "DROP TRIGGER ambidex_texts_removed")
"""What fills the full-text index since then is :func:`put`, and what empties it :func:`forget`."""

_GIVEN = "SELECT value FROM json_each(?)"
_SPACE = (
    "INSERT INTO ambidex_spaces (namespace, stamp) VALUES (?, ?)"
    " ON CONFLICT (namespace) DO UPDATE SET stamp = excluded.stamp RETURNING space"
)
_NUMBERS = f"UPDATE ambidex_numbers SET last = max(last + 1, {_NOW}) + ? RETURNING last"
_KNOWN = "SELECT item FROM ambidex_items WHERE space = ? AND id IN (SELECT value FROM json_each(?))"
_FTS_ADD = (
    "INSERT INTO ambidex_fts (rowid, title, text)"
    " SELECT item, title, text FROM ambidex_texts WHERE item BETWEEN ? AND ? ORDER BY item"
)
_FTS_DROP = (
    "INSERT INTO ambidex_fts (ambidex_fts, rowid, title, text) SELECT 'delete', item, title, text FROM ambidex_texts"
    f" WHERE item IN ({_GIVEN}) ORDER BY item"
)


def stamp() -> int:
    """Return a number that was never used before."""
    return random.getrandbits(62) + 1  # not a secret


def space_of(conn: apsw.Connection, namespace: str) -> int:
    """Give a namespace a new stamp, and a row if it has none; return the row's number."""
    rows: list[Any] = conn.execute(_SPACE, (namespace, stamp())).fetchall()
    return int(rows[0][0])


def put(conn: apsw.Connection, namespace: str, rows: Sequence[tuple[Any, ...]], ids: str) -> None:
    """Add or replace items.

    Args:
        conn: the writer's, inside a transaction.
        namespace: where.
        rows: ``(id, metadata, vector, words, title, text)`` of each, every id once.
        ids: the ids as a JSON array.
    """
    space = space_of(conn, namespace)
    forget(conn, space, [item for (item,) in conn.execute(_KNOWN, (space, ids)).fetchall()])
    last: list[Any] = conn.execute(_NUMBERS, (len(rows) - 1,)).fetchall()
    first = int(last[0][0]) - len(rows) + 1
    conn.executemany(
        "INSERT INTO ambidex_items VALUES (?, ?, ?, ?)",
        [(item, space, row[0], row[1]) for item, row in enumerate(rows, first)],
    ).fetchall()
    conn.executemany(
        "INSERT INTO ambidex_texts VALUES (?, ?, ?, ?, ?)", [(item, *row[2:]) for item, row in enumerate(rows, first)]
    ).fetchall()
    conn.execute(_FTS_ADD, (first, first + len(rows) - 1)).fetchall()


def forget(conn: apsw.Connection, space: int, items: Sequence[Any]) -> None:
    """Delete items by number."""
    if items:
        given = (json.dumps(items),)
        conn.execute(_FTS_DROP, given).fetchall()  # while the texts are there: FTS5 is told what it forgets
        conn.execute(f"DELETE FROM ambidex_items WHERE item IN ({_GIVEN})", given).fetchall()
        conn.execute(f"DELETE FROM ambidex_texts WHERE item IN ({_GIVEN})", given).fetchall()
        search_gone.note(conn, space, items)
