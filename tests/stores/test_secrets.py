"""The key of cursors is made once, also inside a unit of work, wherever the records lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest

from ambidex import UnifiedStorage
from ambidex.core.spec import Id
from tests.stores.conftest import Run, in_units


@dataclass
class Place:
    id: Annotated[int, Id()]


@pytest.fixture(params=["file", "redis", "memory", "same"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where the records lie."""
    if request.param == "same":
        return {}
    if request.param == "redis":
        return {"records": f"{request.getfixturevalue('redis_url')}&prefix={uuid4().hex}:"}
    return {"records": "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/records.db"}


@pytest.fixture
def storage(places: dict[str, Any], tmp_path: Path) -> Iterator[UnifiedStorage]:
    made = UnifiedStorage(f"sqlite:///{tmp_path}/main.db", **places)
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, storage: UnifiedStorage) -> Run:
    return in_units(request.param, storage)


async def _second(repository: Any, cursor: str | None) -> list[int]:
    return [place.id for place in (await repository.page(size=2, cursor=cursor)).items]


def test_pages_inside_a_unit_give_cursors_that_stay_good(run: Run, places: dict[str, Any], tmp_path: Path) -> None:
    async def body(storage: Any) -> str:
        repository = storage.repository(Place)
        await repository.create_many([Place(number) for number in range(4)])
        async with storage.transaction():
            page = await repository.page(size=2)
            assert await _second(repository, page.next) == [2, 3]
        assert await _second(repository, page.next) == [2, 3]
        assert page.next is not None
        return str(page.next)

    cursor = run(body)
    if places.get("records") == "memory://":
        return
    with UnifiedStorage(f"sqlite:///{tmp_path}/main.db", **places) as other:  # as another process
        assert [place.id for place in other.repository(Place).page(size=2, cursor=cursor).items] == [2, 3]


def test_a_key_made_elsewhere_survives_a_unit_that_is_undone(run: Run, places: dict[str, Any]) -> None:
    if not places:
        pytest.skip("in one backend the key is undone with the unit that made it, and the next one makes another")

    async def body(storage: Any) -> None:
        repository = storage.repository(Place)
        await repository.create_many([Place(number) for number in range(4)])
        with pytest.raises(ZeroDivisionError):
            async with storage.transaction():
                page = await repository.page(size=2)
                raise ZeroDivisionError
        assert await _second(repository, page.next) == [2, 3]

    run(body)
