"""Objects of a dataclass, Struct or attrs class from columns of stored values; models make many at once with this.

The invariant: what comes of it is what msgspec makes of each row alone, and what that one would refuse is refused. A
column whose values are of the annotated type already is taken over, so that objects may share lists with the rows.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain, repeat
from typing import Annotated, Any, Generic, Protocol, TypeVar, Union, get_args, get_origin
from uuid import UUID

import msgspec

from ambidex.core.rows import Rows
from ambidex.core.spec import is_mark

__all__ = ["Construction", "Convert"]

T = TypeVar("T")

_TAKEN_OVER = (str, int, float, bool, bytes, UUID, datetime, date, time, Decimal)
_POST_INIT = ("__post_init__", "__attrs_post_init__")


class Convert(Protocol):
    """msgspec's way to make something of a type from plain data."""

    def __call__(self, value: Any, kind: Any, *, from_attributes: bool = False) -> Any:
        """Return it, or raise ValidationError, ValueError or TypeError."""
        ...


class Construction(Generic[T]):
    """The way to make objects of one class.

    Args:
        cls: the class, with the arguments of its type parameters.
        origin: the class itself.
        annotations: the type of each field.
        convert: see :class:`Convert`.
    """

    def __init__(self, cls: type[T], origin: type[T], annotations: Mapping[str, Any], convert: Convert) -> None:
        self._origin, self._annotations, self._convert = origin, annotations, convert
        self._many = types.GenericAlias(list, (cls,))
        self._as_it_is = {name: _types_of(annotation) for name, annotation in annotations.items()}
        # msgspec sets attributes, too; of what a class does beyond that, it knows more than stands here
        self._bare = (
            not issubclass(origin, msgspec.Struct)
            and origin.__new__ is object.__new__
            and origin.__setattr__ is object.__setattr__
            and not any(hasattr(origin, name) for name in _POST_INIT)
        )

    def objects(self, rows: Rows) -> list[T]:
        """Return an object for each row, all fields of which are given.

        Raises:
            msgspec.ValidationError: some value does not fit; so do ValueError and TypeError.
        """
        if not self._bare:
            shapes = list(map(self._shape, *[rows.columns[name] for name in self._shape.__struct_fields__]))
            made: list[T] = self._convert(shapes, self._many, from_attributes=True)
            return made
        columns = {name: self._column(name, values) for name, values in rows.columns.items()}
        made = list(map(object.__new__, repeat(self._origin, len(rows))))
        for name, values in columns.items():
            deque(map(setattr, made, repeat(name), values), maxlen=0)
        return made

    def _column(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        """Return a field's values as objects hold them."""
        types_ = set(map(type, values))
        wanted = self._as_it_is[name]
        if types_ <= wanted:
            if list not in types_:
                return values
            if set(map(type, chain.from_iterable(value for value in values if value is not None))) <= {str}:
                return values
        converted: Sequence[Any] = self._convert(list(values), types.GenericAlias(list, (self._annotations[name],)))
        return converted

    @functools.cached_property
    def _shape(self) -> type[msgspec.Struct]:
        """A class with the fields as attributes: its objects are made faster than dicts, and never collected."""
        return msgspec.defstruct("_Shape", [(name, Any) for name in self._annotations], gc=False)


def _types_of(annotation: Any) -> frozenset[Any]:
    """Return the exact types of values that need no conversion, and no look, to be what an annotation says."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *marks = get_args(annotation)
        return _types_of(inner) if all(map(is_mark, marks)) else frozenset()
    if origin in (Union, types.UnionType):
        kinds = [_types_of(one) if one is not type(None) else frozenset({one}) for one in get_args(annotation)]
        return frozenset().union(*kinds) if len(kinds) == 2 and type(None) in get_args(annotation) else frozenset()
    if annotation == list[str]:
        return frozenset({list})
    return frozenset({annotation}) if annotation in _TAKEN_OVER else frozenset()
