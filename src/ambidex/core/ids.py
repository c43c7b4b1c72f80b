"""Identifiers that sort by the time they were made; repositories give them to records that have none.

UUID version 7 (RFC 9562, section 5.7) with the 12 bits behind the milliseconds used as a counter (section 6.2, method
1). The invariant: within a process, each id is greater than the one before, also in one millisecond and when the clock
steps back.
"""

from __future__ import annotations

import os
import time
from uuid import UUID

__all__ = ["uuid7"]

_last = 0


def uuid7() -> UUID:
    """Return a new UUIDv7."""
    global _last  # noqa: PLW0603  # the greatest timestamp given out is what keeps ids in order
    now = (time.time_ns() // 1_000_000) << 12
    _last = stamp = max(now, _last + 1)
    milliseconds, counter = stamp >> 12, stamp & 0xFFF
    random = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    return UUID(int=(milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | counter << 64 | 0b10 << 62 | random)
