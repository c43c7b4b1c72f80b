"""A class with everything that can be marked, in its three views; the tests of the dual mechanism share it."""

import asyncio
from collections.abc import AsyncGenerator

from ambidex.core.dual import Blocking, Detecting, Store, context, operation, stream


class Shelf(Store):
    """Keeps things."""

    kind = "shelf"

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.journal: list[str] = []

    @operation
    async def put(self, thing: str, *, times: int = 1) -> int:
        """Put a thing on the shelf.

        Args:
            thing: what.
            times: how often.
        """
        self.size += times
        self.journal.append(thing)
        return self.size

    @operation
    async def put_two(self, one: str, two: str) -> list[int]:
        return [await self.put(one), await self.put(two)]

    @operation
    async def fail(self, message: str) -> None:
        raise LookupError(message)

    @operation
    async def wait(self) -> None:
        await asyncio.sleep(0)

    @operation
    async def wait_below(self) -> None:
        await self.wait()

    @stream
    async def things(self, count: int, page: int = 2) -> AsyncGenerator[list[int], None]:
        """Give numbers."""
        self.journal.append("open")
        try:
            for start in range(0, count, page):
                self.journal.append(f"page {start}")
                yield list(range(start, min(start + page, count)))
        finally:
            self.journal.append("closed")

    @stream
    async def waiting_things(self) -> AsyncGenerator[list[int], None]:
        yield [1]
        await asyncio.sleep(0)
        yield [2]

    @stream
    async def doubled(self, count: int) -> AsyncGenerator[list[int], None]:
        async for page in self.things(count).pages():
            yield [2 * item for item in page]

    @context
    async def open(self, name: str, *, swallow: bool = False) -> AsyncGenerator[str, None]:
        """Hold something open."""
        self.journal.append(f"enter {name}")
        try:
            yield name.upper()
        except LookupError:
            if not swallow:
                raise
        finally:
            self.journal.append(f"exit {name}")

    @operation
    async def put_inside(self, thing: str) -> str:
        async with self.open(thing) as name:
            await self.put(name)
            return name

    @property
    def doubled_size(self) -> int:
        return 2 * self.size

    @classmethod
    def of(cls, size: int) -> "Shelf":
        return cls(size)

    @staticmethod
    def helper() -> str:
        return "help"

    def plain(self) -> int:
        return self.size


class BlockingShelf(Blocking, Shelf):
    """Keeps things, synchronously."""


class EitherShelf(Detecting, Shelf):
    def __init__(self) -> None:
        super().__init__()
        self._aio, self._sync = Shelf(), BlockingShelf()
