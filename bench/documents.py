"""Ingest of documents against tables written by hand: texts, FTS5 with Porter stems, and vectors as rows.

Run by ``--only documents``. Both sides are SQLite in WAL mode at synchronous=FULL, in transactions of 200 documents,
with vectors of the same embedder; the tables by hand are written through apsw, which is also ambidex's driver. They
know no versions, chunks, deduplication, tags or namespaces. The figures are of processor time, since that is what
ingest takes, and what a busy machine changes least. The texts are sentences of Python's own reference manual.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from uuid import uuid4

from ambidex import SyncStorage, UnifiedStorage
from ambidex.core.ports import IndexItem
from ambidex.embedders import embedder_for
from bench.harness import PER_SECOND, SLOWER, Bench, CannotRun, Samples, Side, at_least, at_most, require, row

_DOCUMENTS = 10_000
_CHUNKS = 2_000
_GROUP = 200
_SCHEMA = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL,"
    " content TEXT NOT NULL, metadata TEXT NOT NULL)",
    "CREATE TABLE vectors (number INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
    "CREATE VIRTUAL TABLE words USING fts5(title, content, content='documents', content_rowid='number',"
    " tokenize='porter unicode61')",
)
Embed = Callable[[list[str]], Any]
Document = dict[str, Any]


@cache
def _sentences() -> list[str]:
    found = [" ".join(part.split()) for text in topics.values() for part in re.split(r"(?<=[.:])\s+", text)]
    return [sentence for sentence in found if 30 < len(sentence) < 250]


@cache
def _short() -> list[Document]:
    """Return documents of three sentences, about 320 characters."""
    chance = random.Random(7)
    return [
        {
            "content": " ".join(chance.choices(_sentences(), k=3)),
            "metadata": {"title": f"Note {n}", "category": "note", "tags": ["a", "b"], "year": 2000 + n % 26},
        }
        for n in range(_DOCUMENTS)
    ]


@cache
def _chunks() -> list[Document]:
    """Return texts of 800 characters."""
    chance = random.Random(8)
    texts = [" ".join(chance.choices(_sentences(), k=30))[:800] for _ in range(_CHUNKS)]
    return [{"content": text, "metadata": {"title": "", "page": n}} for n, text in enumerate(texts)]


def _embed(name: str) -> Embed | None:
    require("numpy")
    try:
        embedder = embedder_for(name)
    except ValueError as error:
        raise CannotRun(str(error)) from None
    return None if embedder is None else embedder.call


@contextmanager
def _by_hand() -> Iterator[Any]:
    apsw = require("apsw")
    with tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        conn = apsw.Connection(str(Path(folder, "raw.db")))
        for statement in _SCHEMA:
            conn.execute(statement).fetchall()
        try:
            yield conn
        finally:
            conn.close()


def _write(conn: Any, documents: Sequence[Document], embed: Embed | None) -> None:
    for start in range(0, len(documents), _GROUP):
        part = list(enumerate(documents[start : start + _GROUP], start))
        texts = [f"{one['metadata']['title']} {one['content']}".strip() for _, one in part]
        vectors = [] if embed is None else embed(texts)
        conn.execute("BEGIN IMMEDIATE")
        conn.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            [
                (n, str(uuid4()), one["metadata"]["title"], one["content"], json.dumps(one["metadata"]))
                for n, one in part
            ],
        )
        conn.executemany(
            "INSERT INTO words (rowid, title, content) VALUES (?, ?, ?)",
            [(n, one["metadata"]["title"], one["content"]) for n, one in part],
        )
        conn.executemany(
            "INSERT INTO vectors VALUES (?, ?)",
            [(n, vector.tobytes()) for (n, _), vector in zip(part, vectors, strict=embed is not None)],
        )
        conn.execute("COMMIT")


def _theirs(documents: Sequence[Document], embed: Embed | None) -> Side:
    def side(number: int) -> float:
        taken = 0.0
        for _ in range(number):
            with _by_hand() as conn:
                started = time.process_time()
                _write(conn, documents, embed)
                taken += time.process_time() - started
        return taken

    return side


def _ours(embedder: str, work: Callable[[SyncStorage], object]) -> Side:
    def side(number: int) -> float:
        taken = 0.0
        for _ in range(number):
            with (
                tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder,
                UnifiedStorage(f"sqlite:///{folder}/ambidex.db", embedder=embedder, timeout=600) as storage,
            ):
                storage.kv.get("opened")
                started = time.process_time()
                work(storage)
                taken += time.process_time() - started
        return taken

    return side


def _ingest(bench: Bench, embedder: str) -> Samples:
    documents, embed = _short(), _embed(embedder)
    ours = _ours(embedder, lambda storage: storage.batch_store_documents(documents))
    return bench.compare(ours, _theirs(documents, embed), most=1)


@row(
    "documents.ingest",
    "store 10,000 short documents with the default embedder (CPU)",
    against="tables by hand, same embedder",
    kind=SLOWER,
    target=at_most(3.0),
)
def ingest(bench: Bench) -> Samples:
    return _ingest(bench, "wordllama")


@row(
    "documents.words",
    "store 10,000 short documents without an embedder (CPU)",
    against="tables by hand",
    kind=SLOWER,
    target=at_most(3.0),
)
def words(bench: Bench) -> Samples:
    return _ingest(bench, "none")


@row(
    "documents.chunks",
    "chunks of 800 characters into the index, default embedder (CPU)",
    against="tables by hand, same embedder",
    kind=PER_SECOND,
    target=at_least(1500.0),
)
def chunks(bench: Bench) -> Samples:
    made, embed = _chunks(), _embed("wordllama")
    items = [IndexItem(str(n), "", one["content"], {"page": n}) for n, one in enumerate(made)]

    def work(storage: SyncStorage) -> None:
        for start in range(0, _CHUNKS, _GROUP):
            storage.index.add_many(items[start : start + _GROUP])

    samples = bench.compare(_ours("wordllama", work), _theirs(made, embed), most=1)
    ours, theirs = ([seconds / _CHUNKS for seconds in side] for side in (samples.ours, samples.theirs))
    return Samples(ours, theirs)
