"""Ranking quality on judged collections, and the speed of search at scale: ``python -m bench.retrieval --help``.

A collection is a folder with ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``)
and ``qrels.tsv`` (query, document, grade), the layout of BEIR. nDCG@10 and recall@100 are those of trec_eval
(``ndcg_cut.10`` with the grade as gain, ``recall.100``), averaged over all judged queries. The invariant: nothing is
tuned here; every figure is of the public interface with its defaults.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ambidex import UnifiedStorage
from bench import vectors
from bench.corpus import Collection, Corpus
from bench.harness import CannotRun
from bench.services import settle
from bench.services import url as served

Ranking = Mapping[str, float]
Judged = Mapping[str, int]

TARGETS = {
    ("sqlite", "scifact", "hybrid wordllama", "ndcg@10"): 0.700,
    ("sqlite", "cranfield", "hybrid wordllama", "ndcg@10"): 0.392,
    ("sqlite", "scifact", "hybrid wordllama", "recall@100"): 0.930,
    ("sqlite", "scifact", "hybrid minilm", "ndcg@10"): 0.730,
    ("sqlite", "cranfield", "hybrid minilm", "ndcg@10"): 0.430,
    ("sqlite", "scifact", "hybrid minilm", "recall@100"): 0.950,
    ("postgresql", "scifact", "hybrid wordllama", "ndcg@10"): 0.695,
    ("postgresql", "cranfield", "hybrid wordllama", "ndcg@10"): 0.390,
    ("postgresql", "scifact", "hybrid wordllama", "recall@100"): 0.930,
    ("postgresql", "scifact", "hybrid minilm", "ndcg@10"): 0.720,
    ("postgresql", "cranfield", "hybrid minilm", "ndcg@10"): 0.425,
    ("postgresql", "scifact", "hybrid minilm", "recall@100"): 0.950,
}


def ndcg(ranking: Sequence[str], judged: Judged, depth: int = 10) -> float:
    """Return trec_eval's ``ndcg_cut``: the gain is the grade, the discount the binary logarithm of rank + 1."""
    got = sum(judged.get(doc, 0) / math.log2(rank + 1) for rank, doc in enumerate(ranking[:depth], 1))
    ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)[:depth]
    best = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ideal, 1))
    return got / best if best else 0.0


def recall(ranking: Sequence[str], judged: Judged, depth: int = 100) -> float:
    """Return trec_eval's ``recall``: the share of the relevant that stands among the first."""
    relevant = {doc for doc, grade in judged.items() if grade > 0}
    return len(relevant & set(ranking[:depth])) / len(relevant) if relevant else 0.0


def judge(collection: Collection, search: Callable[[str], list[str]]) -> dict[str, float]:
    """Return the mean figures of a way of searching."""
    runs = {query: search(text) for query, text in collection.queries.items()}
    return {
        "ndcg@10": statistics.fmean(ndcg(runs[query], collection.judged[query]) for query in runs),
        "recall@100": statistics.fmean(recall(runs[query], collection.judged[query]) for query in runs),
    }


@contextmanager
def opened(url: str, **options: Any) -> Iterator[UnifiedStorage]:
    """Open a storage; ``sqlite`` is a file in a folder that goes afterwards, ``postgresql`` a private server."""
    with tempfile.TemporaryDirectory() as folder:
        place = (
            f"sqlite:///{folder}/bench.db" if url == "sqlite" else served("postgres") if url == "postgresql" else url
        )
        storage = UnifiedStorage(place, **options)
        try:
            yield storage
        finally:
            storage.close()


def quality(collection: Collection, url: str, embedders: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the figures of words alone, and of vectors alone and both by each embedder."""
    for embedder in ("none", *embedders):
        try:
            with opened(url, embedder=embedder, timeout=3600) as storage:
                index, space = storage.sync.index, f"bench-{collection.name}"
                index.reset(namespace=space)
                made = storage._core.embedder
                if made is not None:
                    made.call(["the model is read at the first text"])
                characters = sum(len(item.text) for item in collection.items)
                started = time.process_time()
                index.add_many(collection.items, namespace=space)
                taken = time.process_time() - started

                def words(text: str) -> list[str]:
                    return [hit.id for hit in index.search(text, top_k=100, namespace=space)]  # noqa: B023

                def meanings(text: str) -> list[str]:
                    (vector,) = made.call([text])  # type: ignore[union-attr]  # noqa: B023
                    return [hit.id for hit in index.search("", vector=vector, top_k=100, namespace=space)]  # noqa: B023

                about = {
                    "collection": collection.name,
                    "documents": len(collection.items),
                    "documents/cpu-s": round(len(collection.items) / taken),
                }
                about["chunks of 800/cpu-s"] = round(characters / 800 / taken)
                if embedder == "none":
                    yield about | {"method": "words"} | judge(collection, words)
                else:
                    yield about | {"method": f"vectors {embedder}"} | judge(collection, meanings)
                    yield about | {"method": f"hybrid {embedder}"} | judge(collection, words)
                index.reset(namespace=space)
        except Exception as error:
            if embedder == "none":
                raise
            yield {"collection": collection.name, "method": f"hybrid {embedder}", "reason": str(error)}


# ---------------------------------------------------------------- speed


def milliseconds(call: Callable[[int], object], count: int) -> dict[str, float]:
    """Return the median and the 95th percentile of calls, the first ones not counted."""
    call(0)
    taken = []
    for n in range(1, count + 1):
        started = time.perf_counter()
        call(n)
        taken.append((time.perf_counter() - started) * 1000)
    taken.sort()
    return {"p50 ms": taken[len(taken) // 2], "p95 ms": taken[int(len(taken) * 0.95)]}


def speed(corpus: Corpus, url: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield what searching takes here, embedding not counted, and how exact it is under a filter."""
    size = len(corpus.texts)
    with opened(url, embedder="none", timeout=3600) as storage:
        index = storage.sync.index
        index.reset(namespace="bench-speed")
        started = time.process_time()
        for page in corpus.items():
            index.add_many(page, namespace="bench-speed")
        yield {"what": f"ambidex {url}: ingest", "chunks": size, "chunks/cpu-s": size / (time.process_time() - started)}
        settle(storage, "bench-speed", corpus.query_vectors[0])
        started = time.perf_counter()
        index.search("first", namespace="bench-speed")
        yield {
            "what": f"ambidex {url}: first query after it",
            "chunks": size,
            "ms": (time.perf_counter() - started) * 1e3,
        }

        def ask(n: int, text: bool = True, vector: bool = True, mark: int | None = None) -> list[str]:
            storage.sync.invalidate_cache()
            place = n % len(corpus.queries)
            hits = index.search(
                corpus.queries[place] if text else "",
                vector=corpus.query_vectors[place] if vector else None,
                namespace="bench-speed",
                filters=None if mark is None else {"mark": mark},
            )
            return [hit.id for hit in hits]

        for name, call in (
            ("words", lambda n: ask(n, vector=False)),
            ("vector", lambda n: ask(n, text=False)),
            ("hybrid", ask),
            ("hybrid, filter of 1 %, each new", lambda n: ask(n, mark=n % 100)),
            ("hybrid, filter of 1 %, the same", lambda n: ask(n, mark=vectors.MARK)),
        ):
            yield {"what": f"ambidex {url}: {name}", "chunks": size} | milliseconds(call, count)
        for name, mark in (("all", None), ("filter of 1 %", vectors.MARK)):
            found = vectors.recall(corpus, lambda n, mark: ask(n, text=False, mark=mark), mark)
            yield {"what": f"ambidex {url}: vector recall@10, {name}", "chunks": size, "recall": found}


def peers(corpus: Corpus, count: int) -> Iterator[dict[str, Any]]:
    """Yield what search by vector takes in others on the same data, and how exact it is."""
    size = len(corpus.texts)
    for name, fill in (("Chroma", vectors.chroma), ("LanceDB", vectors.lancedb)):
        try:
            ask = fill(corpus)
        except CannotRun as reason:
            print(f"{name} cannot run: {reason}")
            continue
        for about, mark in (("vector", None), ("vector, filter of 1 %", vectors.MARK)):
            times = milliseconds(lambda n: ask(n % len(corpus.queries), mark), count)  # noqa: B023
            found = {"recall": vectors.recall(corpus, ask, mark)}
            yield {"what": f"{name}: {about}", "chunks": size} | times | found


# ---------------------------------------------------------------- command line


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as aligned text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_cell(row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__.split("\n", 1)[0])
    parser.add_argument("collections", nargs="*", type=Path, help="folders of judged collections")
    parser.add_argument(
        "--url",
        action="append",
        help="a storage to measure: sqlite (a new file, the default), postgresql (a private server) or a URL",
    )
    parser.add_argument("--embedder", action="append", help="a name of an embedder (default: wordllama)")
    parser.add_argument("--speed", action="append", type=int, default=[], metavar="N", help="time N chunks as well")
    parser.add_argument("--queries", type=int, default=100, help="queries timed a row")
    parser.add_argument("--peers", action="store_true", help="time Chroma and LanceDB on the same chunks")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    collections = []
    for folder in options.collections:
        try:
            collections.append(Collection(folder))
        except CannotRun as reason:
            print(f"skipped: {reason}")
    if not collections:
        print("nothing to measure: give the folder of a judged collection")
        return 0
    for collection in collections:
        for url in options.url or ["sqlite"]:
            made = quality(collection, url, options.embedder or ["wordllama"])
            rows += [_judged(row | {"storage": url.partition(":")[0]}) for row in made]
    print(table(rows))
    for size in options.speed:
        timed: list[dict[str, Any]] = []
        corpus = Corpus(collections[0], size)
        for url in options.url or ["sqlite"]:
            timed += speed(corpus, url, options.queries)
        timed += peers(corpus, options.queries) if options.peers else ()
        print("\n" + table(timed))
        rows += timed
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    missed = [
        f"{name} < {bound}"
        for (storage, collection, method, name), bound in TARGETS.items()
        if (row["storage"], row["collection"], row["method"]) == (storage, collection, method)
        and row.get(name, bound) < bound
    ]
    return row | ({"missed": ", ".join(missed)} if missed else {})


if __name__ == "__main__":
    sys.exit(main())
