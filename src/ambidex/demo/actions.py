"""What the demo did, kept as typed records and asked for by filter; ``job.py`` calls this.

The invariant: the methods are written once; the storing thread uses the blocking class, the event loop the other, on
the same records.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ambidex import Blocking, Repository, SyncStorage, operation
from ambidex.errors import CapabilityMissing
from ambidex.samples import ActionExecution, ActionStatus

__all__ = ["Actions", "BlockingActions", "has_records"]

STORE, ASK = "store a document", "ask a question"


class Actions(Repository[ActionExecution]):
    """Executed actions, asynchronous."""

    @operation
    async def note(self, action: str, agent: str, about: str, seconds: float, error: str | None = None) -> None:
        """Record an action that has just ended; ``error`` says why it failed, if it did."""
        ended = datetime.now(UTC)
        await self.create(
            ActionExecution(
                action=action,
                agent=agent,
                status=ActionStatus.SUCCEEDED if error is None else ActionStatus.FAILED,
                parameters={"about": about},
                error=error,
                started_at=ended - timedelta(seconds=seconds),
                finished_at=ended,
                duration_ms=seconds * 1000,
                attempts=1,
            )
        )

    @operation
    async def summary(self, since: datetime) -> dict[str, str]:
        """Ask for what was recorded since a moment; return each query, as it is written, with its answer."""
        slowest = await self.list(
            action=STORE, duration_ms__gt=0, created_at__ge=since, order_by="-duration_ms", limit=1
        )
        failed = await self.list(status=ActionStatus.FAILED, created_at__ge=since, order_by="created_at")
        return {
            "count(agent='thread')": f"{await self.count(agent='thread', created_at__ge=since):,}",
            "count(agent='event loop')": f"{await self.count(agent='event loop', created_at__ge=since):,}",
            "list(status='failed')": f"{len(failed):,}",
            "list(action='store a document', order_by='-duration_ms', limit=1)": "".join(
                f"{found.parameters['about']} ({found.duration_ms:.1f} ms)" for found in slowest
            ),
        }


class BlockingActions(Blocking, Actions):
    """Executed actions, synchronous."""


def has_records(storage: SyncStorage) -> bool:
    """Tell whether a storage keeps typed records."""
    try:
        storage.repository(ActionExecution)
    except CapabilityMissing:
        return False
    return True
