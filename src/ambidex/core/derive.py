"""From a model class to its spec; ``core/models.py`` calls :func:`derive` once a class.

Understood are pydantic v2 models, dataclasses, msgspec Structs, attrs classes and SQLModel. The invariant: a class that
some backend could not keep is refused here, before any I/O, with the field and the remedy in the message.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
import types
import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

import msgspec

from ambidex.core.spec import CreatedAt, DeletedAt, Field, Id, Indexed, Kind, RecordSpec, Unique, UpdatedAt, Version
from ambidex.core.validating import is_pydantic
from ambidex.errors import ConfigurationError

__all__ = ["annotations_of", "derive", "field_names", "origin_of"]

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
_SINGLE = (Version, CreatedAt, UpdatedAt, DeletedAt)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


def _typing(name: str) -> tuple[Any, ...]:
    """Return what ``typing`` and, where it is loaded, ``typing_extensions`` call so.

    A model can only use the second if it was imported, so nothing is lost by not depending on it.
    """
    modules = (typing, sys.modules.get("typing_extensions"))
    return tuple(getattr(module, name) for module in modules if hasattr(module, name))


_NESTING = (list, dict, tuple, set, frozenset)
_RESERVED = "ambidex_tenant"


class _Raw(NamedTuple):
    """What a library's class says of one field."""

    name: str
    annotation: Any
    marks: tuple[Any, ...]
    required: bool


def origin_of(cls: Any) -> type:
    """Return the class of which objects are made: for ``Box[int]`` of a dataclass that is ``Box``."""
    return cast("type", cls if isinstance(cls, type) else get_origin(cls) or type(None))


def derive(cls: Any) -> RecordSpec:
    """Return the spec of a class.

    Raises:
        ConfigurationError: the class is no model, has no id, or has a field that cannot be kept.
    """
    name = _class_name(cls)
    fields: list[Field] = []
    marked: dict[type, str] = {}
    for raw in _raw_fields(cls):
        field, marks = _field(cls, raw)
        fields.append(field)
        for kind in (Id, *_SINGLE):
            if kind() in marks:
                if kind in marked:
                    raise ConfigurationError(f"{name} has two {kind()!r} fields, {marked[kind]} and {field.name}")
                marked[kind] = field.name
    names = [field.name for field in fields]
    id_ = marked.get(Id) or ("id" if "id" in names else None)
    if id_ is None:
        raise ConfigurationError(
            f"{name} has no id: name a field 'id', or annotate one, e.g. key: Annotated[str, Id()]"
        )
    # An id that is still None is given one before it is stored.
    numbered = any(field.name == id_ and field.kind is Kind.INTEGER and field.nullable for field in fields)
    fields = [field._replace(nullable=False) if field.name == id_ else field for field in fields]
    hidden = marked.get(DeletedAt)  # every query asks for it
    fields = [field._replace(indexed=True) if field.name == hidden else field for field in fields]
    spec = RecordSpec(
        _table_name(cls),
        tuple(fields),
        id_,
        version=marked.get(Version),
        created_at=marked.get(CreatedAt),
        updated_at=marked.get(UpdatedAt),
        deleted_at=hidden,
        numbered=numbered,
    )
    _check(name, spec)
    if not is_pydantic(cls):
        try:
            msgspec.msgpack.Decoder(cls)
        except TypeError as error:  # a union of two models without tags, an enumeration of mixed values
            wrong = next((one for one, hint in annotations_of(cls).items() if not _readable(hint)), None)
            where = name if wrong is None else f"{name}.{wrong}"
            raise ConfigurationError(
                f"{where} could not be read back: {error}; change its type, or keep it out of the model"
            ) from None
    return spec


def _readable(annotation: Any) -> bool:
    try:
        msgspec.msgpack.Decoder(annotation)
    except TypeError:
        return False
    return True


def annotations_of(cls: Any) -> dict[str, Any]:
    """Return the fields' annotations with forward references and type parameters resolved."""
    if is_pydantic(cls):
        return {name: info.annotation for name, info in cls.model_fields.items()}
    origin = origin_of(cls)
    try:
        hints = typing.get_type_hints(origin, include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"an annotation of {_class_name(cls)} cannot be resolved: {error}; define the class where it is visible"
        ) from None
    parameters = getattr(origin, "__parameters__", ())
    given = dict(zip(parameters, get_args(cls), strict=False))
    return {name: _substitute(hint, given) for name, hint in hints.items()}


def _substitute(hint: Any, given: dict[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(given.get(p, p) for p in parameters)] if given and parameters else hint


def field_names(cls: Any) -> set[str]:
    """Return the names of a model class's fields."""
    return {raw.name for raw in _raw_fields(cls)}


def _class_name(cls: Any) -> str:
    return getattr(cls, "__name__", None) or str(cls)


def _check(name: str, spec: RecordSpec) -> None:
    """Refuse marks on fields that cannot bear them."""
    wanted = {
        spec.id: (_ID_KINDS, "text, int or UUID"),
        spec.version: ({Kind.INTEGER}, "an int"),
        spec.created_at: ({Kind.DATETIME}, "a datetime"),
        spec.updated_at: ({Kind.DATETIME}, "a datetime"),
        spec.deleted_at: ({Kind.DATETIME}, "an optional datetime"),
    }
    for field, (kinds, words) in wanted.items():
        if field is not None and spec.field(field).kind not in kinds:
            raise ConfigurationError(f"{name}.{field} must be {words}, not {spec.field(field).kind}")
    if spec.deleted_at is not None and not spec.field(spec.deleted_at).nullable:
        raise ConfigurationError(f"{name}.{spec.deleted_at} must be optional: datetime | None = None")
    for one in spec.fields:
        if one.kind is Kind.JSON and (one.indexed or one.unique):
            raise ConfigurationError(f"{name}.{one.name} is nested data, which cannot be indexed; index a scalar field")
    folded = [one.name.lower() for one in spec.fields]
    twice = next((one for one in folded if folded.count(one) > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"{name} has two fields {twice!r} that differ only in case; SQL cannot tell them apart"
        )


def _raw_fields(cls: Any) -> list[_Raw]:
    origin = origin_of(cls)
    if is_pydantic(cls):
        return _from_pydantic(cls)
    if issubclass(origin, msgspec.Struct):
        hints = annotations_of(cls)
        return [_Raw(f.name, hints[f.name], (), f.required) for f in msgspec.structs.fields(origin)]
    if hasattr(origin, "__attrs_attrs__"):
        hints = annotations_of(cls)
        return [
            _Raw(a.name, hints.get(a.name, Any), (), repr(a.default) == "NOTHING")
            for a in cast("Any", origin).__attrs_attrs__
        ]
    if dataclasses.is_dataclass(origin):
        hints, gone = annotations_of(cls), dataclasses.MISSING
        return [
            _Raw(f.name, hints[f.name], (), f.default is gone and f.default_factory is gone)
            for f in dataclasses.fields(origin)
        ]
    raise ConfigurationError(
        f"{_class_name(cls)} is no model; use a pydantic model, dataclass, msgspec Struct, attrs class or SQLModel"
    )


def _from_pydantic(cls: Any) -> list[_Raw]:
    if not getattr(cls, "__pydantic_complete__", True):
        try:
            cls.model_rebuild()
        except Exception as error:  # a NameError, wrapped in pydantic's own
            raise ConfigurationError(
                f"an annotation of {cls.__name__} cannot be resolved: {error}; call {cls.__name__}.model_rebuild() "
                "where every name is visible"
            ) from None
    raws: list[_Raw] = []
    for name, info in cls.model_fields.items():
        marks = list(info.metadata)
        for attribute, mark in (("primary_key", Id()), ("index", Indexed()), ("unique", Unique())):  # SQLModel's words
            if getattr(info, attribute, None) is True:
                marks.append(mark)
        raws.append(_Raw(name, info.annotation, tuple(marks), info.is_required()))
    return raws


def _field(cls: Any, raw: _Raw) -> tuple[Field, list[Any]]:
    where = f"{_class_name(cls)}.{raw.name}"
    if not _NAME.match(raw.name) or "__" in raw.name or raw.name.lower() == _RESERVED:
        raise ConfigurationError(
            f"{where}: a field name is up to 63 ASCII letters, digits and single underscores, and not {_RESERVED}; "
            "rename the field"
        )
    annotation, marks, nullable = _unwrap(raw.annotation)
    marks = [*raw.marks, *marks]
    for mark in marks:
        if isinstance(mark, type) and mark in (Id, Indexed, Unique, *_SINGLE):
            raise ConfigurationError(f"{where}: write {mark.__name__}() with parentheses")
    kind = _kind(annotation, pydantic=is_pydantic(cls))
    if kind is None:
        raise ConfigurationError(
            f"{where}: the type {annotation!r} cannot be stored; "
            "use a scalar type, a list, dict or model of them, or keep it out of the model"
        )
    unique = Unique() in marks
    return Field(raw.name, kind, nullable, unique or Indexed() in marks, unique, raw.required), marks


def _unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Take Annotated, Optional, NewType and type aliases off an annotation."""
    marks: list[Any] = []
    nullable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            marks += more
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, _typing("TypeAliasType")):
            annotation = annotation.__value__
        elif origin in (Union, types.UnionType):
            rest = [arg for arg in get_args(annotation) if arg is not type(None)]
            nullable = nullable or len(rest) < len(get_args(annotation))
            if len(rest) != 1:
                return annotation, marks, nullable
            annotation = rest[0]
        else:
            has_none = annotation is Any or (origin is Literal and None in get_args(annotation))
            return annotation, marks, nullable or has_none


def _kind(annotation: Any, *, pydantic: bool) -> Kind | None:
    if annotation is Any:
        return Kind.JSON
    if get_origin(annotation) is Literal:
        return _common(get_args(annotation))
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, enum.Enum):
            return _common(member.value for member in annotation)
        for base, kind in _KINDS.items():
            if issubclass(annotation, base) and (annotation is not datetime or base is datetime):
                return kind
        return Kind.JSON if _nests(annotation) or (pydantic and not _hopeless(annotation)) else None
    if isinstance(annotation, TypeVar) or annotation in (None, type(None)):
        return None
    origin = get_origin(annotation)
    return None if isinstance(origin, type) and origin.__module__ == "collections.abc" and _calls(origin) else Kind.JSON


def _calls(origin: type) -> bool:
    return origin.__name__ in ("Callable", "Coroutine", "Awaitable", "Iterator", "Generator", "AsyncIterator")


def _common(values: typing.Iterable[Any]) -> Kind:
    kinds = {_KINDS.get(type(value)) for value in values} - {_KINDS.get(type(None))}
    (kind,) = kinds if len(kinds) == 1 else (None,)
    return kind or Kind.JSON


def _nests(cls: type) -> bool:
    """Tell whether values of a class can stand in JSON."""
    return (
        issubclass(cls, _NESTING)
        or dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or is_pydantic(cls)
        or any(is_typeddict(cls) for is_typeddict in _typing("is_typeddict"))
        or cls is timedelta
    )


def _hopeless(cls: type) -> bool:
    """Tell of a class, which pydantic may know how to write as JSON, that its values cannot be read back."""
    return cls in (object, complex, type) or cls.__module__ == "types" or hasattr(cls, "get_secret_value")


def _table_name(cls: Any) -> str:
    origin = origin_of(cls)
    named = next((vars(base)["__tablename__"] for base in origin.__mro__ if "__tablename__" in vars(base)), None)
    own = vars(origin).get("__tablename__")
    if isinstance(own, str):
        name = own
    elif named is not None and not isinstance(named, str):  # SQLModel computes it for each class
        name = str(cast("Any", origin).__tablename__)
    else:  # a name that a base class has set is the base's table
        arguments = "_".join(_class_name(argument) for argument in get_args(cls))
        spoken = re.sub(r"\W+", "_", f"{origin.__name__}_{arguments}").strip("_")
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", spoken).lower()
        name = re.sub(r"__+", "_", name)
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,50}", name):
        raise ConfigurationError(
            f"{_class_name(cls)}: {name!r} is no table name; set __tablename__ to lower-case letters, digits and _"
        )
    if name.startswith(("ambidex_", "sqlite_", "pg_")):
        raise ConfigurationError(f"{_class_name(cls)}: the table name {name!r} is reserved; set another __tablename__")
    return name
