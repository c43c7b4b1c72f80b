"""Model classes as records: how an object becomes a row and back; repositories call this.

Understood are pydantic v2 models, dataclasses, msgspec Structs, attrs classes and SQLModel. Constraints are
annotations: ``Annotated[str, Indexed()]``. The invariant: a row is an object's fields in the one form that every
backend returns unchanged, and an object that could not be made from its row again is refused before any I/O.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import msgspec

from ambidex.core.construction import Construction
from ambidex.core.derive import annotations_of, derive, field_names, origin_of
from ambidex.core.ids import uuid7s
from ambidex.core.rows import Rows
from ambidex.core.spec import (
    CreatedAt,
    DeletedAt,
    Field,
    Id,
    Indexed,
    Kind,
    RecordSpec,
    Unique,
    UpdatedAt,
    Version,
)
from ambidex.core.validating import is_pydantic, validate_nested, validator, why
from ambidex.core.values import all_nested, nested, scalar, scalars
from ambidex.errors import ConfigurationError, Corrupted, InvalidQuery, UnsupportedValue

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

Serializer = Callable[[Any], str | bytes]


class Model(Generic[T]):
    """A class with its spec, and the conversions."""

    def __init__(self, cls: type[T]) -> None:
        self.cls = cls
        self.name = getattr(cls, "__name__", str(cls))
        self.spec = derive(cls)
        self._origin = origin_of(cls)
        self._fields = {field.name: field for field in self.spec.fields}
        self._optional = tuple(f.name for f in self.spec.fields if not f.required and not f.nullable)
        self._many = types.GenericAlias(list, (cls,))
        self._validate = validator(cls) if is_pydantic(cls) else self._convert
        self._shape = _shape(self._origin)
        self._accepted: set[type] = {self._origin}
        self._takes_more = is_pydantic(cls) and cast("Any", cls).model_config.get("extra") == "allow"
        self._made = frozenset(  # filled in when a record is stored, so an object may still lack them
            name for name in (self.spec.id, self.spec.version, self.spec.created_at, self.spec.updated_at) if name
        )

    def claim(self, kinds: dict[str, Model[Any]]) -> None:
        """Note this model as the one of its table, unless a class of another place and other fields is.

        A class that was defined anew, or two that are given one ``__tablename__``, are meant; two that happen to have
        one name are not.

        Raises:
            ConfigurationError: two classes would mix their records.
        """
        other = kinds.setdefault(self.spec.name, self)
        if other is self or "__tablename__" in {**vars(self._origin), **vars(other._origin)}:
            return
        mine, its = (f"{origin.__module__}.{origin.__qualname__}" for origin in (self._origin, other._origin))
        field = _misfit(self._fields, other._fields) or _misfit(other._fields, self._fields)
        if mine != its and field is not None:
            raise ConfigurationError(
                f"{mine} and {its} would both be kept as {self.spec.name!r}, and {field!r} does not fit both; "
                "set __tablename__ in one of them"
            )

    def to_row(self, obj: T, serializer: Serializer | None = None) -> dict[str, Any]:
        """Return the object's fields in stored form: scalars of their field's type, everything nested JSON-shaped.

        Args:
            obj: an object of the class.
            serializer: writes nested data as JSON text, if the application has its own way; None means the usual one.

        Raises:
            UnsupportedValue: the object is not of the class, or a value in it has no form that all backends keep.
        """
        if type(obj) not in self._accepted:
            self._accept(type(obj))
        if self._takes_more:
            self._refuse_more(obj)
        return {name: self._value(field, getattr(obj, name), serializer) for name, field in self._fields.items()}

    def to_rows(self, objs: Sequence[T], serializer: Serializer | None = None) -> Rows:
        """Return what :meth:`to_row` returns for each object; a field of all of them at a time, which is faster.

        Raises:
            UnsupportedValue: see :meth:`to_row`.
        """
        try:
            columns = self._columns(objs, serializer)
        except UnsupportedValue:
            for obj in objs:
                self.to_row(obj, serializer)  # raises what is wrong with the first
            raise
        return Rows(dict(zip(self._fields, columns, strict=True)), len(objs))

    def _columns(self, objs: Sequence[T], serializer: Serializer | None) -> list[Sequence[Any]]:
        for kind in set(map(type, objs)) - self._accepted:
            self._accept(kind)
        if self._takes_more:
            for obj in objs:
                self._refuse_more(obj)
        columns: list[Sequence[Any]] = []
        for name, field in self._fields.items():
            column = list(map(attrgetter(name), objs))
            where = f"{self.name}.{name}"
            if not field.nullable and name not in self._made and type(None) in set(map(type, column)):
                raise UnsupportedValue(f"{where} is None")
            if field.kind is Kind.JSON:
                columns.append(all_nested(column, where, serializer))
            else:
                columns.append(scalars(field.kind, column, where))
        return columns

    def _accept(self, kind: type) -> None:
        """Take objects of a class for ones of this model, or refuse them: what a subclass adds would be lost."""
        if not issubclass(kind, self._origin):
            raise UnsupportedValue(f"a {self.name} is needed, not {kind.__name__}")
        more = sorted(field_names(kind) - self._fields.keys())
        if more:
            raise UnsupportedValue(
                f"{kind.__name__} has fields that {self.name} has not ({', '.join(more)}), and they would be lost; "
                f"use a repository of {kind.__name__}, or make a {self.name} of it"
            )
        self._accepted.add(kind)

    def _refuse_more(self, obj: Any) -> None:
        """Refuse what a pydantic model with ``extra="allow"`` holds beyond its fields: it has no column."""
        if obj.model_extra:
            raise UnsupportedValue(
                f"{self.name} was given {', '.join(map(repr, obj.model_extra))}, which it has no field for; "
                "add the field, or keep such values in one of their own: more: dict[str, Any] = {}"
            )

    def _value(self, field: Field, value: Any, serializer: Serializer | None = None) -> Any:
        if value is None:
            if not field.nullable and field.name not in self._made:
                raise UnsupportedValue(f"{self.name}.{field.name} is None; declare it optional, or give it a value")
            return None
        where = f"{self.name}.{field.name}"
        if field.kind is Kind.JSON:
            return nested(value, where, serializer)
        return scalar(field.kind, value, where)

    def from_row(self, row: Mapping[str, Any]) -> T:
        """Return the validated object for a row.

        None in a field that is not optional and has a default stands for the default: the field was added to the model
        after the record had been stored. Such a record's version is 0, whatever the default.

        Raises:
            Corrupted: the row does not fit the class.
        """
        try:
            return self._validate(self._without_gaps(row))
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise Corrupted(f"a stored record does not fit {self.name}: {why(error)}") from None

    def _without_gaps(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in self._optional:
            if row.get(name) is None:
                whole = {key: value for key, value in row.items() if value is not None or key not in self._optional}
                version = self.spec.version
                if version is not None:
                    whole.setdefault(version, 0)
                return whole
        return row

    def checked(self, row: Mapping[str, Any]) -> T:
        """Return the object for a row that is about to be stored.

        Raises:
            UnsupportedValue: the values do not fit the class's own annotations, so they could not be read back.
        """
        try:
            return self.from_row(row)
        except Corrupted as error:
            raise UnsupportedValue(f"the object does not fit its class: {str(error).partition(': ')[2]}") from None

    def all_checked(self, rows: Rows) -> list[T]:
        """Return what :meth:`checked` returns for each row.

        Raises:
            UnsupportedValue: see :meth:`checked`.
        """
        if self._validate == self._convert and not any(None in rows.columns[name] for name in self._optional):
            try:
                if self._shape is not None:
                    return cast("list[T]", self._converted(list(map(self._shape, rows)), self._many))
                return self._construction.objects(rows)
            except (msgspec.ValidationError, ValueError, TypeError):
                pass  # one after the other, then, for the words about the first that does not fit
        return [self.checked(row) for row in rows]

    @functools.cached_property
    def _construction(self) -> Construction[T]:
        annotations = {name: self._annotations[name] for name in self._fields}
        return Construction(self.cls, self._origin, annotations, self._converted)

    def changes(self, values: Mapping[str, Any], serializer: Serializer | None = None) -> dict[str, Any]:
        """Return new values of some fields in stored form, each checked against its field's own annotation.

        Raises:
            InvalidQuery: a field is unknown.
            UnsupportedValue: a value does not fit its field.
        """
        row: dict[str, Any] = {}
        for name, value in values.items():
            field = self._fields.get(name)
            if field is None:
                raise InvalidQuery(f"{self.name} has no field {name!r}; it has: {', '.join(self._fields)}")
            row[name] = stored = self._value(field, value, serializer)
            try:
                self._check_field(name, stored)
            except (msgspec.ValidationError, ValueError, TypeError) as error:
                raise UnsupportedValue(f"{self.name}.{name}: {why(error)}") from None
        return row

    def _check_field(self, name: str, value: Any) -> None:
        if self._validate == self._convert:
            self._converted(value, self._annotations[name])
            return
        cls = cast("Any", self.cls)
        if cls.model_config.get("frozen") or cls.model_fields[name].frozen:
            from pydantic import TypeAdapter

            TypeAdapter(cls.model_fields[name].rebuild_annotation()).validate_python(value, strict=False)
            return
        try:
            cls.__pydantic_validator__.validate_assignment(cls.model_construct(), name, value, strict=False)
        except AttributeError:  # a validator of the whole model, which sees only this field here
            return

    @functools.cached_property
    def _annotations(self) -> dict[str, Any]:
        return annotations_of(self.cls)

    def _convert(self, row: Mapping[str, Any]) -> T:
        return cast("T", self._converted(row if self._shape is None else self._shape(row), self.cls))

    @staticmethod
    def _converted(value: Any, kind: Any, *, from_attributes: bool = False) -> Any:
        return msgspec.convert(
            value, type=kind, dec_hook=validate_nested, str_keys=True, from_attributes=from_attributes
        )

    def with_ids(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return ids, new ones for those that are missing: UUIDv7 for UUID and text ids.

        Numbers are the backend's to give, so where records of this kind get them, they stay None.

        Raises:
            UnsupportedValue: they are numbers that may not be None, which the application gives.
        """
        missing = [at for at, value in enumerate(values) if not value and value in (None, "")]
        if not missing:
            return values
        kind = self._fields[self.spec.id].kind
        if kind is Kind.INTEGER:
            if self.spec.numbered:
                return values
            raise UnsupportedValue(
                f"{self.name}.{self.spec.id} is an int and has no value; give it one, or declare it 'int | None', a "
                "UUID or text, which get one by themselves"
            )
        values = list(values)
        for at, made in zip(missing, uuid7s(len(missing)), strict=True):
            values[at] = made if kind is Kind.UUID else str(made)
        return values


_models: Callable[[Any], Any] = functools.cache(Model)


def model_of(cls: type[T]) -> Model[T]:
    """Return the model for a class (derived once).

    Raises:
        ConfigurationError: the class is no model, has no id, or has a field that cannot be kept; the message names it.
    """
    return cast("Model[T]", _models(cls))


def _shape(cls: type) -> Callable[[Mapping[str, Any]], Any] | None:
    """Return what brings a row into the form that msgspec reads a Struct from, or None where it is a row's own.

    A Struct may be written under other names (``rename=``) or as an array (``array_like=True``).
    """
    if not issubclass(cls, msgspec.Struct):
        return None
    fields, tag = msgspec.structs.fields(cls), cls.__struct_config__.tag
    if cls.__struct_config__.array_like:
        head = [] if tag is None else [tag]

        def as_array(row: Mapping[str, Any]) -> list[Any]:
            return head + [row[field.name] if field.name in row else _default(field) for field in fields]

        return as_array
    names = {field.name: field.encode_name for field in fields}
    if all(name == written for name, written in names.items()):
        return None
    return lambda row: {names[name]: value for name, value in row.items()}


def _misfit(mine: Mapping[str, Field], its: Mapping[str, Field]) -> str | None:
    """Return a field of which the other class could not read the records, or None."""
    for name, field in mine.items():
        if its[name].kind is not field.kind if name in its else field.required and not field.nullable:
            return name
    return None


def _default(field: msgspec.structs.FieldInfo) -> Any:
    made = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return msgspec.to_builtins(made)
