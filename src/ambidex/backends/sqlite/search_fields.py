"""Metadata by field, as codes of its distinct values, so that a filter costs a look at each value and not at each row.

A namespace's :class:`~ambidex.backends.sqlite.search_space.Space` holds one and guards it. The invariant: a condition
is judged by :data:`ambidex.core.query.OPERATORS` itself, on values of the rows; values that are equal share a code,
and no operator tells equal values apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from ambidex.backends.relational.sql import Args, Row
from ambidex.core.query import OPERATORS, Condition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = ["Fields"]

_PAGE = 20_000
_MOST, _MOST_ASKED = 32, 256
_MOST_PARTS = 64
_ROWS = f"SELECT item, metadata FROM ambidex_items WHERE space = ? AND item > ? ORDER BY item LIMIT {_PAGE}"


class Fields:
    """The fields of one namespace that filters have asked for more than once."""

    def __init__(self, space: int) -> None:
        self._space = space
        self._noted = self._stamp = -1
        self._asked: set[str] = set()
        self._codes: dict[str, list[Array]] = {}
        self._values: dict[str, dict[Any, int]] = {}
        self._items: list[Array] = []
        self._last = 0

    def items(
        self, conditions: Sequence[Condition], stamp: int, noted: int, read: Callable[[str, Args], list[Row]]
    ) -> Array | None:
        """Return the sorted numbers of the items that meet the conditions (some may be gone); None: ask the database.

        Args:
            conditions: at least one.
            stamp: the namespace's, which changes with every write.
            noted: what changes when metadata of existing items does.
            read: runs a query.
        """
        fields = {condition.field for condition in conditions}
        if not fields <= self._codes.keys():
            if not fields <= self._asked:
                self._asked = self._asked | fields if len(self._asked) < _MOST_ASKED else fields
                return None
            self._begin(self._codes.keys() | fields if len(self._codes) < _MOST else fields)
        elif noted != self._noted:
            self._begin(self._codes.keys())
        if stamp != self._stamp:
            self._catch_up(read)
            self._stamp, self._noted = stamp, noted
        parts = []
        for place, items in enumerate(self._items):
            flags = np.ones(len(items), bool)
            for condition in conditions:
                flags &= self._meeting(condition)[self._codes[condition.field][place]]
            parts.append(items[flags])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _meeting(self, condition: Condition) -> Array:
        """Return for each code of a field whether its value meets the condition."""
        test, wanted = OPERATORS[condition.op], condition.value
        values = self._values[condition.field]
        return np.fromiter((test(value, wanted) for value in values), bool, len(values))

    def _begin(self, fields: Iterable[str]) -> None:
        """Forget everything and choose the fields to read."""
        names = list(fields)
        self._codes = {name: [] for name in names}
        self._values = {name: {} for name in names}
        self._items, self._last, self._stamp = [], 0, -1

    def _catch_up(self, read: Callable[[str, Args], list[Row]]) -> None:
        """Read the rows behind the last one known."""
        while rows := read(_ROWS, (self._space, self._last)):
            records = [msgspec.json.decode(row[1]) for row in rows]
            for name, codes in self._codes.items():
                known = self._values[name]
                new = [known.setdefault(record.get(name), len(known)) for record in records]
                codes.append(np.array(new, np.int32))
            self._items.append(np.fromiter((row[0] for row in rows), np.int64, len(rows)))
            self._last = rows[-1][0]
            if len(self._items) > _MOST_PARTS:
                self._join()
            if len(rows) < _PAGE:
                return

    def _join(self) -> None:
        """Make one part of the many that single writes left."""
        self._items = [np.concatenate(self._items)]
        self._codes = {name: [np.concatenate(codes)] for name, codes in self._codes.items()}
