"""How commands print: JSON, tables, and on standard error what is under way; every command uses it.

The invariant: only results go to standard output, and nothing that moves is shown where no terminal is.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["as_json", "print_json", "print_table", "stderr", "working"]


def stderr() -> Console:
    """Return what prints to standard error, plainly where it is no terminal."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something is under way, on a terminal."""
    errors = stderr()
    if not errors.is_terminal:
        yield
        return
    with errors.status(what):
        yield


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under the names of their columns; cells may hold rich's markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def print_json(data: Any) -> None:
    """Print one JSON value, as --json promises."""
    print(as_json(data))


def as_json(data: Any) -> str:
    """Return the JSON form of anything that can be stored."""
    return jsonlib.dumps(data, indent=2, ensure_ascii=False, default=_readable)


def _readable(value: Any) -> Any:
    """Return a JSON form of a stored value that JSON lacks."""
    if isinstance(value, bytes):
        import base64

        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return str(value)
