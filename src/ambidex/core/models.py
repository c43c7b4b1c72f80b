"""Model classes as records: which fields a class has, of which kind, and how an object becomes a row and back.

Repositories derive a :class:`RecordSpec` from a model once; backends derive tables and indexes from the spec and never
look at the class. The invariant: the spec is complete, so whatever a backend needs to know about a field stands in it,
and a model that some backend could not keep is refused when the spec is derived, before any I/O.

Understood are pydantic v2 models, dataclasses, msgspec Structs, attrs classes and SQLModel. Constraints are
annotations: ``Annotated[str, Indexed()]``.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import types
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

import msgspec

from ambidex.core.ids import uuid7
from ambidex.errors import ConfigurationError, Corrupted, UnsupportedValue

__all__ = [
    "CreatedAt",
    "DeletedAt",
    "Field",
    "Id",
    "Indexed",
    "Kind",
    "Model",
    "RecordSpec",
    "Unique",
    "UpdatedAt",
    "Version",
    "model_of",
]

T = TypeVar("T")


class _Mark:
    """A constraint that stands in an annotation; two of one kind are equal."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Id(_Mark):
    """The field that identifies a record; without it, the field named ``id`` does. Text, int or UUID."""


class Indexed(_Mark):
    """The field can be filtered and ordered by quickly, on every backend."""


class Unique(_Mark):
    """No two records have the same value here (None excepted); implies :class:`Indexed`."""


class Version(_Mark):
    """An int that grows by one with each update; an update from an older one raises VersionConflict."""


class CreatedAt(_Mark):
    """An aware datetime, set when the record is created."""


class UpdatedAt(_Mark):
    """An aware datetime, set whenever the record is written."""


class DeletedAt(_Mark):
    """An optional aware datetime: deleting sets it, and reads skip the record (soft delete)."""


class Kind(enum.StrEnum):
    """What a column holds."""

    TEXT = "text"
    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DECIMAL = "decimal"
    UUID = "uuid"
    DATETIME = "datetime"
    DATE = "date"
    TIME = "time"
    BYTES = "bytes"
    JSON = "json"


_KINDS: dict[type, Kind] = {
    str: Kind.TEXT,
    bool: Kind.BOOLEAN,
    int: Kind.INTEGER,
    float: Kind.FLOAT,
    Decimal: Kind.DECIMAL,
    UUID: Kind.UUID,
    datetime: Kind.DATETIME,
    date: Kind.DATE,
    time: Kind.TIME,
    bytes: Kind.BYTES,
}
_ID_KINDS = {Kind.TEXT, Kind.INTEGER, Kind.UUID}


class Field(NamedTuple):
    """One field of a record."""

    name: str
    kind: Kind
    nullable: bool
    indexed: bool = False
    unique: bool = False
    required: bool = True


class RecordSpec(NamedTuple):
    """A kind of record, as backends see it."""

    name: str
    """The table's or collection's name: ``[a-z_][a-z0-9_]*``."""
    fields: tuple[Field, ...]
    id: str
    version: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    deleted_at: str | None = None

    def field(self, name: str) -> Field:
        """Return a field by name."""
        return next(field for field in self.fields if field.name == name)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_JSON = msgspec.json.Encoder()


class Model(Generic[T]):
    """A class with its spec, and the two conversions."""

    def __init__(self, cls: type[T]) -> None:
        self.cls = cls
        self.spec = _derive(cls)
        self._id = self.spec.id
        self._enums = _pydantic_like(cls)
        self._json = tuple(field.name for field in self.spec.fields if field.kind is Kind.JSON)

    def to_row(self, obj: T) -> dict[str, Any]:
        """Return the object's fields: scalars as they are, everything nested as JSON-shaped data.

        Raises:
            UnsupportedValue: the object is not of the class, or a value in it has no stored form.
        """
        if not isinstance(obj, self.cls):
            raise UnsupportedValue(f"a {self.cls.__name__} is needed, not {type(obj).__name__}")
        if self._enums:
            row: dict[str, Any] = cast("Any", obj).model_dump(mode="python")
        else:
            row = {field.name: getattr(obj, field.name) for field in self.spec.fields}
        for name, value in row.items():
            if isinstance(value, enum.Enum):
                row[name] = value.value
        for name in self._json:
            row[name] = _plain_json(row[name], f"{self.cls.__name__}.{name}")
        return row

    def from_row(self, row: Mapping[str, Any]) -> T:
        """Return the validated object for a row.

        Raises:
            Corrupted: the row does not fit the class.
        """
        try:
            if self._enums:
                return cast("T", cast("Any", self.cls).model_validate(row, by_name=True))
            return msgspec.convert(row, type=self.cls, dec_hook=_validate_nested)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise Corrupted(f"a stored record does not fit {self.cls.__name__}: {error}") from None

    def with_id(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with a new id where it has none: UUIDv7 for UUID and text ids."""
        if row[self._id] in (None, ""):
            kind = self.spec.field(self._id).kind
            if kind is Kind.INTEGER:
                raise UnsupportedValue(f"{self.cls.__name__}.{self._id} is an int and has no value; give it one")
            row[self._id] = uuid7() if kind is Kind.UUID else str(uuid7())
        return row


@functools.cache
def model_of(cls: type[T]) -> Model[T]:
    """Return the model for a class (derived once).

    Raises:
        ConfigurationError: the class is no model, has no id, or has a field that cannot be kept; the message names it.
    """
    return Model(cls)


def _pydantic_like(cls: type) -> bool:
    return hasattr(cls, "__pydantic_core_schema__") and hasattr(cls, "model_validate")


def _plain_json(value: Any, where: str) -> Any:
    """Return nested data in the one form that JSON columns hold on every backend."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_encode_nested))
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise UnsupportedValue(f"{where}: {error}") from None


def _encode_nested(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"values of type {type(value).__name__} cannot be stored as JSON")


def _validate_nested(kind: type[Any], value: Any) -> Any:
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise TypeError(f"{kind.__name__} cannot be read back from JSON")
    return validate(value, by_name=True)


# Deriving a spec.


class _Raw(NamedTuple):
    """What a library's class says of one field."""

    name: str
    annotation: Any
    marks: tuple[Any, ...]
    required: bool


def _derive(cls: type) -> RecordSpec:
    raws = _raw_fields(cls)
    fields: list[Field] = []
    marked: dict[type, str] = {}
    for raw in raws:
        field, marks = _field(cls, raw)
        fields.append(field)
        for mark in marks:
            if type(mark) in _SINGLE:
                if type(mark) in marked:
                    raise ConfigurationError(
                        f"{cls.__name__} has two {mark!r} fields, {marked[type(mark)]} and {field.name}"
                    )
                marked[type(mark)] = field.name
    names = {field.name for field in fields}
    id_ = marked.get(Id) or ("id" if "id" in names else None)
    if id_ is None:
        raise ConfigurationError(
            f"{cls.__name__} has no id: name a field 'id', or annotate one, e.g. key: Annotated[str, Id()]"
        )
    spec = RecordSpec(
        _table_name(cls),
        tuple(fields),
        id_,
        *(marked.get(mark) for mark in (Version, CreatedAt, UpdatedAt, DeletedAt)),
    )
    _check(cls, spec)
    return spec


_SINGLE = {Id, Version, CreatedAt, UpdatedAt, DeletedAt}


def _check(cls: type, spec: RecordSpec) -> None:
    """Refuse marks on fields that cannot bear them."""
    wanted = {
        spec.id: (_ID_KINDS, "text, int or UUID"),
        spec.version: ({Kind.INTEGER}, "an int"),
        spec.created_at: ({Kind.DATETIME}, "a datetime"),
        spec.updated_at: ({Kind.DATETIME}, "a datetime"),
        spec.deleted_at: ({Kind.DATETIME}, "an optional datetime"),
    }
    for name, (kinds, words) in wanted.items():
        if name is not None and spec.field(name).kind not in kinds:
            raise ConfigurationError(f"{cls.__name__}.{name} must be {words}, not {spec.field(name).kind}")
    for field in spec.fields:
        if field.kind is Kind.JSON and (field.indexed or field.unique):
            raise ConfigurationError(
                f"{cls.__name__}.{field.name} is nested data, which cannot be indexed; index a scalar field"
            )


def _raw_fields(cls: type) -> list[_Raw]:
    if _pydantic_like(cls):
        return [_from_pydantic(name, info) for name, info in cast("Any", cls).model_fields.items()]
    hints = _hints(cls)
    if issubclass(cls, msgspec.Struct):
        return [_Raw(f.name, hints[f.name], (), f.required) for f in msgspec.structs.fields(cls)]
    if hasattr(cls, "__attrs_attrs__"):
        missing = type(None)
        return [_Raw(a.name, hints.get(a.name, missing), (), repr(a.default) == "NOTHING") for a in cls.__attrs_attrs__]
    if dataclasses.is_dataclass(cls):
        gone = dataclasses.MISSING
        return [
            _Raw(f.name, hints[f.name], (), f.default is gone and f.default_factory is gone)
            for f in dataclasses.fields(cls)
        ]
    raise ConfigurationError(
        f"{getattr(cls, '__name__', cls)!s} is no model; "
        "use a pydantic model, dataclass, msgspec Struct, attrs class or SQLModel"
    )


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise ConfigurationError(f"an annotation of {cls.__name__} cannot be resolved: {error}") from None


def _from_pydantic(name: str, info: Any) -> _Raw:
    marks = list(info.metadata)
    for attribute, mark in (("primary_key", Id()), ("index", Indexed()), ("unique", Unique())):  # SQLModel's own words
        if getattr(info, attribute, None) is True:
            marks.append(mark)
    return _Raw(name, info.annotation, tuple(marks), info.is_required())


def _field(cls: type, raw: _Raw) -> tuple[Field, list[Any]]:
    if not _NAME.match(raw.name) or "__" in raw.name:
        raise ConfigurationError(
            f"{cls.__name__}.{raw.name}: a field name is up to 63 letters, digits and single underscores"
        )
    annotation, marks, nullable = _unwrap(raw.annotation)
    marks = [*raw.marks, *marks]
    kind = _kind(annotation)
    if kind is None:
        raise ConfigurationError(f"{cls.__name__}.{raw.name}: the type {annotation!r} cannot be stored")
    unique = Unique() in marks
    return Field(raw.name, kind, nullable, unique or Indexed() in marks, unique, raw.required), marks


def _unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Take Annotated and Optional off an annotation."""
    marks: list[Any] = []
    nullable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            marks += more
        elif origin in (Union, types.UnionType):
            rest = [arg for arg in get_args(annotation) if arg is not type(None)]
            nullable = nullable or len(rest) < len(get_args(annotation))
            if len(rest) != 1:
                return annotation, marks, nullable
            annotation = rest[0]
        else:
            return annotation, marks, nullable


def _kind(annotation: Any) -> Kind | None:
    if get_origin(annotation) is Literal:
        kinds = {_KINDS.get(type(value)) for value in get_args(annotation)}
        return kinds.pop() if len(kinds) == 1 else Kind.JSON
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            kinds = {_KINDS.get(type(member.value)) for member in annotation}
            return kinds.pop() if len(kinds) == 1 else Kind.JSON
        if annotation in _KINDS:
            return _KINDS[annotation]
        if issubclass(annotation, timedelta | complex | types.FunctionType):
            return None
        for base, kind in _KINDS.items():
            if issubclass(annotation, base):
                return kind
    return None if annotation in (Callable, object) else Kind.JSON


def _table_name(cls: type) -> str:
    named = getattr(cls, "__tablename__", None)
    name = (
        named
        if isinstance(named, str)
        else re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
    )
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,50}", name):
        raise ConfigurationError(
            f"{cls.__name__}: {name!r} is no table name; set __tablename__ to lower-case letters, digits and _"
        )
    return name
