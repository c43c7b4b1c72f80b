"""A client that has no synchronous form, used from both modes through `ambidex.bridge`. Run it by its path."""

import asyncio

import aiosqlite

from ambidex import Blocking, operation
from ambidex.bridge import Runner, async_only


class Notes:
    """Written once; `Runner.run` calls the client where it lives."""

    def __init__(self, client: Runner[aiosqlite.Connection]) -> None:
        self._client = client

    @operation
    async def add(self, text: str) -> int:
        """Store a note and return how many there are."""
        await self._client.run(lambda database: database.execute("INSERT INTO notes VALUES (?)", (text,)))
        (row,) = await self._client.run(lambda database: database.execute_fetchall("SELECT count(*) FROM notes"))
        return int(row[0])


class BlockingNotes(Blocking, Notes):
    """The same, for synchronous code."""


async def connect() -> aiosqlite.Connection:
    """Make the client, on the loop that it will belong to."""
    database = await aiosqlite.connect(":memory:")
    await database.execute("CREATE TABLE notes (text)")
    return database


def synchronous(client: Runner[aiosqlite.Connection]) -> None:
    """No event loop runs here: the client lives on the bridge's own."""
    notes = BlockingNotes(client)
    notes.add("one")
    print(notes.add("two"))  # -> 2


async def asynchronous(client: Runner[aiosqlite.Connection]) -> None:
    """Here the client lives on the caller's loop, as always."""
    print(await Notes(client).add("three"))  # -> 1
    await client.close()


if __name__ == "__main__":
    blocking, aio = async_only(connect, aiosqlite.Connection.close)
    synchronous(blocking)
    asyncio.run(asynchronous(aio))
