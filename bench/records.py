"""ambidex's typed repositories against SQL written by hand that makes the same objects, and against the ORM's way.

Run by ``--only records``. The hand-written side decodes its rows into the same dataclass, because a list of tuples is
not what an application works with. Both databases are SQLite in WAL mode at synchronous=FULL.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from ambidex import BlockingRepository, UnifiedStorage
from bench.harness import FASTER, SLOWER, Bench, Samples, at_least, at_most, calls, require, row
from bench.people import CITIES, ROWS, Person, batches, bound, made, mapped, people

_TABLE = "CREATE TABLE person (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER NOT NULL, city TEXT NOT NULL,"
_TABLE += " joined TEXT NOT NULL, tags TEXT NOT NULL)"
_INSERT = "INSERT INTO person VALUES (?, ?, ?, ?, ?, ?)"
_LIST = "SELECT id, name, age, city, joined, tags FROM person WHERE city = ? ORDER BY age, id LIMIT 100"
_GET = "SELECT id, name, age, city, joined, tags FROM person WHERE id = ?"


@contextmanager
def _both(rows: int) -> Iterator[tuple[BlockingRepository[Person], sqlite3.Connection]]:
    with tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        storage = UnifiedStorage(f"sqlite:///{folder}/ambidex.db")
        ours = storage.sync.repository(Person)
        conn = sqlite3.connect(f"{folder}/raw.db", isolation_level=None)
        try:
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _TABLE):
                conn.execute(statement)
            for field in ("age", "city"):
                conn.execute(f"CREATE INDEX ix_{field} ON person ({field}, id)")
            if rows:
                everybody = people(rows)
                ours.create_many(everybody)
                conn.execute("BEGIN")
                conn.executemany(_INSERT, map(bound, everybody))
                conn.execute("COMMIT")
            yield ours, conn
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
    with _both(ROWS) as (ours, conn):
        found = ours.list(city=CITIES[3], order_by="age", limit=100)
        assert found == [made(values) for values in conn.execute(_LIST, (CITIES[3],))]
        return bench.compare(
            calls(lambda city: ours.list(city=city, order_by="age", limit=100), CITIES),
            calls(lambda city: [made(values) for values in conn.execute(_LIST, (city,))], CITIES),
        )


@row("records.get", "repository.get", against="sqlite3, the same SQL decoded by hand", kind=SLOWER)
def get(bench: Bench) -> Samples:
    ids = [UUID(int=number * 97 % 10_000) for number in range(1_000)]
    with _both(10_000) as (ours, conn):
        return bench.compare(
            calls(ours.get, ids),
            calls(lambda id_: made(conn.execute(_GET, (str(id_),)).fetchone()), ids),
        )


def _orm(folder: str) -> tuple[Any, Any, Callable[[], Any]]:
    """Return SQLAlchemy's engine, a mapped class and a maker of sessions."""
    sa, orm = require("sqlalchemy"), require("sqlalchemy.orm")
    cls, metadata = mapped()
    engine = sa.create_engine(f"sqlite:///{folder}/orm.db")

    def pragmas(driver: Any, _record: object) -> None:
        driver.execute("PRAGMA journal_mode = WAL")
        driver.execute("PRAGMA synchronous = FULL")

    sa.event.listen(engine, "connect", pragmas)
    metadata.create_all(engine)
    return engine, cls, orm.sessionmaker(engine)


@row(
    "records.create_many-20000",
    "repository.create_many of 20,000",
    against="SQLAlchemy session.add_all",
    kind=FASTER,
    target=at_least(5),
)
def create_many(bench: Bench) -> Samples:
    with _both(0) as (ours, _conn), tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        engine, cls, session_of = _orm(folder)

        def peer(batch: list[Any]) -> None:
            with session_of() as session:
                session.add_all(batch)
                session.commit()

        try:
            return bench.compare(batches(ours.create_many), batches(peer, cls), most=1)
        finally:
            engine.dispose()


@row("records.get-orm", "repository.get", against="SQLAlchemy session.get, a session each", kind=FASTER)
def get_orm(bench: Bench) -> Samples:
    ids = [UUID(int=number * 97 % 10_000) for number in range(1_000)]
    with _both(10_000) as (ours, _conn), tempfile.TemporaryDirectory(prefix="ambidex-bench-") as folder:
        engine, cls, session_of = _orm(folder)
        with session_of() as session:
            session.add_all([cls(**vars(person)) for person in people(10_000)])
            session.commit()

        def peer(id_: UUID) -> Any:
            with session_of() as session:
                return session.get(cls, id_)

        try:
            return bench.compare(calls(ours.get, ids), calls(peer, ids))
        finally:
            engine.dispose()
