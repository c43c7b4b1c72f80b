"""How fast a pool serves, so that a call that cannot be served in time is refused at once; both pools use it.

The invariant: a call is only refused when the measured pace says clearly that its turn would come too late.
"""

from __future__ import annotations

__all__ = ["Load"]

_WEIGHT = 0.05
_SAMPLES = 50
_MARGIN = 2.0


class Load:
    """A moving average of how long a connection stays out.

    Args:
        size: how many connections serve at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._seconds = 0.0
        self._seen = 0

    def note(self, seconds: float) -> None:
        """Count one use of a connection."""
        self._seen += 1
        self._seconds += (seconds - self._seconds) * max(_WEIGHT, 1 / self._seen)

    def can_serve(self, waiting: int, within: float) -> bool:
        """Tell whether one more call, behind ``waiting`` others, has a chance to be served ``within`` seconds."""
        if within <= 0:
            return False
        return self._seen < _SAMPLES or waiting * self._seconds / self._size <= within * _MARGIN
