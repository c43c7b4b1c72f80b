"""Texts to search: judged collections, and as many chunks made of them as wanted; the search benchmarks share them.

The invariant: what is made of a collection is the same in every run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ambidex.core.ports import IndexItem
from bench.harness import CannotRun, require

__all__ = ["Collection", "Corpus"]


class Collection:
    """A judged collection, read from its folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "corpus.jsonl").is_file():
            raise CannotRun(f"there is no collection at {folder}")
        self.name = folder.name
        self.items = [
            IndexItem(doc["_id"], doc.get("title") or "", doc.get("text") or "", {})
            for doc in _lines(folder / "corpus.jsonl")
        ]
        queries = {query["_id"]: query["text"] for query in _lines(folder / "queries.jsonl")}
        self.judged: dict[str, dict[str, int]] = {}
        for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
            query, doc, grade = line.split("\t")
            self.judged.setdefault(query, {})[doc] = int(grade)
        self.queries = {query: queries[query] for query in self.judged if query in queries}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as lines:
        yield from map(json.loads, lines)


class Corpus:
    """Texts of a collection shuffled by sentence into as many chunks as wanted, with queries and vectors.

    Vectors are those of WordLlama with a little noise, so that no two are equal.
    """

    def __init__(self, collection: Collection, count: int, seed: int = 7) -> None:
        numpy = require("numpy")
        from ambidex.embedders import embedder_for

        embedder = embedder_for("wordllama")
        assert embedder is not None
        chance, noise = random.Random(seed), numpy.random.default_rng(seed)
        sentences = [
            sentence for item in collection.items for sentence in item.text.split(". ") if 20 < len(sentence) < 400
        ]
        originals = numpy.concatenate(
            [
                embedder.call([f"{item.title} {item.text}" for item in collection.items[at : at + 256]])
                for at in range(0, len(collection.items), 256)
            ]
        ).astype(numpy.float32)
        pairs = noise.integers(0, len(originals), (count, 2))
        made = originals[pairs[:, 0]] + 0.6 * originals[pairs[:, 1]]
        made += noise.normal(0, 0.02, made.shape)
        self.vectors = (made / numpy.linalg.norm(made, axis=1, keepdims=True)).astype(numpy.float32)
        self.texts = [". ".join(chance.choices(sentences, k=5)) for _ in range(count)]
        self.queries = list(collection.queries.values())
        chance.shuffle(self.queries)
        self.query_vectors = numpy.concatenate(
            [embedder.call(self.queries[at : at + 256]) for at in range(0, len(self.queries), 256)]
        ).astype(numpy.float32)

    def items(self) -> Iterator[list[IndexItem]]:
        """Yield the chunks, a thousand at a time; one in a hundred has the mark 7."""
        for at in range(0, len(self.texts), 1000):
            yield [
                IndexItem(str(n), "", self.texts[n], {"mark": n % 100, "even": n % 2 == 0}, self.vectors[n])
                for n in range(at, min(at + 1000, len(self.texts)))
            ]
