"""Many rows of one kind, a column at a time; repositories hand them to the records ports.

The invariant: a :class:`Rows` reads like a list of the rows. Whoever wants a whole column has it without a dict for
each row, which Python's garbage collector would look at again and again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from ambidex.core.ports import Row

__all__ = ["Rows", "column"]


class Rows(Sequence[Row]):
    """Rows with the same names.

    Args:
        columns: the values under each name, as many under one as under another.
        number: how many these are.
    """

    __slots__ = ("_number", "columns")

    def __init__(self, columns: Mapping[str, Sequence[Any]], number: int) -> None:
        self.columns = dict(columns)
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Row]:
        names = tuple(self.columns)
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(names, values, strict=True))

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        if isinstance(at, slice):
            part = {name: values[at] for name, values in self.columns.items()}
            return Rows(part, len(range(*at.indices(self._number))))
        return {name: values[at] for name, values in self.columns.items()}


def column(rows: Sequence[Row], name: str) -> Sequence[Any]:
    """Return the values under a name, of one row after the other; not to be changed."""
    return rows.columns[name] if isinstance(rows, Rows) else [row[name] for row in rows]
