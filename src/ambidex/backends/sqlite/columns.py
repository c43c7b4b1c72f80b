"""How SQLite keeps the kinds of a record's fields; the driver hands this to the shared records port.

The invariant: the order of stored values is the order of the Python values, so indexes answer comparisons: times are
text of one width in UTC, and Decimals are text under a collation that compares numbers. The types' names end in TEXT,
so that SQLite never turns text which looks like a number into one, and tell the kinds apart, so that a field whose
kind has changed is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import apsw
import msgspec

from ambidex.backends.relational.record_sql import Columns, RecordDialect
from ambidex.core.spec import Kind

__all__ = ["RECORDS", "add_collation", "compare"]

_COLLATION = "ambidex_decimal"
_json = msgspec.json.Encoder(order="sorted").encode


def _datetime(value: datetime) -> str:
    utc = value if value.tzinfo is UTC else value.astimezone(UTC)
    return utc.isoformat("T", "microseconds")


def _datetimes(values: Sequence[Any]) -> Sequence[Any]:
    """Write datetimes in UTC as :func:`_datetime` does; msgspec does it in a sixth of the time, only shorter."""
    return [
        text
        if text is None
        else _datetime(value)
        if text[-1] != "Z"
        else f"{text[:19]}.000000+00:00"
        if len(text) == 20
        else f"{text[:-1]}+00:00"
        for text, value in zip(msgspec.to_builtins(values), values, strict=True)
    ]


def compare(one: str, other: str) -> int:
    """Compare Decimals that are stored as text."""
    left, right = Decimal(one), Decimal(other)
    return (left > right) - (left < right)


def add_collation(conn: apsw.Connection) -> None:
    """Teach a connection to compare Decimals."""
    conn.create_collation(_COLLATION, compare)


RECORDS = RecordDialect(
    columns={
        Kind.TEXT: Columns("TEXT"),
        Kind.INTEGER: Columns("INTEGER"),
        Kind.FLOAT: Columns("REAL", from_db=float),
        Kind.BOOLEAN: Columns("BOOLEAN", from_db=bool),
        Kind.DECIMAL: Columns(f"DECIMAL_TEXT COLLATE {_COLLATION}", str, Decimal),
        Kind.UUID: Columns("UUID_TEXT", str, UUID, msgspec.to_builtins),
        Kind.DATETIME: Columns("DATETIME_TEXT", _datetime, datetime.fromisoformat, _datetimes),
        Kind.DATE: Columns("DATE_TEXT", date.isoformat, date.fromisoformat),
        Kind.TIME: Columns("TIME_TEXT", lambda value: value.isoformat(timespec="microseconds"), time.fromisoformat),
        Kind.BYTES: Columns("BLOB"),
        Kind.JSON: Columns("JSON_TEXT", lambda value: _json(value).decode(), msgspec.json.decode),
    },
    contains_text="instr({column}, ?) > 0",
    contains_json=(
        "(json_type({column}) = 'array' AND EXISTS "
        "(SELECT 1 FROM json_each({column}) WHERE type IN ('text', 'integer') AND value = ?))"
    ),
    nulls_first="",
    nulls_last="",
    same="IS",
    not_same="IS NOT",
    element=lambda value: value,
)
