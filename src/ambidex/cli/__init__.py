"""The command ``ambidex``: demo, health, get, set, delete, scan, ingest, reindex, search, chat, outbox.

The entry point ``ambidex`` calls :func:`main`. The modules are named for what their commands are about; ``app.py`` puts
them together, ``places.py`` and ``output.py`` hold what they share. The invariant: importing this package loads no
third-party package; results go to standard output and everything else to standard error, so that output can be piped;
what a user can cause ends in one line and exit code 1, wrong usage in exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see :func:`ambidex.cli.app.main`."""
    try:
        from ambidex.cli import app  # here, so that Ctrl-C ends this, too, in one line
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return app.main(arguments)
