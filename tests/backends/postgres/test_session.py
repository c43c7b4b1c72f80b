"""Arguments that are made while the server works: all or nothing is stored, whatever happens while they are made."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from ambidex import UnifiedStorage
from ambidex.backends.postgres.wire import Later
from ambidex.core.dual import drive
from ambidex.core.ports import Capability
from ambidex.errors import AlreadyExists

INSERT = "INSERT INTO made (id) VALUES (?)"


@dataclass
class Thing:
    id: UUID
    name: str


def _things(start: int, stop: int) -> list[Thing]:
    return [Thing(UUID(int=number), f"thing {number}") for number in range(start, stop)]


async def _stored(leaf: Any, last: Callable[[], Sequence[Any]], error: type[Exception] | None) -> list[int]:
    """Store three rows, the last of which is made by ``last``, and return what is there afterwards."""
    await leaf.script([("DROP TABLE IF EXISTS made", ()), ("CREATE TABLE made (id bigint PRIMARY KEY)", ())])
    statements = [(INSERT, (1,)), (INSERT, Later(lambda: (2,))), (INSERT, Later(last))]
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        await leaf.script(statements)
    return [id_ for (id_,) in await leaf.rows("SELECT id FROM made ORDER BY id")]


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize(
    ("last", "error", "there"),
    [(lambda: (3,), None, [1, 2, 3]), (lambda: 1 / 0, ZeroDivisionError, []), (lambda: (1,), AlreadyExists, [])],
)
def test_what_is_made_late_is_stored_with_the_rest_or_nothing_is(
    storage: UnifiedStorage,
    blocking: bool,
    last: Callable[[], Sequence[Any]],
    error: type[Exception] | None,
    there: list[int],
) -> None:
    leaf = storage._core.leaf(Capability.KV, blocking)
    if blocking:
        assert drive(_stored(leaf, last, error)) == there
        return

    async def main() -> list[int]:
        try:
            return await _stored(leaf, last, error)
        finally:
            await storage.aio.close()

    assert asyncio.run(main()) == there


def test_one_that_exists_among_the_last_of_many_undoes_all(storage: UnifiedStorage) -> None:
    repository = storage.sync.repository(Thing)
    repository.create(_things(6_500, 6_501)[0])
    with pytest.raises(AlreadyExists):
        repository.create_many(_things(0, 7_000))
    assert repository.count() == 1
    made = repository.create_many(_things(0, 6_500))
    assert repository.get(UUID(int=4_321)) == made[4_321] == _things(4_321, 4_322)[0]
    assert repository.count() == 6_501
