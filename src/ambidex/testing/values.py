"""The contract of values: what comes back unchanged, and what is refused before any I/O; backends are tested with it.

The invariant: nothing is stored approximately. A value comes back equal and of the same type, or a typed error names
the part that could not.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ambidex.core.ports import Capability
from ambidex.errors import Corrupted, UnsupportedValue, ValueTooLarge
from ambidex.testing.contract import Contract, Subject

__all__ = ["REFUSED", "VALUES", "ValuesContract", "same"]

_INDIA = timezone(timedelta(hours=5, minutes=30))
_ODD = timezone(-timedelta(hours=4, minutes=56, seconds=2))

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 0.0, 1.5, -2.25, 5e-324, 1.7976931348623157e308, 0.1 + 0.2),
    *("", "text", "日本語 🦊 é e\u0301", "line\nline\r\n\ttab", "\x01\x7f\ufeff\ufffd", "'; DROP TABLE x; --", "5"),
    *(b"", b"\x00\xff\x01", b"i5", bytes(range(256)), b"x" * 100_000, "é" * 50_000),
    *([], {}, [[], {}], {"": None}, {"a": {"b": [1, 2.5, None, True, "x", b"y"]}}, [1, "1", 1.0]),
    *({"é:%\n": 1, "a.b": 2, "$x": 3, "__type__": 4}, [[[[[[[[1]]]]]]]], list(range(1000))),
    *(
        (),
        (1, 2),
        (1, [2, (3, "x")]),
        {"t": (1,)},
        set(),
        {1, 2, 3},
        {"a", (1, 2), None},
        frozenset({1}),
        {frozenset({2})},
    ),
    *(Decimal(0), Decimal("1.10"), Decimal("-1E+50"), Decimal("123456789012345678901234567890.123456789")),
    *(UUID(int=0), UUID("12345678-1234-5678-1234-567812345678")),
    *(
        datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=_INDIA),
    ),
    *(datetime(1900, 1, 1, 12, tzinfo=_ODD), date(2024, 2, 29), time(1, 2, 3, 4), time(1, tzinfo=_INDIA)),
    *(timedelta(0), timedelta(-1, 5, 7), timedelta.max, timedelta.min),
    {
        "deep": [
            {"when": datetime(2024, 1, 1, tzinfo=_INDIA), "cost": Decimal("9.99"), "ids": {UUID(int=1)}, "t": (b"",)}
        ]
    },
)
"""Each comes back equal and of the same type from every backend."""


class _Text(str):
    __slots__ = ()


class _Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class _Holder:
    value: Any


def _cyclic() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _cyclic_dict() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["self"] = [cycle]
    return cycle


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def _cyclic_model() -> _Holder:
    inner: list[Any] = []
    holder = _Holder(inner)
    inner.append(holder)
    return holder


REFUSED: tuple[tuple[str, Any], ...] = (
    ("NaN", math.nan),
    ("infinity", math.inf),
    ("negative infinity", -math.inf),
    ("negative zero", -0.0),
    ("NUL in text", "a\x00b"),
    ("2**63", 2**63),
    ("2**70", 2**70),
    ("below 64 bits", -(2**63) - 1),
    ("lone surrogate", "\ud800"),
    ("lone surrogate inside", ["x", {"k": "a\udfffb"}]),
    ("lone surrogate as a key", {"\ud800": 1}),
    ("NUL in a key", {"a\x00": 1}),
    ("naive datetime", datetime(2024, 1, 1)),  # noqa: DTZ001  # the case
    ("number as a key", {1: "x"}),
    ("None as a key", {None: "x"}),
    ("bytes as a key", {b"x": 1}),
    ("text subclass as a key", {_Text("x"): 1}),
    ("NaN in a list", [1, [math.nan]]),
    ("2**70 in a tuple", (1, 2**70)),
    ("naive datetime in a dict", {"a": {"b": datetime(2024, 1, 1)}}),  # noqa: DTZ001  # the case
    ("Decimal NaN", Decimal("NaN")),
    ("Decimal infinity", Decimal("-Infinity")),
    ("cyclic list", _cyclic()),
    ("cyclic dict", _cyclic_dict()),
    ("cyclic model", _cyclic_model()),
    ("too deep", _deep(1_000)),
    ("deeper than the stack", _deep(100_000)),
    ("deep model", _Holder(_deep(1_000))),
    ("text subclass", _Text("x")),
    ("enum member", _Colour.RED),
    ("bytearray", bytearray(b"x")),
    ("memoryview", memoryview(b"x")),
    ("complex", 1j),
    ("object", object()),
    ("class", int),
    ("function", len),
    ("generator", iter([])),
    ("exception", ValueError("x")),
    ("range", range(3)),
    ("NaN in a model", _Holder(math.nan)),
    ("2**70 in a model", _Holder([2**70])),
    ("naive datetime in a model", _Holder(datetime(2024, 1, 1))),  # noqa: DTZ001  # the case
    ("object in a model", _Holder(object())),
    ("lone surrogate in a model", _Holder("\ud800")),
    ("model in a set", {_Holder(1)}),
)
"""Each is refused with UnsupportedValue before any I/O."""


def same(left: Any, right: Any) -> bool:
    """Tell whether two values are equal in every part and of the same types (1, 1.0 and True are not the same)."""
    if type(left) is not type(right) or bool(left != right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return all(map(same, left, right))
    if isinstance(left, datetime):
        return bool(left.utcoffset() == right.utcoffset())
    return str(left) == str(right) if isinstance(left, Decimal) else True


@dataclasses.dataclass
class _Line:
    text: str
    at: datetime
    cost: Decimal
    tags: set[str] = dataclasses.field(default_factory=set)


class _Struct(msgspec.Struct):
    id: UUID
    lines: list[_Line]
    data: bytes = b""
    colour: _Colour = _Colour.RED
    span: tuple[int, int] = (0, 0)


_LINE = _Line("first", datetime(2024, 1, 1, tzinfo=_INDIA), Decimal("1.10"), {"a", "b"})


def _models() -> Iterator[Any]:
    """Yield one model of each kind whose package is installed."""
    yield _LINE
    yield _Struct(UUID(int=7), [_LINE], b"\x00\xff", _Colour.RED, (1, 2))
    try:
        import attrs
    except ModuleNotFoundError:
        pass
    else:

        @attrs.define
        class Point:
            x: int
            at: datetime

        yield Point(3, datetime(2024, 1, 1, tzinfo=UTC))
    try:
        import pydantic
    except ModuleNotFoundError:
        return

    class Inner(pydantic.BaseModel):
        when: datetime
        price: Decimal

    class Outer(pydantic.BaseModel):
        id: UUID
        colour: _Colour
        inner: list[Inner]
        raw: bytes
        pair: tuple[int, str]
        name: str = pydantic.Field(alias="outerName")
        model_config = pydantic.ConfigDict(populate_by_name=True)

    inner = Inner(when=datetime(2024, 1, 1, tzinfo=_INDIA), price=Decimal("2.50"))
    yield inner
    yield Outer(id=UUID(int=9), colour=_Colour.RED, inner=[inner], raw=b"\xff\x00", pair=(1, "x"), outerName="n")


def _itself(value: Any) -> Any:
    return value


class ValuesContract(Contract, needs=[Capability.KV]):
    """What ``set`` takes, ``get`` gives back."""

    async def test_values_come_back_the_same(self, subject: Subject) -> None:
        """One by one."""
        for number, value in enumerate(VALUES):
            await subject.kv.set("key", value)
            back = await subject.kv.get("key")
            assert same(back, value), f"value {number}: {value!r:.200} came back as {back!r:.200}"

    async def test_values_come_back_the_same_in_batches(self, subject: Subject) -> None:
        """All at once, and through every other way in and out."""
        items = {f"v{number}": value for number, value in enumerate(VALUES)}
        await subject.kv.set_many(items)
        found = await subject.kv.get_many(items)
        assert all(same(found[key], value) for key, value in items.items())
        for number, value in enumerate(VALUES[:40]):
            assert await subject.kv.add(f"add{number}", value)
            assert same(await subject.kv.get_or_set(f"made{number}", partial(_itself, value)), value)
            version = await subject.kv.compare_and_set(f"swap{number}", value, 0)
            entry = await subject.kv.get_versioned(f"swap{number}")
            assert entry is not None
            assert entry.version == version
            assert same(entry.value, value)
            assert await subject.kv.replace(f"add{number}", [value])
            assert same(await subject.kv.get(f"add{number}"), [value])

    async def test_values_are_copies(self, subject: Subject) -> None:
        """Changing what was given or what was got changes nothing that is stored."""
        value = {"list": [1]}
        await subject.kv.set("key", value)
        value["list"].append(2)
        got = await subject.kv.get("key")
        got["list"].append(3)
        assert await subject.kv.get("key") == {"list": [1]}

    async def test_values_of_models(self, subject: Subject) -> None:
        """Dataclasses, Structs, attrs and pydantic classes come back validated; without ``model`` as plain data."""
        for value in _models():
            model = type(value)
            await subject.kv.set("key", value)
            back = await subject.kv.get("key", model=model)
            assert type(back) is model
            assert back == value
            assert isinstance(await subject.kv.get("key"), dict)
            assert await subject.kv.get_many(["key"], model=model) == {"key": value}
            entry = await subject.kv.get_versioned("key", model=model)
            assert entry is not None
            assert entry.value == value

    async def test_values_that_do_not_fit_a_model(self, subject: Subject) -> None:
        """Corrupted, whatever the model's library says; the value stays readable as data."""
        for stored in ({"text": 1}, {}, "text", 5, None, [1]):
            await subject.kv.set("key", stored)
            for model in {type(value) for value in _models()}:
                with pytest.raises(Corrupted):
                    await subject.kv.get("key", model=model)
            assert same(await subject.kv.get("key"), stored)

    async def test_values_that_are_refused(self, subject: Subject) -> None:
        """Before any I/O: what was there is unchanged, also by every other way in."""
        await subject.kv.set("key", "kept")
        for name, value in REFUSED:
            for write in (subject.kv.set, subject.kv.add, subject.kv.replace):
                with pytest.raises(UnsupportedValue):
                    await write("key", value)
                    pytest.fail(f"{name} was accepted")
            with pytest.raises(UnsupportedValue):
                await subject.kv.compare_and_set("key", value, 0)
        assert await subject.kv.get("key") == "kept"

    async def test_values_that_are_too_large(self, subject: Subject) -> None:
        """The limit of the settings is named, and nothing is sent."""
        limit = subject.root.settings.max_value_bytes
        for value in (bytes(limit + 1), [bytes(limit + 1)], {"k": (bytes(limit + 1),)}):
            with pytest.raises(ValueTooLarge, match=f"{limit:,}"):
                await subject.kv.set("key", value)
        assert not await subject.kv.exists("key")

    async def test_values_of_one_megabyte(self, subject: Subject) -> None:
        """Text and bytes far above a page or a packet."""
        text, data = "grün" * 250_000, bytes(range(256)) * 4_000
        await subject.kv.set_many({"text": text, "data": data})
        assert await subject.kv.get("text") == text
        assert await subject.kv.get("data") == data
