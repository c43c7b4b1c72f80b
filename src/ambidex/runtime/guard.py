"""Warns when blocking network calls run inside an event loop; ``ambidex.storage`` tells it of each one.

The invariant: a process hears of each method once, with the form to use instead, at the line that called it.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from ambidex.core.dual import in_event_loop

__all__ = ["warn_if_in_loop"]

_warned: set[str] = set()


def warn_if_in_loop(what: str) -> None:
    """Warn (RuntimeWarning, once for each ``what``) if an event loop runs in this thread.

    Args:
        what: the port's method, e.g. "kv.get".
    """
    if not in_event_loop() or what in _warned:
        return
    _warned.add(what)
    frame, level, called = sys._getframe(1), 2, ""
    while frame.f_back is not None and _is_ours(frame):
        if frame.f_globals.get("__name__", "").startswith(("ambidex.stores.", "ambidex.face", "ambidex.storage")):
            called = frame.f_code.co_qualname
        frame, level = frame.f_back, level + 1
    called = called or what
    warnings.warn(
        f"{called} makes a blocking network call and holds up the event loop that runs in this thread; use the "
        f"asynchronous face there: 'await storage.aio...{called.rpartition('.')[2]}(...)' instead of 'storage.sync'",
        RuntimeWarning,
        stacklevel=level,
    )


def _is_ours(frame: FrameType) -> bool:
    """Tell a frame of this package from its caller's; a blocking form is compiled, and has no module."""
    return frame.f_globals.get("__name__", "").startswith("ambidex.") or frame.f_code.co_filename.startswith(
        "<ambidex "
    )
