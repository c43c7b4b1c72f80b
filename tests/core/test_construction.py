"""Many objects made at once are those that are made one by one."""

import abc
import dataclasses
import enum
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import attrs
import msgspec
import pytest

from ambidex import Indexed
from ambidex.core.models import model_of
from ambidex.errors import UnsupportedValue

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Inner:
    number: int


@dataclasses.dataclass
class Plain:
    id: Annotated[UUID | None, "a note of somebody else's"]
    name: Annotated[str, Indexed()]
    maybe: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    numbers: list[int] | None = None
    colour: Colour = Colour.RED
    inner: Inner | None = None
    choice: Literal["a", "b"] = "a"
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    exact: Decimal = Decimal(1)
    few: Annotated[list[str], msgspec.Meta(max_length=2)] = dataclasses.field(default_factory=list)
    later: int = dataclasses.field(default=3, init=False)


@dataclasses.dataclass(frozen=True)
class Frozen:
    id: str
    number: int = 1


@dataclasses.dataclass(slots=True)
class Slotted:
    id: str
    number: int = 1


@dataclasses.dataclass
class Counting:
    id: str
    tags: list[str]

    def __post_init__(self) -> None:
        self.tags.append("made")


@dataclasses.dataclass
class Box(Generic[T]):
    id: str
    content: T


class Abstract(abc.ABC):
    @abc.abstractmethod
    def method(self) -> None: ...


@dataclasses.dataclass
class Unfinished(Abstract):
    id: str


def _doubled(value: list[str]) -> list[str]:
    return value + value


@attrs.define
class Private:
    id: str
    _hidden: int = 4
    doubled: list[str] = attrs.field(factory=list, converter=_doubled)


class Renamed(msgspec.Struct, rename="camel", tag=True):
    id: str
    first_name: str
    other_thing: int = 3


def _plain() -> list[Plain]:
    one = Plain(UUID(int=1), "one", tags=["x", "y"], numbers=[1], inner=Inner(1))
    return [one, Plain(UUID(int=2), "two", "", colour=Colour.RED, choice="b", few=["a"])]


MANY: list[Callable[[], list[Any]]] = [
    _plain,
    lambda: [Frozen("a"), Frozen("b", 2)],
    lambda: [Slotted("a"), Slotted("b", 2)],
    lambda: [Counting("a", []), Counting("b", ["x"])],
    lambda: [Private("a", 5), Private("b", 6, ["x"])],
    lambda: [Renamed("a", "Ada"), Renamed("b", "Bob", 4)],
]


@pytest.mark.parametrize("make", MANY)
def test_they_are_equal_and_share_nothing_with_what_was_given(make: Callable[[], list[Any]]) -> None:
    given = make()
    model = model_of(type(given[0]))
    rows = model.to_rows(given)
    made = model.all_checked(rows)
    assert made == [model.checked(model.to_row(one)) for one in given]
    for one, other in zip(given, made, strict=True):
        assert type(one) is type(other)
        for name in model.spec.fields:
            mine, its = getattr(one, name.name), getattr(other, name.name)
            assert mine is not its or not isinstance(mine, list)


def test_what_was_stored_is_not_what_making_the_object_added() -> None:
    model = model_of(Counting)
    rows = model.to_rows([Counting("a", [])])
    assert model.all_checked(rows)[0].tags == ["made", "made"]
    assert rows[0]["tags"] == ["made"]


def test_a_class_with_type_parameters() -> None:
    model = model_of(Box[list[str]])
    assert model.all_checked(model.to_rows([Box("a", ["x"])])) == [Box("a", ["x"])]
    with pytest.raises(UnsupportedValue, match="content"):
        model.all_checked(model.to_rows([Box("a", ["x"]), Box("b", [1])]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tags": [1]},
        {"tags": [["x"]]},
        {"numbers": ["x"]},
        {"choice": "c"},
        {"few": ["a", "b", "c"]},
        {"colour": "blue"},
        {"inner": {"number": "x"}},
    ],
)
def test_one_that_does_not_fit_is_refused_in_its_own_words(wrong: dict[str, Any]) -> None:
    model = model_of(Plain)
    given = [*_plain(), dataclasses.replace(_plain()[0], **wrong)]
    with pytest.raises(UnsupportedValue) as alone:
        model.checked(model.to_row(given[-1]))
    with pytest.raises(UnsupportedValue) as among:
        model.all_checked(model.to_rows(given))
    assert str(among.value) == str(alone.value)


def test_a_class_that_python_does_not_make_is_made_one_by_one() -> None:
    model = model_of(Unfinished)  # type: ignore[type-abstract]
    row = {"id": "a"}
    whole: Any = type("Whole", (Unfinished,), {"method": lambda self: None})
    assert [one.id for one in model.all_checked(model.to_rows([whole("a")]))] == [model.checked(row).id]
