"""Search by vector against Chroma and LanceDB on the same chunks; run by ``--only vectors``, sized by ``--chunks``.

Every side finds ten chunks with their texts and metadata, each in a process of its own kind: no side is a server but
PostgreSQL. Peers have the index that they are best with; LanceDB looks at what it found once more in floats, for it
finds too little without. Figures stand beside each side's recall of the ten nearest, for speed alone says nothing.
"""

from __future__ import annotations

import atexit
import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ambidex import UnifiedStorage
from ambidex.core.ports import IndexItem
from bench.corpus import Collection, Corpus
from bench.harness import SLOWER, Bench, Samples, at_most, calls, require, row
from bench.services import settle, url

Ask = Callable[[int, int | None], list[str]]
"""Returns the ids found for the query of a number, if need be only with a mark."""

MARK = 7
"""What one chunk in a hundred is marked with."""
_JUDGED = 100
_NAMESPACE = "bench-vectors"
_open = ExitStack()
atexit.register(_open.close)


class _Docs(Collection):
    """This repository's own texts, in the shape of a judged collection."""

    def __init__(self) -> None:
        root = Path(__file__).parents[1]
        texts = [
            path.read_text()
            for place in ("docs", "src", "tests")
            for path in sorted((root / place).rglob("*.*"))
            if path.suffix in {".md", ".py"}
        ]
        paragraphs = [part.replace("\n", " ") for text in texts for part in text.split("\n\n") if 80 < len(part) < 800]
        self.items = [IndexItem(str(n), "", text, {}) for n, text in enumerate(paragraphs)]
        self.queries = {str(n): text[:120] for n, text in enumerate(paragraphs[::7])}


@functools.cache
def corpus(chunks: int) -> Corpus:
    """Return the chunks, their vectors and the queries."""
    require("wordllama")
    return Corpus(_Docs(), chunks)


def exact(data: Corpus, number: int, mark: int | None) -> set[str]:
    """Return the ids of the ten chunks that are the nearest to a query."""
    import numpy

    places = numpy.arange(len(data.vectors))
    places = places if mark is None else places[places % 100 == mark]
    nearest = (data.vectors[places] @ data.query_vectors[number]).argsort()[::-1][:10]
    return {str(place) for place in places[nearest].tolist()}


def recall(data: Corpus, ask: Ask, mark: int | None) -> float:
    """Return the share of the ten nearest that are found."""
    numbers = range(min(_JUDGED, len(data.queries)))
    return statistics.fmean(len(set(ask(n, mark)) & exact(data, n, mark)) / 10 for n in numbers)


# ---------------------------------------------------------------- sides


@contextmanager
def _location(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/bench.db"
    else:
        yield url(kind)


@functools.cache
def ours(kind: str, data: Corpus) -> Ask:
    """Fill a storage of a kind and return how it is asked; no answer comes from the cache."""
    storage = UnifiedStorage(_open.enter_context(_location(kind)), embedder="none", timeout=3600)
    _open.callback(storage.sync.close)
    index = storage.sync.index
    index.reset(namespace=_NAMESPACE)
    for page in data.items():
        index.add_many(page, namespace=_NAMESPACE)
    settle(storage, _NAMESPACE, data.query_vectors[0])

    def ask(number: int, mark: int | None) -> list[str]:
        storage.sync.invalidate_cache()
        filters = None if mark is None else {"mark": mark}
        found = index.search("", vector=data.query_vectors[number], namespace=_NAMESPACE, filters=filters)
        return [hit.id for hit in found]

    return ask


@functools.cache
def chroma(data: Corpus) -> Ask:
    """Fill a collection of Chroma and return how it is asked."""
    client = require("chromadb").PersistentClient(_open.enter_context(tempfile.TemporaryDirectory()))
    peer = client.create_collection("bench", metadata={"hnsw:space": "cosine"})
    for page in data.items():
        peer.add(
            ids=[item.id for item in page],
            documents=[item.text for item in page],
            metadatas=[dict(item.metadata) for item in page],
            embeddings=[item.vector for item in page],
        )

    def ask(number: int, mark: int | None) -> list[str]:
        where = None if mark is None else {"mark": mark}
        vectors = data.query_vectors[number : number + 1]
        return list(peer.query(query_embeddings=vectors, n_results=10, where=where)["ids"][0])

    return ask


@functools.cache
def lancedb(data: Corpus) -> Ask:
    """Fill a table of LanceDB, build its graph over it, and return how it is asked."""
    folder = _open.enter_context(tempfile.TemporaryDirectory())
    pages = [
        {"id": item.id, "text": item.text, "vector": item.vector, **item.metadata}
        for page in data.items()
        for item in page
    ]
    table = require("lancedb").connect(folder).create_table("bench", data=pages)
    table.create_index("vector", config=require("lancedb.index").HnswSq(distance_type="cosine"))

    def ask(number: int, mark: int | None) -> list[str]:
        search = table.search(data.query_vectors[number]).distance_type("cosine").ef(200).refine_factor(4)
        search = search if mark is None else search.where(f"mark = {mark}", prefilter=True)
        return [found["id"] for found in search.limit(10).to_list()]

    return ask


# ---------------------------------------------------------------- rows


def _compare(bench: Bench, kind: str, peer: Callable[[Corpus], Ask], package: str, mark: int | None) -> Samples:
    require(package)  # before the work of making chunks
    data = corpus(bench.chunks)
    theirs, mine = peer(data), ours(kind, data)
    numbers = range(len(data.queries))
    taken = bench.compare(
        calls(lambda number: mine(number, mark), numbers), calls(lambda number: theirs(number, mark), numbers), least=20
    )
    found, missed = recall(data, mine, mark), recall(data, theirs, mark)
    return replace(taken, about=f"recall@10 {found:.3f} against {missed:.3f}, {bench.chunks:,} chunks")


def _register(kind: str) -> None:
    for peer, package, name in ((chroma, "chromadb", "Chroma, HNSW"), (lancedb, "lancedb", "LanceDB, HNSW")):
        for mark, title in ((None, "search by vector"), (MARK, "the same, of 1 % of the chunks")):
            end = "" if mark is None else "-filtered"
            register = row(
                f"vectors.{kind}-{peer.__name__}{end}", title, against=name, kind=SLOWER, target=at_most(1.0)
            )
            register(functools.partial(_compare, kind=kind, peer=peer, package=package, mark=mark))


for _kind in ("sqlite", "postgres"):
    _register(_kind)
