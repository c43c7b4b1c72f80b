"""The error for calls inside a unit whose outcome on another backend nobody can know before the commit.

Whatever keeps writes for later raises it, and stores that must see their own writes. The invariant: it is raised before
anything is read or kept, and says what to do instead.
"""

from __future__ import annotations

from ambidex.errors import CapabilityMissing

__all__ = ["undecided"]


def undecided(port: str, what: str, hint: str = "") -> CapabilityMissing:
    """Return the error.

    Args:
        port: where it would write.
        what: the call.
        hint: a sentence on what else can be done.
    """
    return CapabilityMissing(
        f"{port} is on another backend than this transaction, and the outcome of {what!r} there cannot be known before "
        f"the commit. {hint}{' ' if hint else ''}Do it before or after the transaction, or place {port} on the "
        "backend of transactions"
    )
