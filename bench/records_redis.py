"""ambidex's typed repositories on Redis against redis-py's pipelines and Redis OM; run by ``--only records_redis``.

One private server on loopback serves all sides. Redis OM's own indexes need modules that plain Redis has not: it stores
the hashes and no index, where ambidex stores three indexes with them and all records or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from ambidex import BlockingRepository, UnifiedStorage
from bench.harness import FASTER, SLOWER, Bench, Samples, at_least, require, row
from bench.people import MANY, Person, batches
from bench.services import url

_SINGLE = 1_000
"""Of those that are stored one by one; their time is scaled to as many as the others."""


@contextmanager
def _both() -> Iterator[tuple[BlockingRepository[Person], Any]]:
    """Open our repository and a redis-py client on an empty database."""
    client = require("redis").Redis.from_url(url("redis"))
    client.flushdb()
    storage = UnifiedStorage(url("redis"))
    try:
        yield storage.sync.repository(Person), client
    finally:
        storage.sync.close()
        client.close()


@row(
    "records_redis.create_many-20000",
    "repository.create_many of 20,000",
    against="redis-py pipeline: HSET and a ZADD for each of three indexes",
    kind=SLOWER,
)
def create_many(bench: Bench) -> Samples:
    with _both() as (ours, client):

        def raw(batch: list[Person]) -> None:
            pipeline = client.pipeline(transaction=False)
            for person in batch:
                id_ = str(person.id)
                fields = vars(person) | {
                    "id": id_,
                    "joined": person.joined.isoformat(),
                    "tags": msgspec.json.encode(person.tags),
                }
                pipeline.hset(f"raw:{id_}", mapping=fields)
                pipeline.zadd("raw:by:id", {id_: 0})
                pipeline.zadd("raw:by:age", {id_: person.age})
                pipeline.zadd("raw:by:city", {f"{person.city}\0{id_}": 0})
            pipeline.execute()

        return bench.compare(batches(ours.create_many), batches(raw), most=1)


@row(
    "records_redis.create_many-redis-om",
    "repository.create_many of 20,000",
    against="Redis OM save() of each",
    kind=FASTER,
    target=at_least(20),
)
def create_many_redis_om(bench: Bench) -> Samples:
    with _both() as (ours, client):
        cls = _hash_model(client)

        def save(batch: list[Any]) -> None:
            for model in batch:
                model.save()

        one_by_one = batches(save, _made_by(cls), _SINGLE)
        return bench.compare(batches(ours.create_many), lambda number: one_by_one(number) * MANY / _SINGLE, most=1)


@row(
    "records_redis.create_many-redis-om-add",
    "repository.create_many of 20,000",
    against="Redis OM add(), which pipelines",
    kind=FASTER,
)
def create_many_redis_om_add(bench: Bench) -> Samples:
    with _both() as (ours, client):
        cls = _hash_model(client)
        return bench.compare(batches(ours.create_many), batches(cls.add, _made_by(cls)), most=1)


def _hash_model(client: Any) -> Any:
    """Return Redis OM's class of people; a hash holds no list, so the tags are text."""
    om = require("redis_om", "redis-om")

    class Kept(om.HashModel, index=True):  # type: ignore[misc,name-defined,call-arg]  # it has no types here
        id: UUID
        name: str
        age: int = om.Field(index=True)
        city: str = om.Field(index=True)
        joined: datetime
        tags: str

        class Meta:
            database = client

    return Kept


def _made_by(cls: Any) -> Any:
    """Return what makes such objects of a person's fields."""
    return lambda tags, **values: cls(pk=str(values["id"]), tags=",".join(tags), **values)
