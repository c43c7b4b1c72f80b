"""One model in five libraries, with every kind of field; the contract of records runs over each.

The invariant: the classes have the same fields, so a test written for one holds for all. Those whose library is not
installed are left out.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from importlib.util import find_spec
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from ambidex.core.spec import CreatedAt, DeletedAt, Id, Indexed, Unique, UpdatedAt, Version

__all__ = ["KINDS", "Colour", "Nested", "model"]


class Colour(enum.Enum):
    """A value of an enumeration."""

    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Nested:
    """A model inside a model."""

    x: int
    tags: list[str] = dataclasses.field(default_factory=list)
    at: datetime | None = None
    parts: list[Nested] = dataclasses.field(default_factory=list)


_SHARED: dict[str, Any] = {
    "key": Annotated[str, Id()],
    "name": Annotated[str, Indexed()],
    "email": Annotated[str | None, Unique()],
    "age": Annotated[int | None, Indexed()],
    "score": Annotated[float, Indexed()],
    "active": Annotated[bool, Indexed()],
    "price": Annotated[Decimal | None, Indexed()],
    "ref": Annotated[UUID | None, Indexed()],
    "seen": Annotated[datetime | None, Indexed()],
    "born": Annotated[date | None, Indexed()],
    "alarm": Annotated[time | None, Indexed()],
    "blob": bytes,
    "colour": Annotated[Colour, Indexed()],
    "size": Literal["s", "m", "l"],
    "tags": list[str],
    "counts": dict[str, int],
    "nested": Nested | None,
    "anything": Any,
    "version": Annotated[int, Version()],
    "created": Annotated[datetime | None, CreatedAt()],
    "updated": Annotated[datetime | None, UpdatedAt()],
    "deleted": Annotated[datetime | None, DeletedAt()],
}
_DEFAULTS: dict[str, Any] = {
    "key": "",
    "name": "",
    "email": None,
    "age": None,
    "score": 0.0,
    "active": True,
    "price": None,
    "ref": None,
    "seen": None,
    "born": None,
    "alarm": None,
    "blob": b"",
    "colour": Colour.RED,
    "size": "m",
    "tags": list,
    "counts": dict,
    "nested": None,
    "anything": None,
    "version": 0,
    "created": None,
    "updated": None,
    "deleted": None,
}
_TABLE = "contract_things"


def _dataclass() -> Any:
    def field(value: Any) -> Any:
        return dataclasses.field(default_factory=value) if value in (list, dict) else dataclasses.field(default=value)

    fields = [(name, kind, field(_DEFAULTS[name])) for name, kind in _SHARED.items()]
    return dataclasses.make_dataclass("Thing", fields, namespace={"__tablename__": _TABLE, "__module__": __name__})


def _msgspec() -> Any:
    def field(value: Any) -> Any:
        return msgspec.field(default_factory=value) if value in (list, dict) else value

    fields = [(name, kind, field(_DEFAULTS[name])) for name, kind in _SHARED.items()]
    return msgspec.defstruct("Thing", fields, namespace={"__tablename__": _TABLE}, module=__name__)


def _attrs() -> Any:
    import attrs

    def field(name: str, kind: Any) -> Any:
        value = _DEFAULTS[name]
        return attrs.field(factory=value, type=kind) if value in (list, dict) else attrs.field(default=value, type=kind)

    made = attrs.make_class("Thing", {name: field(name, kind) for name, kind in _SHARED.items()})
    made.__tablename__ = _TABLE  # type: ignore[attr-defined]
    return made


def _pydantic() -> Any:
    import pydantic

    def field(value: Any) -> Any:
        return pydantic.Field(default_factory=value) if value in (list, dict) else value

    fields: dict[str, Any] = {name: (kind, field(_DEFAULTS[name])) for name, kind in _SHARED.items()}
    made: Any = pydantic.create_model("Thing", **fields)
    made.__tablename__ = _TABLE
    return made


def _sqlmodel() -> Any:
    import sqlmodel

    def field(value: Any) -> Any:
        return sqlmodel.Field(default_factory=value) if value in (list, dict) else value

    space: dict[str, Any] = {name: field(value) for name, value in _DEFAULTS.items()}
    space |= {"__annotations__": dict(_SHARED), "__module__": __name__, "__tablename__": _TABLE}
    metaclass: Any = type(sqlmodel.SQLModel)
    return metaclass("Thing", (sqlmodel.SQLModel,), space)


_MAKERS: dict[str, Callable[[], Any]] = {
    "dataclass": _dataclass,
    "msgspec": _msgspec,
    "attrs": _attrs,
    "pydantic": _pydantic,
    "sqlmodel": _sqlmodel,
}
KINDS = tuple(name for name in _MAKERS if name in ("dataclass", "msgspec") or find_spec(name) is not None)


@functools.cache
def model(kind: str) -> Any:
    """Return the model class of a library."""
    return _MAKERS[kind]()
