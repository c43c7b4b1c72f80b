"""Model classes become specs, or are refused with the field's name and the remedy."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
import sqlmodel

from ambidex import CreatedAt, DeletedAt, Id, Indexed, Unique, UpdatedAt, Version
from ambidex.core.models import Kind, model_of
from ambidex.errors import ConfigurationError, Corrupted, UnsupportedValue

T = TypeVar("T")
UserId = NewType("UserId", int)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Mood(enum.StrEnum):
    GOOD = "good"


@dataclasses.dataclass
class Base:
    id: UserId
    note: str | None = None


@dataclasses.dataclass
class Derived(Base):
    level: Level = Level.LOW
    mood: Mood = Mood.GOOD
    choice: Literal["a", "b", None] = None  # noqa: PYI061  # as some write it
    either: int | str = 0
    pairs: dict[int, str] = dataclasses.field(default_factory=dict)
    when: list[datetime] = dataclasses.field(default_factory=list)
    took: timedelta = timedelta(0)
    unique: set[int] = dataclasses.field(default_factory=set)
    point: tuple[float, float] = (0.0, 0.0)
    amounts: dict[str, Decimal] = dataclasses.field(default_factory=dict)
    later: Tree | None = None


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    id: str
    value: T


class PydanticBox(pydantic.BaseModel, Generic[T]):
    id: str
    value: T


class Hero(sqlmodel.SQLModel, table=True):
    id: UUID | None = sqlmodel.Field(default=None, primary_key=True)
    name: str = sqlmodel.Field(index=True)
    email: str = sqlmodel.Field(unique=True)
    level: Level = Level.LOW


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    id: str
    level: Level = pydantic.Field(default=Level.LOW, alias="lvl")
    website: pydantic.HttpUrl | None = None
    tags: tuple[str, ...] = ()

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.id.upper()


@attrs.define
class Point:
    id: str
    _hidden: int = 0


def _kinds(cls: type[Any]) -> dict[str, Kind]:
    return {field.name: field.kind for field in model_of(cls).spec.fields}


def _round_trip(obj: Any, cls: Any = None) -> None:
    model = model_of(cls or type(obj))
    row = model.to_row(obj)
    assert set(row) == {field.name for field in model.spec.fields}
    assert model.from_row(row) == obj


def test_inheritance_enums_literals_and_unions() -> None:
    kinds = _kinds(Derived)
    assert kinds["id"] is Kind.INTEGER
    assert (kinds["level"], kinds["mood"], kinds["choice"]) == (Kind.INTEGER, Kind.TEXT, Kind.TEXT)
    assert (kinds["either"], kinds["took"], kinds["point"]) == (Kind.JSON, Kind.JSON, Kind.JSON)
    assert model_of(Derived).spec.name == "derived"
    _round_trip(
        Derived(
            UserId(5),
            None,
            Level.HIGH,
            Mood.GOOD,
            "b",
            "text",
            {1: "a"},
            [datetime.fromisoformat("2024-01-01T00:00:00+02:00")],
            timedelta(days=1, microseconds=5),
            {3, 1, 2},
            (1.0, 2.5),
            {"a": Decimal("1.10")},
            Tree(1, [Tree(2)]),
        )
    )


def test_generic_models_by_their_arguments() -> None:
    assert _kinds(Box[int]) == {"id": Kind.TEXT, "value": Kind.INTEGER}
    assert model_of(Box[int]).spec.name == "box_int"
    _round_trip(Box("a", 5), Box[int])
    assert _kinds(PydanticBox[date])["value"] is Kind.DATE
    assert model_of(PydanticBox[date]).spec.name == "pydantic_box_date"
    _round_trip(PydanticBox[date](id="a", value=date(2024, 1, 1)))
    with pytest.raises(ConfigurationError, match=r"Box\.value"):
        model_of(Box)


def test_sqlmodel_with_its_own_words() -> None:
    spec = model_of(Hero).spec
    assert (spec.name, spec.id) == ("hero", "id")
    assert [(f.name, f.indexed, f.unique) for f in spec.fields if f.indexed] == [
        ("name", True, False),
        ("email", True, True),
    ]
    _round_trip(Hero(id=UUID(int=1), name="x", email="e", level=Level.HIGH))


def test_a_strict_frozen_model_with_an_alias_and_a_computed_field() -> None:
    _round_trip(Strict(id="a", lvl=Level.HIGH, website=pydantic.HttpUrl("https://example.org/x"), tags=("a",)))
    model = model_of(Strict)
    assert model.changes({"level": Level.HIGH}) == {"level": 2}
    with pytest.raises(UnsupportedValue, match=r"Strict\.level"):
        model.changes({"level": 7})


def test_attrs_with_a_private_field() -> None:
    _round_trip(Point("a", 5))


def test_none_means_the_default_where_the_field_was_added_later() -> None:
    model = model_of(Derived)
    row = model.to_row(Derived(UserId(1))) | {"level": None, "pairs": None, "note": None}
    assert model.from_row(row) == Derived(UserId(1))


def test_a_table_named_by_a_base_class_is_not_shared() -> None:
    class Parent(msgspec.Struct):
        __tablename__ = "parents"
        id: str

    class Child(Parent):
        extra: int = 0

    assert (model_of(Parent).spec.name, model_of(Child).spec.name) == ("parents", "child")


def test_a_row_that_does_not_fit_names_the_field_and_not_the_value() -> None:
    with pytest.raises(Corrupted, match="level") as caught:
        model_of(Hero).from_row({"id": None, "name": "x", "email": "sesame", "level": "sesame"})
    assert "sesame" not in str(caught.value)


def test_an_object_that_does_not_fit_its_own_class_is_refused() -> None:
    wrong: Any = Derived(UserId(1), when=["no date"])  # type: ignore[list-item]
    model = model_of(Derived)
    with pytest.raises(UnsupportedValue, match="when"):
        model.checked(model.to_row(wrong))
    with pytest.raises(UnsupportedValue, match="Derived is needed"):
        model.to_row(Base(UserId(1)))  # type: ignore[arg-type]


class Renamed(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    first_name: str
    other: Annotated[int, Indexed()] = msgspec.field(default=3, name="else")
    id: str = ""


class Listed(msgspec.Struct, array_like=True):
    name: str
    took: timedelta = timedelta(seconds=5)
    tags: list[str] = msgspec.field(default_factory=list)
    id: str = ""


class Tagged(msgspec.Struct, array_like=True, tag="t", rename=str.upper):
    name: str
    id: str = ""


@pytest.mark.parametrize(
    "given",
    [Renamed("Ada", 4, "a"), Listed("Ada", timedelta(1), ["x"], "a"), Tagged("Ada", "a")],
    ids=lambda given: type(given).__name__,
)
def test_a_struct_that_is_written_in_another_form(given: Any) -> None:
    _round_trip(given)
    model = model_of(type(given))
    assert model.all_checked(model.to_rows([given, given])) == [given, given]
    assert model.spec.field("id").required is False


def test_a_field_that_was_added_later_to_a_struct_of_another_form() -> None:
    listed = model_of(Listed)
    row = listed.to_row(Listed("Ada", id="a")) | {"took": None, "tags": None}
    assert listed.from_row(row) == Listed("Ada", id="a")
    renamed = model_of(Renamed)
    assert renamed.from_row({"first_name": "Ada", "other": None, "id": "a"}) == Renamed("Ada", id="a")


def test_what_a_pydantic_model_takes_beyond_its_fields_is_refused() -> None:
    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        id: str = ""

    model = model_of(Open)
    assert model.checked(model.to_row(Open(id="a"))) == Open(id="a")
    more: Any = Open.model_validate({"id": "a", "colour": "red"})
    with pytest.raises(UnsupportedValue, match="'colour', which it has no field for"):
        model.to_row(more)
    with pytest.raises(UnsupportedValue, match="'colour', which it has no field for"):
        model.to_rows([Open(id="b"), more])


def test_a_subclass_is_taken_where_nothing_of_it_is_lost() -> None:
    class Same(Base):
        def shout(self) -> str:
            return "!"

    model = model_of(Base)
    for _again in range(2):
        assert model.to_row(Same(UserId(1), "a")) == {"id": 1, "note": "a"}
        assert model.to_rows([Base(UserId(2)), Same(UserId(1), "a")])[1] == {"id": 1, "note": "a"}
        for write in (model.to_row, lambda obj: model.to_rows([Base(UserId(1)), obj])):
            with pytest.raises(UnsupportedValue, match=r"Derived has fields that Base has not \(amounts, .*lost"):
                write(Derived(UserId(1)))


def test_nested_pydantic_models_are_kept_by_their_fields_and_not_as_they_show_themselves() -> None:
    class Part(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        at: datetime = datetime(2024, 1, 1, tzinfo=UTC)
        hidden: str = pydantic.Field("x", exclude=True)
        mood: tuple[Mood, ...] = (Mood.GOOD,)

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def year(self) -> int:
            return self.at.year

        @pydantic.field_serializer("at")
        def show(self, at: datetime) -> str:
            return f"in {at:%Y}"

    class Table(sqlmodel.SQLModel):
        parts: list[str] = []

    class Whole(pydantic.BaseModel):
        id: str = "a"
        parts: dict[str, Part] = {"k": Part(hidden="h")}
        root: pydantic.RootModel[list[int]] = pydantic.RootModel[list[int]]([1])

    for made in (Whole(), dataclasses.make_dataclass("Held", [("part", Part), ("table", Table), ("id", str, "a")])):
        given: Any = made if isinstance(made, Whole) else made(Part(hidden="h"), Table(parts=["x"]))
        _round_trip(given)


def test_what_does_not_fit_inside_is_told_without_its_value() -> None:
    class Part(pydantic.BaseModel):
        number: int

    held: Any = dataclasses.make_dataclass("Held", [("part", Part), ("id", str, "a")])
    with pytest.raises(Corrupted, match=r"number: Input should be a valid integer.*\$\.part") as caught:
        model_of(held).from_row({"part": {"number": "sesame"}, "id": "a"})
    assert "sesame" not in str(caught.value)


def test_an_int_id_must_be_given_unless_it_may_be_none() -> None:
    @dataclasses.dataclass
    class Counted:
        id: int | None = None

    model = model_of(Base)
    assert not model.spec.numbered
    with pytest.raises(UnsupportedValue, match=r"Base\.id is an int and has no value; .*declare it 'int \| None'"):
        model.with_ids([None])
    assert model_of(Counted).spec.numbered
    assert model_of(Counted).with_ids([None, 0, 5]) == [None, 0, 5]


def test_bytes_and_secrets_in_nested_data_are_refused() -> None:
    class Held(pydantic.BaseModel):
        id: str
        parts: list[bytes] = []
        inner: dict[str, Any] = {}

    model = model_of(Held)
    with pytest.raises(UnsupportedValue, match=r"Held\.parts\[0\].*bytes field of their own"):
        model.to_row(Held(id="a", parts=[b"x"] * 2))
    with pytest.raises(UnsupportedValue, match=r"Held\.inner\['a'\].*secret"):
        model.to_row(Held(id="a", inner={"a": pydantic.SecretStr("sesame")}))
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.raises(UnsupportedValue, match="levels deep"):
        model.to_row(Held.model_construct(id="a", parts=[], inner=loop))


def _dataclass(**annotations: Any) -> Callable[[], type]:
    return lambda: dataclasses.make_dataclass("Bad", annotations.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: int, "no model"),
        (_dataclass(name=str), "has no id: name a field 'id'"),
        (_dataclass(id=list[int]), r"Bad\.id must be text, int or UUID"),
        (_dataclass(id=float), r"Bad\.id must be text, int or UUID"),
        (_dataclass(id=str, other=Annotated[str, Id()], third=Annotated[str, Id()]), "two Id"),
        (_dataclass(id=str, path=Path), r"Bad\.path: the type .* cannot be stored"),
        (_dataclass(id=str, thing=object), r"Bad\.thing"),
        (_dataclass(id=str, call=Callable[[], int]), r"Bad\.call"),
        (_dataclass(id=str, number=complex), r"Bad\.number"),
        (_dataclass(id=str, mixed=Mixed), r"Bad\.mixed could not be read back.*Mixed"),
        (_dataclass(id=str, either=Base | Tree), r"Bad\.either could not be read back.*union"),
        (_dataclass(id=str, tags=Annotated[list[str], Indexed()]), r"Bad\.tags is nested data"),
        (_dataclass(id=str, version=Annotated[str, Version()]), r"Bad\.version must be an int"),
        (_dataclass(id=str, at=Annotated[date, CreatedAt()]), r"Bad\.at must be a datetime"),
        (_dataclass(id=str, at=Annotated[str, UpdatedAt()]), r"Bad\.at must be a datetime"),
        (_dataclass(id=str, at=Annotated[datetime, DeletedAt()]), r"Bad\.at must be optional"),
        (_dataclass(id=str, name=Annotated[str, Unique]), r"Bad\.name: write Unique\(\) with parentheses"),
        (_dataclass(id=str, a__b=int), r"Bad\.a__b: a field name"),
        (_dataclass(id=str, ambidex_tenant=str), "rename the field"),
        (_dataclass(id=str, name=int, NAME=str), "differ only in case"),
        (_dataclass(id=str, other="Nowhere"), "cannot be resolved"),
        (lambda: pydantic.create_model("Bad", id=(str, ...), secret=(pydantic.SecretStr, ...)), r"Bad\.secret"),
        (lambda: type("Ünïcode", (Base,), {}), "set __tablename__"),
        (lambda: type("Bad", (Base,), {"__tablename__": "x; DROP TABLE y"}), "set __tablename__"),
        (lambda: type("Bad", (Base,), {"__tablename__": "sqlite_master"}), "reserved"),
    ],
)
def test_a_model_that_cannot_be_kept(make: Callable[[], type], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        model_of(make())


def test_many_objects_become_what_each_becomes() -> None:
    model = model_of(Derived)
    many = [Derived(UserId(1)), Derived(UserId(2), "two", Level.HIGH, when=[datetime(2024, 1, 1)])]  # noqa: DTZ001
    rows = model.to_rows(many)
    assert list(rows) == [model.to_row(one) for one in many]
    assert model.all_checked(rows) == [model.checked(row) for row in rows]
    assert not model.to_rows([])
    assert not model.all_checked(model.to_rows([]))


@pytest.mark.parametrize("wrong", [Base(UserId(3)), Derived(UserId(2**63)), Derived(UserId(3), level=None)])  # type: ignore[arg-type]
def test_the_first_of_many_that_is_wrong_is_refused_in_its_own_words(wrong: Any) -> None:
    model = model_of(Derived)
    with pytest.raises(UnsupportedValue) as alone:
        model.to_row(wrong)
    with pytest.raises(UnsupportedValue) as among:
        model.to_rows([Derived(UserId(1)), wrong, Derived(UserId(1), note="\x00")])
    assert str(among.value) == str(alone.value)


def test_a_row_among_many_that_does_not_fit_is_refused_in_its_own_words() -> None:
    model = model_of(Derived)
    rows = model.to_rows([Derived(UserId(1)), Derived(UserId(2), choice="c")])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedValue) as alone:
        model.checked(rows[1])
    with pytest.raises(UnsupportedValue) as among:
        model.all_checked(rows)
    assert str(among.value) == str(alone.value)


def test_new_ids_ascend() -> None:
    model = model_of(Keyed)
    given = model_of(Keyed).with_ids([None])
    ids = model.with_ids([None, *given, *[None] * 10_000])
    assert ids[1] == given[0]
    ids = [*given, ids[0], *ids[2:]]
    assert ids == sorted(set(ids))
    assert {(id_.version, id_.variant) for id_ in ids} == {(7, "specified in RFC 4122")}


@dataclasses.dataclass
class Keyed:
    id: UUID | None = None
