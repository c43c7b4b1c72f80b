"""Sample models, for trying things out; the examples and the tests of providers use them.

The invariant: they are plain dataclasses, so they need nothing but the package itself.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from ambidex import CreatedAt, Indexed, UpdatedAt, Version

__all__ = ["ActionExecution", "ActionStatus"]


class ActionStatus(enum.StrEnum):
    """How far an action has come."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass
class ActionExecution:
    """One action that an agent has taken, with its parameters and what came of it."""

    id: str = ""
    action: Annotated[str, Indexed()] = ""
    status: Annotated[ActionStatus, Indexed()] = ActionStatus.PENDING
    agent: Annotated[str | None, Indexed()] = None
    parameters: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    error: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: Annotated[float | None, Indexed()] = None
    attempts: int = 0
    version: Annotated[int, Version()] = 0
    created_at: Annotated[datetime | None, CreatedAt(), Indexed()] = None
    updated_at: Annotated[datetime | None, UpdatedAt()] = None
