"""ambidex's typed repositories against SQL written by hand that makes the same objects, and against the ORM's way.

Run by ``--only records``. The hand-written side decodes its rows into the same dataclass, because a list of tuples is
not what an application works with. Both databases are SQLite in WAL mode at synchronous=FULL.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Annotated, Any
from uuid import UUID

import msgspec

from ambidex import BlockingRepository, Indexed, UnifiedStorage
from bench.harness import FASTER, SLOWER, Bench, Samples, at_least, at_most, calls, require, row

_TABLE = "CREATE TABLE person (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER NOT NULL, city TEXT NOT NULL,"
_TABLE += " joined TEXT NOT NULL, tags TEXT NOT NULL)"
_INSERT = "INSERT INTO person VALUES (?, ?, ?, ?, ?, ?)"
_LIST = "SELECT id, name, age, city, joined, tags FROM person WHERE city = ? ORDER BY age, id LIMIT 100"
_GET = "SELECT id, name, age, city, joined, tags FROM person WHERE id = ?"
_ROWS = 100_000
_MANY = 20_000
_CITIES = [f"city {number}" for number in range(50)]


@dataclass
class Person:
    """What is kept."""

    id: UUID
    name: str
    age: Annotated[int, Indexed()]
    city: Annotated[str, Indexed()]
    joined: datetime
    tags: list[str]


def _person(number: int) -> Person:
    joined = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return Person(UUID(int=number), f"person {number}", number % 90, _CITIES[number % 50], joined, ["a", "b"])


def _bound(person: Person) -> tuple[Any, ...]:
    joined = person.joined.astimezone(UTC).isoformat(timespec="microseconds")
    tags = msgspec.json.encode(person.tags).decode()
    return (str(person.id), person.name, person.age, person.city, joined, tags)


def _made(values: tuple[Any, ...]) -> Person:
    id_, name, age, city, joined, tags = values
    return Person(UUID(id_), name, age, city, datetime.fromisoformat(joined), msgspec.json.decode(tags))


@contextmanager
def _both(rows: int) -> Iterator[tuple[BlockingRepository[Person], sqlite3.Connection]]:
    with tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        storage = UnifiedStorage(f"sqlite:///{folder}/ambidex.db")
        people = storage.sync.repository(Person)
        conn = sqlite3.connect(f"{folder}/raw.db", isolation_level=None)
        try:
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _TABLE):
                conn.execute(statement)
            for field in ("age", "city"):
                conn.execute(f"CREATE INDEX ix_{field} ON person ({field}, id)")
            if rows:
                made = [_person(number) for number in range(rows)]
                people.create_many(made)
                conn.execute("BEGIN")
                conn.executemany(_INSERT, map(_bound, made))
                conn.execute("COMMIT")
            yield people, conn
        finally:
            conn.close()
            storage.close()


@row(
    "records.list-100",
    "repository.list with a filter and an order, 100 of 100,000 rows",
    against="sqlite3, the same SQL decoded by hand",
    kind=SLOWER,
    target=at_most(1.5),
)
def list_100(bench: Bench) -> Samples:
    with _both(_ROWS) as (people, conn):
        ours = people.list(city=_CITIES[3], order_by="age", limit=100)
        assert ours == [_made(values) for values in conn.execute(_LIST, (_CITIES[3],))]
        return bench.compare(
            calls(lambda city: people.list(city=city, order_by="age", limit=100), _CITIES),
            calls(lambda city: [_made(values) for values in conn.execute(_LIST, (city,))], _CITIES),
        )


@row("records.get", "repository.get", against="sqlite3, the same SQL decoded by hand", kind=SLOWER)
def get(bench: Bench) -> Samples:
    ids = [UUID(int=number * 97 % 10_000) for number in range(1_000)]
    with _both(10_000) as (people, conn):
        return bench.compare(
            calls(people.get, ids),
            calls(lambda id_: _made(conn.execute(_GET, (str(id_),)).fetchone()), ids),
        )


def _orm(folder: str) -> tuple[Any, type[Any], Callable[[], Any]]:
    """Return SQLAlchemy's engine, a mapped class and a maker of sessions."""
    sa, orm = require("sqlalchemy"), require("sqlalchemy.orm")
    base = orm.declarative_base()
    space = {
        "__tablename__": "person",
        "id": sa.Column(sa.Uuid, primary_key=True),
        "name": sa.Column(sa.Text, nullable=False),
        "age": sa.Column(sa.Integer, nullable=False, index=True),
        "city": sa.Column(sa.Text, nullable=False, index=True),
        "joined": sa.Column(sa.DateTime(timezone=True), nullable=False),
        "tags": sa.Column(sa.JSON, nullable=False),
    }
    mapped = type("Person", (base,), space)
    engine = sa.create_engine(f"sqlite:///{folder}/orm.db")

    def pragmas(driver: Any, _record: object) -> None:
        driver.execute("PRAGMA journal_mode = WAL")
        driver.execute("PRAGMA synchronous = FULL")

    sa.event.listen(engine, "connect", pragmas)
    base.metadata.create_all(engine)
    return engine, mapped, orm.sessionmaker(engine)


@row(
    "records.create_many-20000",
    "repository.create_many of 20,000",
    against="SQLAlchemy session.add_all",
    kind=FASTER,
    target=at_least(5),
)
def create_many(bench: Bench) -> Samples:
    ours_from, theirs_from = count(), count()

    with _both(0) as (people, _conn), tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        engine, mapped, session_of = _orm(folder)

        def ours(_number: int) -> None:
            start = next(ours_from) * _MANY
            people.create_many([_person(start + number) for number in range(_MANY)])

        def theirs(_number: int) -> None:
            start = next(theirs_from) * _MANY
            with session_of() as session:
                session.add_all([mapped(**vars(_person(start + number))) for number in range(_MANY)])
                session.commit()

        try:
            return bench.compare(calls(ours, [0]), calls(theirs, [0]), most=1)
        finally:
            engine.dispose()


@row("records.get-orm", "repository.get", against="SQLAlchemy session.get, a session each", kind=FASTER)
def get_orm(bench: Bench) -> Samples:
    ids = [UUID(int=number * 97 % 10_000) for number in range(1_000)]
    with _both(10_000) as (people, _conn), tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        engine, mapped, session_of = _orm(folder)
        with session_of() as session:
            session.add_all([mapped(**vars(_person(number))) for number in range(10_000)])
            session.commit()

        def peer(id_: UUID) -> Any:
            with session_of() as session:
                return session.get(mapped, id_)

        try:
            return bench.compare(calls(people.get, ids), calls(peer, ids))
        finally:
            engine.dispose()
