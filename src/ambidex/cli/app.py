"""Puts the commands together into one program and runs it; the entry point ``ambidex`` calls :func:`main`.

The invariant: whatever ends a command, :func:`main` returns an exit code, and says in one line what was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ambidex.cli.chat import chat
from ambidex.cli.demo import demo
from ambidex.cli.health import health
from ambidex.cli.keys import delete, get, scan, set_
from ambidex.cli.outbox import outbox
from ambidex.cli.places import Places
from ambidex.cli.texts import ingest, reindex, search
from ambidex.demo.exits import exit_code
from ambidex.errors import CapabilityMissing

if TYPE_CHECKING:
    from cyclopts import App

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what stands behind ``ambidex`` on the command line; None: the process's own.
    """
    return exit_code(partial(_run, sys.argv[1:] if arguments is None else list(arguments)))


def _run(words: Sequence[str]) -> int:
    try:
        app = _app()
    except ModuleNotFoundError as error:
        print(f"error: the command line needs the package {error.name!r}: pip install 'ambidex[cli]'", file=sys.stderr)
        return 1
    try:
        answer = app(words, result_action="return_value")
    except SystemExit as end:  # help, version and wrong usage
        return end.code if isinstance(end.code, int) else 1
    except CapabilityMissing as error:
        print(f"error: {error} (here: --search sqlite:///index.db and the like)", file=sys.stderr)
        return 1
    return answer if isinstance(answer, int) else 0


def _app() -> App:
    import rich  # noqa: F401  # named here, so that a missing one is reported as such
    from cyclopts import App, Parameter

    import ambidex

    app = App(
        name="ambidex",
        help="One storage layer for synchronous and asynchronous code. Without --url, commands use AMBIDEX_URL, "
        "else a SQLite file in your data folder.",
        version=ambidex.__version__,
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    Parameter(name="*")(Places)  # its fields are options of each command that takes one
    for command in (demo, health, get, set_, delete, scan, ingest, reindex, search, chat, outbox):
        app.command(command, name=command.__name__.rstrip("_"))
    return app
