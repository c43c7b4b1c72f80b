"""What a record is made of, as data: the constraints in annotations, the kinds of fields, the spec of a kind.

Backends are made from these and from nothing else of a model. The invariant: a spec is complete and immutable, so
whatever a backend needs to know about a field stands in it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

from ambidex.errors import UnsupportedValue

__all__ = [
    "LAST_NUMBER",
    "CreatedAt",
    "DeletedAt",
    "Field",
    "Id",
    "Indexed",
    "Kind",
    "RecordSpec",
    "Unique",
    "UpdatedAt",
    "Version",
    "is_mark",
]


class _Mark:
    """A constraint that stands in an annotation; two of one kind are equal."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Id(_Mark):
    """The field that identifies a record; without it, the field named ``id`` does. Text, int or UUID.

    Text and UUID are made where none is given, and so is an int that may be None: 1, 2, 3.
    """


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


def is_mark(one: Any) -> bool:
    """Tell whether something in an annotation is one of these constraints, which no value can break."""
    return isinstance(one, _Mark)


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


class Field(NamedTuple):
    """One field of a record."""

    name: str
    kind: Kind
    nullable: bool
    indexed: bool = False
    unique: bool = False
    required: bool = True


LAST_NUMBER = 2**53 - 1
"""The greatest number that is given to a record: readers of JSON lose digits of greater ones."""


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
    numbered: bool = False
    """Whether records without an id get the next number: the id is an int that may be None."""

    def check_room(self, last: int, count: int) -> None:
        """Check that so many numbers are left above the last one.

        Raises:
            UnsupportedValue: they are not.
        """
        if last > LAST_NUMBER - count:
            raise UnsupportedValue(
                f"{self.name}.{self.id} has {max(0, LAST_NUMBER - last):,} numbers left, not {count:,}; "
                "give new records an id, or make it a UUID"
            )

    def carry_over(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Give a row that replaces another what it hands on: the time of creation, and a version that has grown."""
        if self.created_at is not None:
            new[self.created_at] = old[self.created_at]
        if self.version is not None:
            new[self.version] = self.version_of(old) + 1

    def changed(self, old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with some fields changed: its version has grown."""
        new = {**old, **changes}
        if self.version is not None:
            new[self.version] = self.version_of(old) + 1
        return new

    def version_of(self, row: Mapping[str, Any]) -> int:
        """Return a record's version; 0 where it is older than its model's version field."""
        return int(row[self.version or ""] or 0)

    def field(self, name: str) -> Field:
        """Return a field by name."""
        return next(field for field in self.fields if field.name == name)
