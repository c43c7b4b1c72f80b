"""What a repository does around its records: tables that change with the model, views, user classes, transactions."""

from __future__ import annotations

import asyncio
import json
from dataclasses import field, make_dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest

from ambidex import (
    Blocking,
    BlockingRepository,
    DeletedAt,
    Id,
    Indexed,
    Repository,
    UnifiedStorage,
    Unique,
    operation,
)
from ambidex.errors import AlreadyExists, ConfigurationError, UnsupportedValue
from ambidex.testing.record_models import model


def _kind(**fields: Any) -> type[Any]:
    """Make a class ``Item`` with these annotations; a pair is an annotation with a default."""
    made = [
        (name, kind[0], field(default=kind[1])) if isinstance(kind, tuple) else (name, kind)
        for name, kind in fields.items()
    ]
    return make_dataclass("Item", made, kw_only=True)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data.db"


def _put(url: str, cls: type[Any], **values: Any) -> Any:
    with UnifiedStorage(url) as storage:
        return storage.repository(cls).upsert(cls(**values))


def test_a_field_with_a_default_is_added_to_the_table(url: str) -> None:
    _put(url, _kind(id=str), id="a")
    wider = _kind(id=str, count=(int, 7), note=(str | None, None), tag=(Annotated[str, Indexed()], "x"))
    with UnifiedStorage(url) as storage:
        items = storage.repository(wider)
        assert items.get("a") == wider(id="a", count=7, note=None, tag="x")
        items.create(wider(id="b", count=1, tag="y"))
        assert [item.id for item in items.list(tag="y")] == ["b"]
        assert "ix_item_tag" in items.explain(tag="y")
    assert _put(url, _kind(id=str), id="c").id == "c"  # an older process still writes


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"x": int}, {"x": int, "y": int}, r"item\.y is new and has no default"),
        ({"x": int}, {"x": str}, r"item\.x is INTEGER in the database, and the model wants TEXT"),
        ({"x": str}, {"x": datetime}, r"item\.x is TEXT in the database, and the model wants DATETIME_TEXT"),
        ({"x": Decimal}, {"x": list[str]}, r"item\.x is DECIMAL_TEXT in the database, and the model wants JSON_TEXT"),
        ({"x": int}, {"x": int | None}, r"item\.x may be None in the model"),
        ({"x": int}, {}, r"item\.x is no field of the model any more"),
        ({"x": Annotated[int, Unique()]}, {"x": int}, r"item\.x is unique in the database"),
        ({"x": str}, {"x": Annotated[str, Id()]}, r"item\.id is the id in the database"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_model_that_changed_incompatibly_is_refused(
    url: str, before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    values = {"x": {int: 1, str: "1", Decimal: Decimal(1)}.get(before["x"], 1)}
    _put(url, _kind(id=str, **before), id="a", **values)
    cls = _kind(id=str, **after)
    with UnifiedStorage(url) as storage, pytest.raises(ConfigurationError, match=message) as caught:
        storage.repository(cls).get("a")
    assert "Alembic" in str(caught.value)


def test_unique_over_equal_values_is_refused(url: str) -> None:
    plain = _kind(id=str, x=int)
    _put(url, plain, id="a", x=1)
    _put(url, plain, id="b", x=1)
    with UnifiedStorage(url) as storage, pytest.raises(ConfigurationError, match="equal values"):
        storage.repository(_kind(id=str, x=Annotated[int, Unique()])).get("a")


def test_a_foreign_table_is_left_alone(url: str, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "data.db") as conn:
        conn.execute("CREATE TABLE item (id TEXT PRIMARY KEY)")
    conn.close()
    with UnifiedStorage(url) as storage, pytest.raises(ConfigurationError, match="was not made by ambidex"):
        storage.repository(_kind(id=str)).get("a")


def test_a_private_database_is_made_again_after_a_close() -> None:
    storage = UnifiedStorage("sqlite:///:memory:")
    cls = _kind(id=str)
    for _ in range(2):
        storage.sync.repository(cls).create(cls(id="a"))
        storage.close()


def test_json_serializer_writes_nested_data(url: str) -> None:
    cls = _kind(id=str, data=(Any, None))
    with pytest.raises(UnsupportedValue, match=r"Item\.data"):
        _put(url, cls, id="a", data={"z": 1 + 2j})
    storage = UnifiedStorage(url, json_serializer=lambda value: json.dumps(value, default=str))
    assert storage.sync.repository(cls).create(cls(id="a", data={"z": 1 + 2j})).data == {"z": "(1+2j)"}
    storage.close()


def _placed(module: str, table: str | None = None, **fields: Any) -> type[Any]:
    named = {} if table is None else {"__tablename__": table}
    made = make_dataclass("Order", [("id", str), *fields.items()], namespace=named)
    made.__module__ = module  # from Python 3.12 on make_dataclass names the module that calls it
    return made


def test_a_repository_is_made_from_a_storage() -> None:
    wrong: Any = "memory://"
    with pytest.raises(ConfigurationError, match=r"from a storage, .* not from a str"):
        Things(wrong)
    with pytest.raises(ConfigurationError, match="needs a model"):
        Repository(UnifiedStorage("memory://"))


def test_two_classes_of_one_name_do_not_mix_their_records() -> None:
    storage = UnifiedStorage("memory://")
    storage.repository(_placed("shop", total=int))
    message = (
        r"^army\.Order and shop\.Order would both be kept as 'order', and '{}' does not fit both; set __tablename__"
    )
    for misfit, fields in (("total", {"total": str}), ("rank", {"rank": str, "total": int}), ("total", {})):
        with pytest.raises(ConfigurationError, match=message.format(misfit)):
            storage.repository(_placed("army", **fields))
        with pytest.raises(ConfigurationError, match="army"):
            storage.tenant("x").aio.repository(_placed("army", **fields))
    storage.repository(_placed("army", "army_orders", rank=str))
    storage.repository(_placed("army", "order", rank=str))  # somebody means it
    storage.repository(_placed("army", total=int, note=(str | None)))  # fits
    storage.repository(_placed("shop", total=str))  # the same one, defined anew
    UnifiedStorage("memory://").repository(_placed("army", rank=str))


class Things(Repository[Any]):
    """A user's own repository, written once."""

    _declared = model("dataclass")

    @operation
    async def rename(self, key: str, name: str) -> str:
        thing = await self.patch(key, name=name)
        return str(thing.name)

    @operation
    async def hidden(self) -> list[str]:
        return [thing.key async for thing in self.with_deleted().iterate(deleted__is_null=False)]


class BlockingThings(Blocking, Things):
    pass


def test_a_users_class_works_in_both_modes(url: str) -> None:
    storage = UnifiedStorage(url)
    things = BlockingThings(storage)
    things.create(model("dataclass")(key="k"))
    assert things.rename("k", "new") == "new"
    things.delete("k")
    assert things.hidden() == ["k"]

    async def run() -> None:
        other = Things(storage)
        assert await other.hidden() == ["k"]
        assert type(other.with_deleted()) is Things

    asyncio.run(run())
    storage.close()


def test_the_detecting_view(url: str) -> None:
    storage = UnifiedStorage(url)
    things = storage.repository(model("dataclass"))
    assert things.create(model("dataclass")(key="k")).key == "k"
    things.delete("k")
    assert things.with_deleted().get("k").key == "k"

    async def run() -> None:
        assert await things.get("k") is None
        assert (await things.with_deleted().get("k")).key == "k"

    asyncio.run(run())
    storage.close()


def test_a_soft_deleted_id_stays_taken(url: str) -> None:
    cls = _kind(id=str, gone=(Annotated[datetime | None, DeletedAt()], None))
    with UnifiedStorage(url) as storage:
        items: BlockingRepository[Any] = storage.repository(cls)
        items.create(cls(id="a"))
        items.delete("a")
        with pytest.raises(AlreadyExists):
            items.create(cls(id="a"))
        assert items.upsert(cls(id="a")).gone is None
        assert items.get("a") is not None


def test_a_repository_without_a_model_says_so() -> None:
    with pytest.raises(ConfigurationError, match="needs a model"):
        Repository(UnifiedStorage("memory://"))
