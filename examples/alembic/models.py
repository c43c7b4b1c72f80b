"""The models of the application; ``env.py`` and the application itself import them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from ambidex import CreatedAt, DeletedAt, Indexed, Unique, Version

__all__ = ["MODELS", "Customer", "Invoice"]


@dataclass
class Customer:
    """Somebody who buys."""

    id: UUID | None
    email: Annotated[str, Unique()]
    name: Annotated[str, Indexed()]
    version: Annotated[int, Version()] = 0
    created_at: Annotated[datetime | None, CreatedAt()] = None


@dataclass
class Invoice:
    """What a customer owes."""

    id: str
    customer_id: Annotated[UUID, Indexed()]
    total: Annotated[Decimal, Indexed()]
    lines: list[dict[str, Any]]
    paid: bool = False
    deleted_at: Annotated[datetime | None, DeletedAt()] = None


MODELS = [Customer, Invoice]
