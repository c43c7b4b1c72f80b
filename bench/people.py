"""The records that repositories are measured with, and what the peers keep them in; the modules of rows import it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Annotated, Any
from uuid import UUID

import msgspec

from ambidex import Indexed
from bench.harness import Side, require

__all__ = ["CITIES", "MANY", "ROWS", "Person", "batches", "bound", "made", "mapped", "people"]

ROWS = 100_000
MANY = 20_000
CITIES = [f"city {number}" for number in range(50)]


@dataclass
class Person:
    """What is kept."""

    id: UUID
    name: str
    age: Annotated[int, Indexed()]
    city: Annotated[str, Indexed()]
    joined: datetime
    tags: list[str]


def people(number: int, start: int = 0) -> list[Person]:
    """Return so many people, the first with the id ``start``."""
    return [_person(id_) for id_ in range(start, start + number)]


def _person(number: int) -> Person:
    joined = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return Person(UUID(int=number), f"person {number}", number % 90, CITIES[number % 50], joined, ["a", "b"])


def bound(person: Person) -> tuple[Any, ...]:
    """Return a person as values that SQLite keeps."""
    joined = person.joined.astimezone(UTC).isoformat(timespec="microseconds")
    tags = msgspec.json.encode(person.tags).decode()
    return (str(person.id), person.name, person.age, person.city, joined, tags)


def made(values: tuple[Any, ...]) -> Person:
    """Return the person behind a row of SQLite."""
    id_, name, age, city, joined, tags = values
    return Person(UUID(id_), name, age, city, datetime.fromisoformat(joined), msgspec.json.decode(tags))


def batches(store: Callable[[list[Any]], object], cls: Any = Person, number: int = MANY) -> Side:
    """Return the side that makes so many objects of a class and stores them, at a time.

    Making them belongs to the way: an ORM's objects are not as cheap as a dataclass's.
    """
    rounds = count()

    def side(_number: int) -> float:
        batch = list(map(vars, people(number, next(rounds) * number)))
        start = time.perf_counter()
        store([cls(**values) for values in batch])
        return time.perf_counter() - start

    return side


def mapped() -> tuple[Any, Any]:
    """Return SQLAlchemy's class for the table ``person``, and its metadata."""
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
    return type("Person", (base,), space), base.metadata
