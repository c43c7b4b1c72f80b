"""What transactions have left for other backends, to be looked at and decided on; ``storage.outbox`` is one.

``storage.recover()`` and uses of the other backends work off what waits (:mod:`ambidex.stores.outbox`); what a backend
refuses for good is set aside, and stays until somebody retries or discards it here. The invariant: no value that was
to be written is shown, only where it was to go.
"""

from __future__ import annotations

import builtins
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ambidex.core.dual import Blocking, Detecting, Store, operation
from ambidex.core.runtime import in_unit, one_deadline
from ambidex.errors import AmbidexError, InvalidQuery, NotFound, UsageError
from ambidex.stores.outbox import Outbox
from ambidex.stores.outbox_rows import Row

__all__ = ["BlockingOutboxAdmin", "DetectingOutboxAdmin", "LeftUnit", "LeftWrite", "OutboxAdmin"]

_MOST = 10_000


class LeftWrite(NamedTuple):
    """One write that was not made."""

    place: str
    """The capability that is placed on the other backend."""
    port: str
    """Of what: ``kv``, ``log``, ``search`` or ``records``."""
    method: str
    names: builtins.list[str]
    """The keys, the stream, the namespace or the records' ids, as the other backend knows them."""


class LeftUnit(NamedTuple):
    """What is left of one transaction."""

    id: str
    committed_at: datetime | None
    """By the clock of the process that committed it; None where what it left cannot be read."""
    writes: builtins.list[LeftWrite]
    """In their order; those of the transaction that were made are not among them."""
    error: str = ""
    """Why it was set aside."""
    failed_at: datetime | None = None


class OutboxAdmin(Store):
    """The outbox of all tenants, asynchronous. ``await storage.aio.outbox.failed()``.

    Args:
        outbox: what keeps it, in the same mode.
        timeout: seconds that an operation may take in all.
    """

    def __init__(self, outbox: Outbox, timeout: float) -> None:
        self._outbox, self._timeout = outbox, timeout

    @operation
    @one_deadline
    async def failed(self, limit: int = 100) -> builtins.list[LeftUnit]:
        """Return up to ``limit`` transactions of which a backend has refused something for good, the oldest first.

        Nothing else waits for them. See :meth:`retry` and :meth:`discard`.
        """
        return await self._left(True, limit)

    @operation
    @one_deadline
    async def waiting(self, limit: int = 100) -> builtins.list[LeftUnit]:
        """Return up to ``limit`` transactions whose writes to other backends are still to be made, the oldest first.

        These are made by themselves; ``storage.recover()`` tries it now, and the log says what they wait for.
        """
        return await self._left(False, limit)

    @operation
    @one_deadline
    async def retry(self, id: str) -> None:  # noqa: A002  # the field's own name
        """Make now what was set aside of a transaction, once: for when its reason is gone.

        It takes effect after everything that was written since, also to the same keys.

        Args:
            id: of a :class:`LeftUnit` that :meth:`failed` has listed.

        Raises:
            NotFound: nothing of that name was set aside.
            AmbidexError: it was refused again, or its backend cannot be reached; it stays set aside.
        """
        _check_id(id)
        if in_unit():
            raise UsageError("outbox.retry writes to another backend at once; call it outside of transactions")
        await self._outbox.retry(id)

    @operation
    @one_deadline
    async def discard(self, id: str) -> None:  # noqa: A002
        """Give up what is left of a transaction, whether it was set aside or waits: it will never be made.

        Args:
            id: of a :class:`LeftUnit`.

        Raises:
            NotFound: nothing of that name is left.
        """
        _check_id(id)
        if not await self._outbox.discard(id):
            raise NotFound(f"nothing is left of a unit {id!r}; outbox.failed() and outbox.waiting() list what is")

    async def _left(self, aside: bool, limit: int) -> builtins.list[LeftUnit]:
        if type(limit) is not int or not 1 <= limit <= _MOST:
            raise InvalidQuery(f"a limit is 1 to {_MOST:,}, not {limit!r}")
        return [_shown(name, row) for name, row in await self._outbox.left(aside, limit)]


class BlockingOutboxAdmin(Blocking, OutboxAdmin):
    """The outbox, synchronous. ``storage.sync.outbox.failed()``."""


class DetectingOutboxAdmin(Detecting, OutboxAdmin):
    """The outbox, whose methods answer with values, or with awaitables inside a running event loop."""

    def __init__(self, aio: OutboxAdmin, sync: BlockingOutboxAdmin) -> None:
        super().__init__(aio._outbox, aio._timeout)
        self._aio, self._sync = aio, sync


def _check_id(id_: Any) -> None:
    if not isinstance(id_, str) or not id_.isalnum() or not id_.isascii():
        raise InvalidQuery(f"{id_!r:.60} is no id of a unit; outbox.failed() lists them")


def _shown(name: str, row: Row | AmbidexError) -> LeftUnit:
    if not isinstance(row, Row):
        return LeftUnit(name, None, [], f"{type(row).__name__}: {row}")
    writes = [
        LeftWrite(entry.place, entry.port, entry.method, [str(touched[-1]) for touched in entry.touches()])
        for _, entry in row.entries
    ]
    failed_at = _moment(row.failed_at) if row.failed_at else None
    return LeftUnit(name, _moment(row.at), writes, row.error, failed_at)


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)
