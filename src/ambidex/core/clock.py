"""The time as it is written down: whole milliseconds by this process's clock; ids, conversations and the outbox use it.

The invariant: nothing is measured by it, for it may step; what is measured goes by the monotonic clock.
"""

from __future__ import annotations

import time

__all__ = ["millis"]


def millis() -> int:
    """Return the time by this process's clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
