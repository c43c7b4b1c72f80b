"""The executor that an SQL leaf driver offers, and the words in which dialects differ.

The shared ports are written over these two.

The invariant: every text of SQL is built when a port is made, from a :class:`Dialect` and constants; nothing that
comes from a caller is ever part of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Args", "Dialect", "Row", "SqlLeaf", "Statement"]

Row = tuple[Any, ...]
Args = Sequence[Any]
Statement = tuple[str, Args]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one SQL database says things.

    Attributes:
        now: an expression for the server's clock in whole milliseconds since 1970, the same throughout one statement.
        version: an expression for a random positive version below 2**52.
        in_list: a template with ``{column}`` that compares a column with one bound list.
        listing: turns a list of text into that bound value.
        whole: the condition that a stored value and ``excluded``'s are integers whose sum fits 64 bits.
        values: the columns of a stored value; integers are in the last one.
        schema: what stands before a table's name, with its dot, or "".
        locking: what makes a SELECT lock the rows it reads until the end of the transaction, or "".
    """

    now: str
    version: str
    in_list: str
    listing: Any
    whole: str
    values: tuple[str, ...] = ("value",)
    schema: str = ""
    locking: str = ""


class SqlLeaf(Protocol):
    """One colour of one SQL database. Parameters are written ``?`` and bound, never formatted."""

    async def row(self, sql: str, args: Args = ()) -> Row | None:
        """Read at most one row; meant for point reads, which the driver may answer together with others."""
        ...

    async def rows(self, sql: str, args: Args = ()) -> list[Row]:
        """Read rows."""
        ...

    async def write(self, sql: str, args: Args = ()) -> list[Row]:
        """Run one statement that changes data, atomically and durably; returns its RETURNING rows."""
        ...

    async def write_many(self, sql: str, rows: Iterable[Args]) -> list[Row]:
        """Run one statement for each row of arguments, all or none; returns the rows of all together.

        ``rows`` may be iterated more than once.
        """
        ...

    async def script(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Run statements in order, all or none; returns the rows of each."""
        ...
