"""Numbers that PostgreSQL gives to records: transactions at once do not wait for each other or fail because of them."""

import asyncio
from dataclasses import dataclass

import psycopg

from ambidex import UnifiedStorage


@dataclass
class Ticket:
    name: str
    id: int | None = None


def test_units_at_once_create_numbered_records(storage: UnifiedStorage) -> None:
    """A counter in a row would hold up the second until the first ends, and then fail it."""

    async def main() -> None:
        tickets = storage.aio.repository(Ticket)
        await tickets.create(Ticket("first"))
        inside = asyncio.Barrier(4)

        async def unit(name: str) -> int | None:
            async with storage.aio.transaction():
                made = await tickets.create(Ticket(name))
                await inside.wait()
                return made.id

        async with asyncio.timeout(20):
            ids = await asyncio.gather(*(unit(f"unit {number}") for number in range(4)))
        assert len(set(ids)) == 4
        assert await tickets.count() == 5
        await storage.aio.close()

    asyncio.run(main())


def test_numbers_of_a_table_whose_model_gave_them_itself(storage: UnifiedStorage, place: str) -> None:
    """The sequence is made when the model begins to allow None, and goes with the table."""

    @dataclass
    class Given:
        name: str
        id: int

        __tablename__ = "grown_number"

    @dataclass
    class Grown:
        name: str
        id: int | None = None

        __tablename__ = "grown_number"

    storage.sync.repository(Given).create_many([Given(str(number), number) for number in range(1, 4)])
    assert storage.sync.repository(Grown).create(Grown("4")).id == 4
    storage.close()
    with psycopg.connect(place.partition("?")[0], autocommit=True) as connection:
        (schema,) = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'grown_number'").fetchone()  # type: ignore[misc]
        connection.execute(f'DROP TABLE "{schema}".grown_number')
        left = connection.execute("SELECT 1 FROM pg_sequences WHERE sequencename LIKE 'grown%'").fetchall()
    assert left == []


def test_many_find_ids_in_the_way_at_once(storage: UnifiedStorage) -> None:
    """Near ones are passed over, and a sequence that is far behind is raised, by one at a time."""

    async def main() -> None:
        tickets = storage.aio.repository(Ticket)
        ids: list[int] = []
        for high in (1_000, 50_000, 2**40):
            await tickets.create(Ticket("high", high))
            made = await asyncio.gather(*(tickets.create(Ticket(str(number))) for number in range(30)))
            ids = [one.id or 0 for one in made]
            assert len(set(ids)) == 30
            assert min(ids) > high
        assert max(ids) <= 2**40 + 30  # not a number is lost where the sequence was raised
        await storage.aio.close()

    asyncio.run(main())
