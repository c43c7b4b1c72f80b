"""Columns of values are written as each value alone is."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from ambidex.backends.sqlite.columns import RECORDS
from ambidex.core.spec import Kind

_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))])
_MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=_ZONES)  # noqa: DTZ001  # given a zone


@given(st.lists(st.none() | _MOMENTS))
@example([datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)])
@example([datetime(2024, 1, 1, 0, 0, 0, 1, UTC), datetime(2024, 1, 1, 0, 0, 0, 100_000, UTC), None])
def test_moments(values: list[datetime | None]) -> None:
    column = RECORDS.columns[Kind.DATETIME]
    assert column.to_db is not None
    alone = [None if value is None else column.to_db(value) for value in values]
    assert column.all_to_db(values) == alone
    assert {len(text) for text in alone if text is not None} <= {32}


@given(st.lists(st.none() | st.uuids()))
@example([UUID(int=0), UUID(int=2**128 - 1)])
def test_uuids(values: list[UUID | None]) -> None:
    assert RECORDS.columns[Kind.UUID].all_to_db(values) == [None if v is None else str(v) for v in values]
