"""ambidex's typed repositories on PostgreSQL against SQLAlchemy's ORM, Advanced Alchemy and SQL written by hand.

Run by ``--only records_postgres``. One private server serves all sides, each with its own table of the same columns
and indexes, as durable as PostgreSQL is by default. The asynchronous peers run over asyncpg with a pool as large as
ours, each call in a session of its own, as a request of a web service has one; SQLAlchemy's ``add_all`` runs over
psycopg.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from ambidex import BlockingRepository, UnifiedStorage
from bench.harness import FASTER, SLOWER, Bench, Samples, at_least, at_most, calls, require, row, tasks
from bench.people import CITIES, ROWS, Person, batches, mapped, people
from bench.services import url

_STORED = 10_000
_POOL = 10
_SCHEMA = "ambidex_bench"
_IDS = [UUID(int=number * 97 % _STORED) for number in range(1_000)]
_NAMES = "id, name, age, city, joined, tags"


@contextmanager
def _ours(rows: int) -> Iterator[UnifiedStorage]:
    """Open our storage, with so many people in it and in the table of the peers."""
    psycopg = require("psycopg")
    address = url("postgres")
    storage = UnifiedStorage(f"{address}{'&' if '?' in address else '?'}schema={_SCHEMA}")
    try:
        with psycopg.connect(url("postgres"), autocommit=True) as conn:
            conn.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
            conn.execute("DROP TABLE IF EXISTS person")
            repository = storage.sync.repository(Person)
            repository.list(limit=1)
            _engine().dispose()
            if rows:
                repository.create_many(people(rows))
                conn.execute(f"INSERT INTO person ({_NAMES}) SELECT {_NAMES} FROM {_SCHEMA}.person")
            conn.execute("ANALYZE")
        yield storage
    finally:
        storage.sync.close()


def _engine() -> Any:
    """Return SQLAlchemy's blocking engine; its table exists."""
    sa = require("sqlalchemy")
    engine = sa.create_engine(url("postgres").replace("postgresql://", "postgresql+psycopg://"), pool_size=_POOL)
    mapped()[1].create_all(engine)
    return engine


@contextmanager
def _loop(rows: int) -> Iterator[tuple[asyncio.Runner, UnifiedStorage]]:
    """Open a loop and our storage, which is closed on that loop."""
    with _ours(rows) as storage, asyncio.Runner() as runner:
        try:
            yield runner, storage
        finally:
            runner.run(storage.aio.close())


Get = Callable[[UUID], Awaitable[object]]


@contextmanager
def _sqlalchemy(runner: asyncio.Runner) -> Iterator[tuple[Any, Any]]:
    """Open SQLAlchemy's asynchronous side: a maker of sessions, and the mapped class."""
    require("asyncpg")
    aio = require("sqlalchemy.ext.asyncio")
    address = url("postgres").replace("postgresql://", "postgresql+asyncpg://")
    engine = aio.create_async_engine(address, pool_size=_POOL, max_overflow=0)
    try:
        yield aio.async_sessionmaker(engine), mapped()[0]
    finally:
        runner.run(engine.dispose())


def _session_get(session_of: Any, cls: Any) -> Get:
    async def get(id_: UUID) -> object:
        async with session_of() as session:
            return await session.get(cls, id_)

    return get


def _repository_get(session_of: Any, cls: Any) -> Get:
    base = require("advanced_alchemy.repository", "advanced-alchemy").SQLAlchemyAsyncRepository
    kind = type("People", (base,), {"model_type": cls})

    async def get(id_: UUID) -> object:
        async with session_of() as session:
            return await kind(session=session).get(id_)

    return get


def _get(bench: Bench, peer: Callable[[Any, Any], Get], in_flight: int) -> Samples:
    with _loop(_STORED) as (runner, storage), _sqlalchemy(runner) as (session_of, cls):
        ours, theirs = storage.aio.repository(Person).get, peer(session_of, cls)
        found: Any = runner.run(_awaited(ours(_IDS[1])))
        other: Any = runner.run(_awaited(theirs(_IDS[1])))
        assert all(getattr(other, name) == value for name, value in vars(found).items())
        return bench.compare(
            tasks(runner, ours, _IDS, in_flight=in_flight),
            tasks(runner, theirs, _IDS, in_flight=in_flight),
            least=1 if in_flight == 1 else 4 * in_flight,
        )


async def _awaited(call: Awaitable[object]) -> object:
    return await call


@row(
    "records_postgres.get-async-1",
    "await repository.get, one at a time",
    against="SQLAlchemy async session.get, a session each",
    kind=FASTER,
    target=at_least(3),
)
def get_async_1(bench: Bench) -> Samples:
    return _get(bench, _session_get, 1)


@row(
    "records_postgres.get-async-128",
    "await repository.get, 128 in flight",
    against="SQLAlchemy async session.get, a session each",
    kind=FASTER,
    target=at_least(15),
)
def get_async_128(bench: Bench) -> Samples:
    return _get(bench, _session_get, 128)


@row(
    "records_postgres.get-advanced-alchemy-1",
    "await repository.get, one at a time",
    against="Advanced Alchemy repository.get, a session each",
    kind=FASTER,
    target=at_least(3),
)
def get_advanced_alchemy_1(bench: Bench) -> Samples:
    return _get(bench, _repository_get, 1)


@row(
    "records_postgres.get-advanced-alchemy-128",
    "await repository.get, 128 in flight",
    against="Advanced Alchemy repository.get, a session each",
    kind=FASTER,
)
def get_advanced_alchemy_128(bench: Bench) -> Samples:
    return _get(bench, _repository_get, 128)


@row(
    "records_postgres.list-100",
    "repository.list with a filter and an order, 100 of 100,000 rows",
    against="psycopg, the same SQL decoded by hand",
    kind=SLOWER,
    target=at_most(1.5),
)
def list_100(bench: Bench) -> Samples:
    sql = f"SELECT {_NAMES} FROM person WHERE city = %s ORDER BY age, id LIMIT 100"
    with _ours(ROWS) as storage, _psycopg() as conn:
        repository: BlockingRepository[Person] = storage.sync.repository(Person)

        def ours(city: str) -> list[Person]:
            return repository.list(city=city, order_by="age", limit=100)

        def raw(city: str) -> list[Person]:
            return [Person(*values) for values in conn.execute(sql, (city,), prepare=True).fetchall()]

        assert ours(CITIES[3]) == raw(CITIES[3])
        return bench.compare(calls(ours, CITIES), calls(raw, CITIES))


@contextmanager
def _psycopg() -> Iterator[Any]:
    with require("psycopg").connect(url("postgres"), autocommit=True) as conn:
        yield conn


@row(
    "records_postgres.create_many-20000",
    "repository.create_many of 20,000",
    against="SQLAlchemy session.add_all",
    kind=FASTER,
    target=at_least(5),
)
def create_many(bench: Bench) -> Samples:
    orm = require("sqlalchemy.orm")
    with _ours(0) as storage:
        engine, (cls, _) = _engine(), mapped()

        def peer(batch: list[Any]) -> None:
            with orm.Session(engine) as session:
                session.add_all(batch)
                session.commit()

        try:
            return bench.compare(batches(storage.sync.repository(Person).create_many), batches(peer, cls), most=1)
        finally:
            engine.dispose()
