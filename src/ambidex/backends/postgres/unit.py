"""A transaction and the connection that it holds; the leaf pair makes one for each ``transaction()``.

The invariant: BEGIN goes out with the first statement, and whether it did is asked of the connection, never remembered
here, where a cancellation could come between; after a failed statement nothing of the unit is ever committed;
a unit ends exactly once, and who still uses it then is told so.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager

from ambidex.backends.postgres.aio import AsyncConnection
from ambidex.backends.postgres.blocking import BlockingConnection
from ambidex.backends.relational.sql import Statement
from ambidex.errors import AmbidexError, Closed, LeaseLost, NestedCheckout

__all__ = ["Connection", "Unit"]

Connection = BlockingConnection | AsyncConnection


class Unit:
    """One transaction.

    Args:
        leaf: the colour that began it; the other one cannot serve it.
        connection: its own until its end.
        seconds: how long it may last.
        isolation: the level, as SQL.
        lock: lets its statements through one after another.
    """

    def __init__(
        self,
        leaf: object,
        connection: Connection,
        seconds: float,
        isolation: str,
        lock: AbstractAsyncContextManager[None],
    ) -> None:
        self.leaf, self.connection, self.lock = leaf, connection, lock
        self.seconds = seconds
        self.until = time.monotonic() + seconds
        self.error: AmbidexError | None = None
        self.over = False
        self.depth = 0
        self.timer: asyncio.TimerHandle | None = None
        self._isolation = isolation

    def check(self, leaf: object) -> None:
        """Refuse a use that cannot be served on this unit's connection.

        Raises:
            Closed: it has ended.
            NestedCheckout: the other colour is asked, which would need a second connection.
        """
        if self.over:
            raise Closed("the transaction has ended; this task or thread was started inside it and outlived it")
        if self.leaf is not leaf:
            raise NestedCheckout(
                "a transaction of the other mode is running here; its connection cannot serve this call, and a "
                "second one would wait for the first: use the face (sync or aio) that began the transaction"
            )

    @property
    def late(self) -> bool:
        """True when it has lasted too long."""
        return time.monotonic() >= self.until

    def lease_lost(self) -> LeaseLost:
        """Return the error for a unit that lasted too long."""
        return LeaseLost(
            f"a transaction lasted more than {self.seconds:g} s and was rolled back; "
            "do slow work before it, or raise lease_timeout"
        )

    def opening(self) -> list[Statement]:
        """Return what must go out before the next statement.

        The server itself ends a unit whose client has gone silent, so that its locks do not outlive it.
        """
        if self.connection.in_transaction:
            return []
        return [
            (f"BEGIN ISOLATION LEVEL {self._isolation}", ()),
            (
                "SELECT set_config('idle_in_transaction_session_timeout', ?, true)",
                (f"{max(1, int(self.seconds * 1000))}ms",),
            ),
        ]
