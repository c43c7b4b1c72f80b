"""Many records at once arrive in the database as each of them alone does."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.errors import AlreadyExists


@dataclass
class Everything:
    """A field of each kind."""

    id: int
    text: str | None = None
    number: int | None = None
    real: float | None = None
    yes: bool | None = None
    exact: Decimal | None = None
    uuid: UUID | None = None
    moment: datetime | None = None
    day: date | None = None
    clock: time | None = None
    blob: bytes | None = None
    nested: dict[str, Any] | None = None


LOW = Everything(
    0,
    "",
    -(2**63),
    -1.7976931348623157e308,
    False,
    Decimal("-0.000000001"),
    UUID(int=0),
    datetime(1, 1, 1, tzinfo=UTC),
    date(1, 1, 1),
    time(0),
    b"",
    {},
)
HIGH = Everything(
    1,
    'ä\u4e2d\U0001f600\\{}",NULL',
    2**63 - 1,
    5e-324,
    True,
    Decimal("12345678901234567890.10"),
    UUID(int=2**128 - 1),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
    date(9999, 12, 31),
    time(23, 59, 59, 999_999),
    b"\x00\xff",
    {"b": [1e16, None, "é"], "a": {"deep": [True, 2**62]}},
)
KINDS = [LOW, HIGH, Everything(2), replace(HIGH, id=3, moment=datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC))]


def test_every_kind_of_value_is_stored_as_a_single_insert_stores_it(storage: UnifiedStorage, place: str) -> None:
    many = [replace(KINDS[number % 4], id=number) for number in range(20)]
    alone, together = (storage.sync.tenant(name).repository(Everything) for name in ("alone", "together"))
    for one in many:
        alone.create(one)
    assert together.create_many(many) == many
    assert [together.get(one.id) for one in many] == many
    schema = place.partition("schema=")[2]
    columns = ", ".join(f'"{name}"::text' for name in asdict(LOW))
    with psycopg.connect(place.partition("?")[0]) as connection:
        sql = f"SELECT {columns} FROM {schema}.everything WHERE ambidex_tenant = %s ORDER BY id"
        stored = [connection.execute(sql, (tenant,)).fetchall() for tenant in ("alone", "together")]
    assert stored[0] == stored[1]
    assert len(stored[0]) == 20


@dataclass
class Named:
    """Little to store."""

    id: int
    name: str


def test_a_taken_id_stores_none_of_many(storage: UnifiedStorage) -> None:
    people = storage.sync.repository(Named)
    people.create(Named(11_999, "there"))
    with pytest.raises(AlreadyExists):
        people.create_many([Named(number, "new") for number in range(12_000)])
    assert people.count() == 1
