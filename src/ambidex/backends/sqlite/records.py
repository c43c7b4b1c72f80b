"""Records on SQLite: the shared statements, and numbers for records without an id; both leaves make one.

The invariant: whoever writes is alone, so the greatest number is looked up and the next ones are given out in one
statement. In a transaction that is undone they are given out again.
"""

from __future__ import annotations

from collections.abc import Sequence

from ambidex.backends.relational.record_sql import TENANT
from ambidex.backends.relational.records import SqlRecords
from ambidex.core.ports import Space
from ambidex.core.spec import LAST_NUMBER

__all__ = ["SCHEMA", "SqliteRecords"]

SCHEMA = (
    "CREATE TABLE ambidex_last_ids (kind TEXT NOT NULL, tenant TEXT NOT NULL, last INTEGER NOT NULL,"
    " PRIMARY KEY (kind, tenant)) WITHOUT ROWID, STRICT",
)
"""The last number that was given out, so that the one of a deleted record is not given out again."""

_NUMBERS = f"""
INSERT INTO ambidex_last_ids (kind, tenant, last)
SELECT ?, ?, top + ? FROM (
    SELECT max(
        coalesce((SELECT max("{{id}}") FROM {{table}} WHERE {TENANT} = ?), 0),
        coalesce((SELECT last FROM ambidex_last_ids WHERE kind = ? AND tenant = ?), 0)
    ) AS top
) WHERE top <= {LAST_NUMBER} - ?
ON CONFLICT (kind, tenant) DO UPDATE SET last = excluded.last
RETURNING last
"""


class SqliteRecords(SqlRecords):
    """Implements :class:`ambidex.core.ports.RecordsPort`."""

    async def numbers(self, space: Space, count: int) -> Sequence[int]:
        sql, kind, tenant = await self._sql(space.spec), space.spec.name, space.tenant
        text = _NUMBERS.format(id=space.spec.id, table=sql.table)
        given = await self._leaf.write(text, (kind, tenant, count, tenant, kind, tenant, count))
        if not given:
            space.spec.check_room(LAST_NUMBER, count)
        ((last,),) = given
        return range(last - count + 1, last + 1)
