"""The abstract repositories: what an application implements itself, and what ambidex's own are, too."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ambidex import BaseRepository, BaseSyncRepository, UnifiedStorage


@dataclass
class Word:
    text: str
    id: str = ""


class OwnRepository(BaseRepository[Word]):
    def __init__(self) -> None:
        self._words: dict[str, Word] = {}

    async def get(self, id: str) -> Word | None:  # noqa: A002  # as in the base
        return self._words.get(id)

    async def create(self, model: Word) -> Word:
        self._words[model.id] = model
        return model

    async def update(self, model: Word) -> Word:
        return await self.create(model)

    async def delete(self, id: str) -> bool:  # noqa: A002  # as in the base
        return self._words.pop(id, None) is not None

    async def list(self, /, **filters: Any) -> list[Word]:
        return [word for word in self._words.values() if filters.items() <= vars(word).items()]


async def _use(words: BaseRepository[Word]) -> list[Word]:
    """Make, change and find, through the abstract type alone."""
    made = await words.create(Word("swan", "1"))
    await words.create(Word("goose", "2"))
    await words.update(replace(made, text="whooper"))
    assert await words.delete("2")
    assert await words.get("2") is None
    return await words.list(text="whooper")


def test_one_of_ones_own_and_ambidexs_serve_the_same_caller() -> None:
    expected = [Word("whooper", "1")]
    assert asyncio.run(_use(OwnRepository())) == expected
    assert asyncio.run(_use(UnifiedStorage("memory://").aio.repository(Word))) == expected


def test_the_synchronous_one() -> None:
    words: BaseSyncRepository[Word] = UnifiedStorage("memory://").sync.repository(Word)
    words.create(Word("swan", "1"))
    assert words.list(text="swan") == [Word("swan", "1")]
    assert isinstance(words, BaseSyncRepository)


@pytest.mark.parametrize("base", [BaseRepository, BaseSyncRepository])
def test_they_are_abstract(base: Any) -> None:
    class Half(base):  # type: ignore[misc]
        def get(self, id: str) -> None:  # noqa: A002  # as in the base
            """Only one of the five."""

    for kind in (base, Half):
        with pytest.raises(TypeError, match=r"abstract|Protocols cannot be instantiated"):
            kind()
