"""What this process holds of each namespace of the index, in step with the rows; the search port ranks with it.

The invariant: a view is used only after the namespace's stamp was compared with the database's. Where it differs, the
numbers of the items that still exist are read if some disappeared, and then the rows with numbers above the last one
known; since rows never change, that makes the view equal to the rows, whichever process wrote them. Views are replaced,
never changed, so that any number of threads may rank while one refreshes.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ambidex.backends.relational.sql import Args, Row
from ambidex.backends.sqlite.search_fields import Fields
from ambidex.backends.sqlite.search_filters import where
from ambidex.backends.sqlite.search_segment import Segment, load, save
from ambidex.core.query import Condition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = ["Read", "Space", "Spaces", "View"]

Read = Callable[[str, Args], list[Row]]
"""Runs a query on this thread's connection."""

_K1, _B = 1.2, 0.75
_LEAST_RARITY = 1e-6
_PAGE = 20_000
_SAVED = 2_000
"""Items from which on a segment is worth a file."""
_MOST_PARTS = 8
_MOST_SPACES = 64

_STATE = "SELECT stamp, gone, noted FROM ambidex_spaces WHERE space = ?"
_LIVE = "SELECT item FROM ambidex_items WHERE space = ? ORDER BY item"
_NEW = (
    "SELECT i.item, t.vector, t.words, iif(t.words IS NULL, t.title, NULL), iif(t.words IS NULL, t.text, NULL)"
    " FROM ambidex_items i JOIN ambidex_texts t ON t.item = i.item"
    f" WHERE i.space = ? AND i.item > ? ORDER BY i.item LIMIT {_PAGE}"
)


class View(NamedTuple):
    """A namespace at one moment: its segments, and for each a flag an item that says whether it still exists."""

    stamp: int = 0
    gone: int = -1
    noted: int = -1
    parts: tuple[Segment, ...] = ()
    alive: tuple[Array, ...] = ()

    @property
    def last(self) -> int:
        """The highest number of an item that was read."""
        return int(self.parts[-1].items[-1]) if self.parts else 0

    def by_text(self, words: dict[int, int], chosen: Sequence[Array], depth: int) -> dict[int, float]:
        """Return the BM25 scores of the best ``depth`` items, by number.

        Args:
            words: the hash of each stem of the query and how often it stands there.
            chosen: for each segment a flag an item: whether it may be found.
            depth: how many.
        """
        total = sum(int(alive.sum()) for alive in self.alive)
        length = sum(float(part.lengths @ alive) for part, alive in zip(self.parts, self.alive, strict=True))
        average = length / total if length else 1.0
        postings = {word: [part.postings(word) for part in self.parts] for word in words}
        found: list[tuple[Array, Array]] = []
        weights = {}
        for word, times in words.items():
            holding = sum(len(docs) for docs, _ in postings[word])
            rarity = np.log((max(0, total - holding) + 0.5) / (holding + 0.5))  # as FTS5 has it, never below 0
            weights[word] = np.float32(times * max(rarity, _LEAST_RARITY) * (_K1 + 1.0))
        for place, (part, flags) in enumerate(zip(self.parts, chosen, strict=True)):
            scores = np.zeros(len(part.items), np.float32)
            norms = (part.lengths * np.float32(_K1 * _B / average)) + np.float32(_K1 * (1.0 - _B))
            for word, weight in weights.items():
                docs, counts = postings[word][place]
                times_there = counts.astype(np.float32)
                scores[docs] += weight * times_there / (times_there + norms[docs])
            scores *= flags
            best = _best(scores, depth)
            best = best[scores[best] > 0]
            found.append((part.items[best], scores[best]))
        return _cut(found, depth)

    def by_vector(self, vector: Sequence[float], chosen: Sequence[Array], depth: int) -> dict[int, float]:
        """Return the approximate cosines of the best ``depth`` items, by number."""
        query = np.array(vector, np.float32)
        query /= float(np.linalg.norm(query)) or 1.0
        found: list[tuple[Array, Array]] = []
        for part, flags in zip(self.parts, chosen, strict=True):
            for one in part.vectors:
                if one.codes.shape[1] == len(query):
                    rows, cosines = one.cosines(query, None if flags.all() else flags)
                    best = _best(cosines, depth)
                    found.append((part.items[rows[best]], cosines[best]))
        return _cut(found, depth)

    @staticmethod
    def exactly(vector: Sequence[float], rows: Sequence[Row]) -> dict[int, float]:
        """Return the cosines of items ``(number, vector)`` of the vector's dimension, as they were given."""
        query = np.array(vector, np.float32)
        rows = [row for row in rows if len(row[1]) == query.nbytes]
        if not rows:
            return {}
        matrix = np.frombuffer(b"".join([row[1] for row in rows]), np.float32).reshape(len(rows), -1)
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        cosines = (matrix @ query) / np.where(lengths > 0, lengths, 1.0)
        return dict(zip([row[0] for row in rows], cosines.tolist(), strict=True))


def _best(scores: Array, depth: int) -> Array:
    """Return the places of the highest scores, in no order; of equal ones the first."""
    if len(scores) <= depth:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: depth - len(above)]
    return np.concatenate((above, equal))


def _cut(found: list[tuple[Array, Array]], depth: int) -> dict[int, float]:
    if not found:
        return {}
    items = np.concatenate([items for items, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    order = np.lexsort((items, -scores))[:depth]
    return dict(zip(items[order].tolist(), scores[order].tolist(), strict=True))


class Space:
    """One namespace.

    Args:
        space: its number in the database.
        path: where its cache file is, or will be.
    """

    def __init__(self, space: int, path: str) -> None:
        self._space, self._path = space, path
        self._view = View()
        self._guard = threading.Lock()
        self._fields = Fields(space)
        self._looked = False

    def view(self, read: Read) -> View:
        """Return a view that is as new as the database."""
        stamp, gone, noted = self._state(read)
        if self._view.stamp == stamp:
            return self._view
        with self._guard:
            if not self._looked:
                base = load(self._path)
                if base is not None and len(base.items):
                    self._view = View(0, -1, -1, (base,), (np.ones(len(base.items), bool),))
                self._looked = True
            stamp, gone, noted = self._state(read)
            if self._view.stamp != stamp:
                # What exists first, what is new after it: an item replaced in between is then seen twice, and the
                # port shows the one that is there. The other way round it would be seen by nobody.
                if gone != self._view.gone:
                    self._bury(read)
                self._catch_up(read)
                self._tidy()
                self._view = self._view._replace(stamp=stamp, gone=gone, noted=noted)
            return self._view

    def chosen(self, view: View, read: Read, conditions: Sequence[Condition]) -> list[Array]:
        """Return for each segment of a view a flag an item: whether it exists and meets the conditions."""
        if not conditions:
            return list(view.alive)
        with self._guard:
            items = self._fields.items(conditions, view.stamp, view.noted, read)
        if items is None:
            filters, bound = where(conditions)
            sql = f"SELECT i.item FROM ambidex_items i WHERE i.space = ?{filters} ORDER BY i.item"
            items = _numbers(read(sql, (self._space, *bound)))
        return [part.flags(items) & alive for part, alive in zip(view.parts, view.alive, strict=True)]

    def _state(self, read: Read) -> Row:
        rows = read(_STATE, (self._space,))
        return rows[0] if rows else (0, 0, 0)

    def _bury(self, read: Read) -> None:
        view = self._view
        if view.parts:
            live = _numbers(read(_LIVE, (self._space,)))
            self._view = view._replace(alive=tuple(part.flags(live) for part in view.parts))

    def _catch_up(self, read: Read) -> None:
        """Read new rows page by page; what was read is kept if a later page fails."""
        while rows := read(_NEW, (self._space, self._view.last)):
            view = self._view
            part = Segment.made(rows)
            self._view = view._replace(
                parts=(*view.parts, part), alive=(*view.alive, np.ones(len(part.items), bool)), stamp=0
            )
            if len(rows) < _PAGE:
                return

    def _tidy(self) -> None:
        """Keep segments few and free of what is gone, and the large one in a file."""
        view = self._view
        if not view.parts:
            return
        live = [int(alive.sum()) for alive in view.alive]
        dead = sum(len(part.items) for part in view.parts) - sum(live)
        if not sum(live):
            self._view = view._replace(parts=(), alive=())
            _unlink(self._path)
        elif sum(live[1:]) > max(_SAVED, live[0] // 2) or dead > max(_SAVED, sum(live) // 4):
            self._use(Segment.merged(view.parts, view.alive))
        elif len(view.parts) > _MOST_PARTS:
            small = Segment.merged(view.parts[1:], view.alive[1:])
            self._view = view._replace(
                parts=(view.parts[0], small), alive=(view.alive[0], np.ones(len(small.items), bool))
            )
        elif len(view.parts) == 1 and live[0] > _SAVED and not os.path.exists(self._path):
            self._use(Segment.merged(view.parts, view.alive))

    def _use(self, segment: Segment) -> None:
        """Hold one segment, mapped from a file where one can be written."""
        if len(segment.items) > _SAVED:
            try:
                save(segment, self._path)
            except OSError:  # read-only, or full: the cache stays in memory
                pass
            else:
                mapped = load(self._path)  # perhaps another process's by now
                if mapped is not None and np.array_equal(mapped.items, segment.items):
                    segment = mapped
        self._view = self._view._replace(parts=(segment,), alive=(np.ones(len(segment.items), bool),))


def _numbers(rows: Sequence[Row]) -> Array:
    return np.fromiter((row[0] for row in rows), np.int64, len(rows))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


class Spaces:
    """The namespaces that this process holds, the least recently used given up first.

    Args:
        path: the database; cache files stand in the folder of this name with ``.search`` behind it.
    """

    def __init__(self, path: str) -> None:
        self._folder = path + ".search"
        self._guard = threading.Lock()
        self._spaces: OrderedDict[int, Space] = OrderedDict()

    def get(self, space: int) -> Space:
        """Return what is held of a namespace."""
        with self._guard:
            found = self._spaces.get(space)
            if found is None:
                found = self._spaces[space] = Space(space, os.path.join(self._folder, f"{space}.segment"))
                while len(self._spaces) > _MOST_SPACES:
                    self._spaces.popitem(last=False)
            else:
                self._spaces.move_to_end(space)
            return found
