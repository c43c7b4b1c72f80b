"""Identifiers that sort by the time they were made; repositories give them to records that have none.

UUID version 7 (RFC 9562, section 5.7) with the 12 bits behind the milliseconds used as a counter (section 6.2, method
1). The invariant: within a process, each id is greater than the one before, also in one millisecond and when the clock
steps back.
"""

from __future__ import annotations

import os
from uuid import UUID

from ambidex.core.clock import millis

__all__ = ["uuid7", "uuid7s"]

_last = 0


def uuid7() -> UUID:
    """Return a new UUIDv7."""
    (made,) = uuid7s(1)
    return made


def uuid7s(number: int) -> list[UUID]:
    """Return so many new UUIDv7, the smallest first."""
    global _last  # noqa: PLW0603  # the greatest timestamp given out is what keeps ids in order
    now = millis() << 12
    first = max(now, _last + 1)
    _last = first + number - 1
    noise = memoryview(os.urandom(8 * number)).cast("Q")
    made = []
    for stamp, random in enumerate(noise, first):
        milliseconds, counter = stamp >> 12, stamp & 0xFFF
        high = (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | counter << 64
        made.append(UUID(int=high | 0b10 << 62 | random & ((1 << 62) - 1)))
    return made
