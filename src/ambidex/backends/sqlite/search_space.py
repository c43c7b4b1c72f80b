"""What this process holds of each namespace of the index, in step with the rows; the search port ranks with it.

The invariant: a view is used only after the namespace's stamp was compared with the database's. Where it differs, the
log says which items disappeared (where it does not reach back, the numbers of those that exist are read), and then the
rows with numbers above the last one known are read; since rows never change, that makes the view equal to the rows,
whichever process wrote them. Whether the database has seen what the view has, and is no older copy, is asked of the
last item that the view knows. Views are replaced, never changed, so that any number of threads may rank while one
refreshes.
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
from ambidex.backends.sqlite.search_gone import since
from ambidex.backends.sqlite.search_segment import MOST_ITEMS, Page, Segment, load, save
from ambidex.core.query import Condition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = ["Read", "Space", "Spaces", "View"]

Read = Callable[[str, Args], list[Row]]
"""Runs a query on this thread's connection."""
Chosen: TypeAlias = "Sequence[Array | None]"

_K1, _B = 1.2, 0.75
_LEAST_RARITY = 1e-6
_PAGE = 4_000
"""Rows read at a time: few enough that other threads of the process get their turn."""
_MOST_PAGES = 250
_SAVED = 2_000
"""Items from which on a segment is worth a file."""
_MOST_PARTS = 8
_MOST_SPACES = 64

_STATE = "SELECT stamp, gone, noted FROM ambidex_spaces WHERE space = ?"
_EXISTS = "SELECT 1 FROM ambidex_items WHERE item = ? AND space = ?"
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
    whole: tuple[bool, ...] = ()
    """Whether all items of a segment still exist."""
    total: int = 0
    length: float = 0.0
    """Words of an item, on average."""

    @property
    def last(self) -> int:
        """The highest number of an item that was read."""
        return int(self.parts[-1].items[-1]) if self.parts else 0

    def with_parts(self, parts: Sequence[Segment], alive: Sequence[Array]) -> View:
        """Return the same with other segments."""
        living = [int(np.count_nonzero(flags)) for flags in alive]
        words = sum(float(part.lengths.sum(where=flags)) for part, flags in zip(parts, alive, strict=True))
        return self._replace(
            parts=tuple(parts),
            alive=tuple(alive),
            whole=tuple(count == len(flags) for count, flags in zip(living, alive, strict=True)),
            total=sum(living),
            length=words / sum(living) if words else 1.0,
        )

    def by_text(self, words: dict[int, int], chosen: Chosen, depth: int) -> dict[int, float]:
        """Return the BM25 scores of the best ``depth`` items, by number.

        Args:
            words: the hash of each stem of the query and how often it stands there.
            chosen: for each segment a flag an item: whether it may be found; None: all may.
            depth: how many.
        """
        postings = {word: [part.postings(word) for part in self.parts] for word in words}
        found: list[tuple[Array, Array]] = []
        weights = {}
        for word, times in words.items():
            holding = sum(len(docs) for docs, _ in postings[word])
            rarity = np.log((max(0, self.total - holding) + 0.5) / (holding + 0.5))  # as FTS5 has it, never below 0
            weights[word] = np.float32(times * max(rarity, _LEAST_RARITY) * (_K1 + 1.0))
        for place, (part, flags) in enumerate(zip(self.parts, chosen, strict=True)):
            scores = np.zeros(len(part.items), np.float32)
            norms = (part.lengths * np.float32(_K1 * _B / self.length)) + np.float32(_K1 * (1.0 - _B))
            for word, weight in weights.items():
                docs, counts = postings[word][place]
                times_there = counts.astype(np.float32)
                scores[docs] += weight * times_there / (times_there + norms[docs])
            if flags is not None:
                scores *= flags
            best = _best(scores, depth)
            best = best[scores[best] > 0]
            found.append((part.items[best], scores[best]))
        return _cut(found, depth, depth)

    def by_vector(self, vector: Sequence[float], chosen: Chosen, depth: int, sure: int, kept: int) -> dict[int, float]:
        """Return the approximate cosines of the best ``depth`` items, by number, the best first.

        Args:
            vector: the query's.
            chosen: as in :meth:`by_text`.
            depth: how many.
            sure: how many of the best must not be missed; further down one may be.
            kept: how many of the best to return, followed by the last of ``depth``.
        """
        query = np.array(vector, np.float32)
        query /= float(np.linalg.norm(query)) or 1.0
        found: list[tuple[Array, Array]] = []
        for part, flags in zip(self.parts, chosen, strict=True):
            for one in part.vectors:
                if one.codes.shape[1] == len(query):
                    rows, cosines = one.nearest(query, flags, sure)
                    best = _best(cosines, depth)
                    found.append((part.items[rows[best]], cosines[best]))
        return _cut(found, depth, kept)

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


def _cut(found: list[tuple[Array, Array]], depth: int, kept: int) -> dict[int, float]:
    """Return the best ``kept`` of the best ``depth``, the best first, and the last of these, which says where 0 is."""
    if not found:
        return {}
    items = np.concatenate([items for items, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    order = np.lexsort((items, -scores))[:depth]
    if len(order) > kept + 1:
        order = np.append(order[:kept], order[-1])
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

    def view(self, read: Read, stamp: int) -> View:
        """Return a view that is as new as the database.

        Args:
            read: runs a query.
            stamp: what the namespace has now.
        """
        view = self._view
        if view.stamp == stamp:
            return view
        with self._guard:
            if not self._looked:
                self._begin()
                self._looked = True
            stamp, gone, noted = self._state(read)
            if self._view.stamp != stamp:
                # What exists first, what is new after it: an item replaced in between is then seen twice, and the
                # port shows the one that is there. The other way round it would be seen by nobody.
                self._bury(read, gone)
                self._catch_up(read)
                self._tidy()
                self._view = self._view._replace(stamp=stamp, noted=noted)
            return self._view

    def chosen(self, view: View, read: Read, conditions: Sequence[Condition]) -> Chosen:
        """Return for each segment of a view a flag an item: whether it exists and meets the conditions; None: all."""
        if not conditions:
            return [None if whole else alive for whole, alive in zip(view.whole, view.alive, strict=True)]
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

    def _begin(self) -> None:
        """Start from the file, if there is one."""
        found = load(self._path)
        if found is not None and len(found[0].items):
            part, gone = found
            self._view = View(gone=gone).with_parts([part], [np.ones(len(part.items), bool)])

    def _bury(self, read: Read, gone: int) -> None:
        """Mark what disappeared up to a moment, or a little later; forget everything if it is not what there is."""
        view = self._view
        if view.parts:
            lost = since(read, self._space, view.gone, gone)
            items = None if lost is None else np.sort(np.frombuffer(lost, np.int64))
            if items is not None and (
                not view.alive[-1][-1] or view.last in items or read(_EXISTS, (view.last, self._space))
            ):
                if len(items):
                    alive = [_without(part, flags, items) for part, flags in zip(view.parts, view.alive, strict=True)]
                    view = view.with_parts(view.parts, alive)
            else:
                live = _numbers(read(_LIVE, (self._space,)))
                known = int(np.searchsorted(live, view.last, side="right"))
                view = view.with_parts(view.parts, [part.flags(live) for part in view.parts])
                if view.total != known:  # an older copy of the file brought back what had been left out
                    view = View()
        self._view = view._replace(gone=gone, stamp=0)

    def _catch_up(self, read: Read) -> None:
        """Read new rows page by page; what was read is kept if a later page fails."""
        pages: list[Page] = []
        last = self._view.last
        try:
            while rows := read(_NEW, (self._space, last)):
                pages.append(Page.made(rows))
                last = rows[-1][0]
                if len(pages) >= _MOST_PAGES:
                    self._add(pages)
                    pages = []
                if len(rows) < _PAGE:
                    return
        finally:
            self._add(pages)

    def _add(self, pages: Sequence[Page]) -> None:
        if pages:
            view, part = self._view, Segment.made(pages)
            self._view = view.with_parts([*view.parts, part], [*view.alive, np.ones(len(part.items), bool)])

    def _tidy(self) -> None:
        """Keep segments few and free of what is gone, and the large one in a file."""
        view = self._view
        if not view.parts:
            return
        if not view.total:
            self._view = view.with_parts((), ())
            _unlink(self._path)
            return
        sizes = [int(np.count_nonzero(alive)) for alive in view.alive]
        dead = sum(len(part.items) for part in view.parts) - view.total
        wasteful = sum(sizes[1:]) > max(_SAVED, sizes[0] // 2) or dead > max(_SAVED, view.total // 4)
        if wasteful and view.total < MOST_ITEMS:
            self._use(Segment.merged(view.parts, view.alive))
        elif len(view.parts) > _MOST_PARTS:
            self._merge_last(sizes)
        elif len(view.parts) == 1 and sizes[0] > _SAVED and not os.path.exists(self._path):
            self._use(view.parts[0] if view.whole[0] else Segment.merged(view.parts, view.alive))

    def _merge_last(self, sizes: Sequence[int]) -> None:
        """Merge the last segments, each of which grows to twice its size before it is touched again."""
        view, at, size = self._view, len(sizes) - 2, sum(sizes[-2:])
        while at > 1 and sizes[at - 1] < 2 * size:
            at -= 1
            size += sizes[at]
        if size < MOST_ITEMS:
            part = Segment.merged(view.parts[at:], view.alive[at:]).sketched()
            self._view = view.with_parts([*view.parts[:at], part], [*view.alive[:at], np.ones(len(part.items), bool)])

    def _use(self, segment: Segment) -> None:
        """Hold one segment, mapped from a file where one can be written."""
        segment = segment.sketched()
        if len(segment.items) > _SAVED:
            try:
                save(segment, self._path, self._view.gone)
            except OSError:  # read-only, or full: the cache stays in memory
                pass
            else:
                mapped = load(self._path)  # perhaps another process's by now
                if mapped is not None and np.array_equal(mapped[0].items, segment.items):
                    segment = mapped[0]
        self._view = self._view.with_parts([segment], [np.ones(len(segment.items), bool)])


def _without(part: Segment, alive: Array, items: Array) -> Array:
    """Return the flags of a segment without some items."""
    places = np.searchsorted(part.items, items)
    places = places[places < len(part.items)]
    places = places[np.isin(part.items[places], items)]
    if not len(places):
        return alive
    alive = alive.copy()
    alive[places] = False
    return alive


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
