"""The tables of the index on PostgreSQL and the statements that change them; the port and the migrations use this.

The invariant: the number of an item stands for one text and one vector for ever; replacing a text gives it a new
number. Postings and what is known of a namespace are only ever added by writers, never changed, so that any number of
writers work on one namespace without waiting for each other or losing each other's: a deleted item is named among the
``gone``, and a namespace's stamp, size and length are sums over its ``changes``. Writers of one id queue at its row.
Emptying a namespace excludes its writers by an advisory lock, which they share.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LEVELS", "SCHEMA", "STAMPS", "Texts", "level_of", "stamp"]

SCHEMA = (
    "CREATE TABLE {s}ambidex_spaces (space int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " namespace text COLLATE \"C\" NOT NULL UNIQUE, embedder text NOT NULL DEFAULT '')",
    "CREATE SEQUENCE {s}ambidex_item_numbers",
    # ``was`` and ``was_words`` are those of the text that was replaced last; ``was`` is ``item`` in one to be removed.
    'CREATE TABLE {s}ambidex_items (space int NOT NULL, id text COLLATE "C" NOT NULL, item bigint NOT NULL,'
    " words bigint NOT NULL, was bigint, was_words bigint, metadata jsonb NOT NULL, PRIMARY KEY (space, id))"
    " WITH (fillfactor = 90)",
    "CREATE UNIQUE INDEX ambidex_items_item ON {s}ambidex_items (item)",
    "CREATE INDEX ambidex_items_metadata ON {s}ambidex_items USING gin (metadata jsonb_path_ops)",
    "CREATE TABLE {s}ambidex_texts (item bigint PRIMARY KEY, title text NOT NULL, text text NOT NULL, vector bytea)",
    "ALTER TABLE {s}ambidex_texts ALTER vector SET STORAGE EXTERNAL",
    # A row of postings: for one term and one batch of items, 8 bytes an item (see search_words.py).
    "CREATE TABLE {s}ambidex_postings (space int NOT NULL, term int NOT NULL, level smallint NOT NULL,"
    " batch bigint NOT NULL, docs bytea NOT NULL)",
    "ALTER TABLE {s}ambidex_postings ALTER docs SET STORAGE EXTERNAL",
    "CREATE INDEX ambidex_postings_term ON {s}ambidex_postings (space, level, term, batch)",
    "CREATE TABLE {s}ambidex_gone (space int NOT NULL, item bigint NOT NULL)",
    "CREATE INDEX ambidex_gone_space ON {s}ambidex_gone (space)",
    "CREATE TABLE {s}ambidex_changes (space int NOT NULL, stamp bigint NOT NULL, level smallint,"
    " items bigint NOT NULL DEFAULT 0, words bigint NOT NULL DEFAULT 0)",
    "CREATE INDEX ambidex_changes_space ON {s}ambidex_changes (space)",
)

STAMPS = 1 << 62
"""Stamps are sums modulo this."""

LEVELS = (32, 512, 8192)
"""Batches of fewer items than the first stand on level 0, of fewer than the second on level 1, and so on."""

_LOCK = 1634558308  # the class of the advisory locks, beside which stands the number of a namespace


def stamp() -> int:
    """Return what a write adds to its namespace's stamp: a random number, so that no sum is met twice."""
    return random.getrandbits(62)  # not a secret


def level_of(count: int) -> int:
    """Return the level of postings of a batch of so many items."""
    return sum(count >= bound for bound in LEVELS)


@dataclass(frozen=True, slots=True)
class Texts:
    """The statements, for tables in one schema."""

    state: str
    claim: str
    begin: str
    share: str
    exclude: str
    numbers: str
    items: str
    replaced: str
    texts: str
    postings: str
    change: str
    lock: str
    doom: str
    remove: str
    reset: Sequence[str]
    replace: str
    patch: str
    fetch: str
    listed: str
    count: str

    @classmethod
    def of(cls, prefix: str) -> Texts:
        """Return the statements with the tables behind a prefix: a schema and its dot, or ""."""
        p = prefix
        space = f"(SELECT space FROM {p}ambidex_spaces WHERE namespace = ?)"
        found = f"FROM {p}ambidex_spaces WHERE namespace = ?"
        columns = "i.id, t.title, t.text, i.metadata::text, t.vector"
        # What was locked before, in the order of the ids; a row that came since and is in other hands is left to these.
        held = (
            f"SELECT item FROM {p}ambidex_items WHERE space = {space} AND id = ANY (?::text[]) FOR UPDATE SKIP LOCKED"
        )
        read = f"SELECT {columns} FROM {p}ambidex_items i JOIN {p}ambidex_texts t ON t.item = i.item"
        return cls(
            state=f"SELECT coalesce((SELECT sum(stamp) % {STAMPS} FROM {p}ambidex_changes c"
            f" WHERE c.space = s.space), 0)::bigint, s.embedder FROM {p}ambidex_spaces s WHERE s.namespace = ?",
            claim=f"UPDATE {p}ambidex_spaces SET embedder = ? WHERE namespace = ? AND (embedder = '' OR ?)",
            begin=f"INSERT INTO {p}ambidex_spaces (namespace) SELECT ? WHERE NOT EXISTS"
            f" (SELECT {found}) ON CONFLICT (namespace) DO NOTHING",
            share=f"SELECT pg_advisory_xact_lock_shared({_LOCK}, space) {found}",
            exclude=f"SELECT pg_advisory_xact_lock({_LOCK}, space) {found}",
            numbers=f"SELECT nextval('{p}ambidex_item_numbers') FROM generate_series(1, ?::int)",
            items=_items(p, space),
            replaced=f"DELETE FROM {p}ambidex_texts WHERE item IN"
            f" (SELECT was FROM {p}ambidex_items WHERE item = ANY (?::bigint[]) AND was IS NOT NULL)",
            texts=f"INSERT INTO {p}ambidex_texts SELECT * FROM unnest(?::bigint[], ?::text[], ?::text[], ?::bytea[])",
            postings=f"INSERT INTO {p}ambidex_postings SELECT {space}, given.term, ?::smallint, ?::bigint, given.docs"
            " FROM unnest(?::bigint[], ?::bytea[]) AS given (term, docs)",
            change=f"INSERT INTO {p}ambidex_changes (space, stamp, level, items, words)"
            f" SELECT space, ?::bigint, ?::smallint, ?::bigint, ?::bigint {found}",
            lock=f"SELECT count(*) FROM (SELECT FROM {p}ambidex_items WHERE space = {space} AND id = ANY (?::text[])"
            " ORDER BY id FOR UPDATE) AS locked",
            # Only what is marked is removed, so that everything of it was there when the removing statement began.
            doom=f"UPDATE {p}ambidex_items SET was = item WHERE item IN ({held})",
            remove=_remove(p, space),
            reset=_reset(p, space, found),
            replace=f"UPDATE {p}ambidex_items SET metadata = ?::jsonb WHERE item IN ({held}) RETURNING 1",
            patch=f"UPDATE {p}ambidex_items SET metadata = (metadata || ?::jsonb) - ?::text[]"
            f" WHERE item IN ({held}) RETURNING 1",
            fetch=f"{read} WHERE i.space = {space} AND i.id = ANY (?::text[])",
            listed=f"{read} WHERE i.space = {space} AND i.id {{behind}} ?{{filters}} ORDER BY i.id LIMIT ?",
            count=f"SELECT coalesce(sum(items), 0)::bigint FROM {p}ambidex_changes WHERE space = {space}",
        )


def _items(p: str, space: str) -> str:
    """Return what adds items or gives new numbers to those that exist, and notes the end of the old numbers."""
    return (
        f"WITH written AS (INSERT INTO {p}ambidex_items AS kept (space, id, item, words, metadata)"
        f" SELECT {space}, id, item, words, metadata::jsonb"
        " FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::text[]) AS given (id, item, words, metadata)"
        " ON CONFLICT (space, id) DO UPDATE SET was = kept.item, was_words = kept.words, item = excluded.item,"
        " words = excluded.words, metadata = excluded.metadata RETURNING space, was, was_words),"
        f" ended AS (INSERT INTO {p}ambidex_gone SELECT space, was FROM written WHERE was IS NOT NULL)"
        f" INSERT INTO {p}ambidex_changes (space, stamp, items, words)"
        " SELECT space, 0, -count(*), -sum(was_words) FROM written WHERE was IS NOT NULL GROUP BY space"
    )


def _remove(p: str, space: str) -> str:
    return (
        f"WITH old AS (DELETE FROM {p}ambidex_items WHERE space = {space} AND id = ANY (?::text[])"
        " AND was = item RETURNING space, item, words),"
        f" texts AS (DELETE FROM {p}ambidex_texts t USING old WHERE t.item = old.item),"
        f" ended AS (INSERT INTO {p}ambidex_gone SELECT space, item FROM old)"
        f" INSERT INTO {p}ambidex_changes (space, stamp, items, words)"
        " SELECT space, ?::bigint, -count(*), -sum(words) FROM old GROUP BY space RETURNING -items"
    )


def _reset(p: str, space: str, found: str) -> tuple[str, ...]:
    return (
        f"WITH old AS (DELETE FROM {p}ambidex_items WHERE space = {space} RETURNING item),"
        f" texts AS (DELETE FROM {p}ambidex_texts t USING old WHERE t.item = old.item) SELECT count(*) FROM old",
        *(f"DELETE FROM {p}ambidex_{name} WHERE space = {space}" for name in ("postings", "gone", "changes")),
        f"UPDATE {p}ambidex_spaces SET embedder = '' WHERE namespace = ? AND embedder <> ''",
        f"INSERT INTO {p}ambidex_changes (space, stamp) SELECT space, ?::bigint {found}",
    )
