"""How the records of one space lie in Redis: its keys, its fields' kinds and indexes; the records port makes these.

A layout is kept beside the records, and every write names the one that it was made for. So processes with older and
newer models may run side by side: each keeps the indexes of the stored layout, also those that its own model lacks.
The invariant: an index answers queries only once it is marked complete; until then it is kept by every write, and is
filled from the records by whoever needs it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import struct
from collections.abc import Mapping, Sequence
from operator import add
from typing import Any, Final, NamedTuple

import msgspec

from ambidex.backends.redis.encoding import (
    all_to_plain,
    encode,
    encode_all,
    from_plain,
    member,
    place,
    places,
    to_plain,
)
from ambidex.core.ports import Row, Space
from ambidex.core.rows import column
from ambidex.core.spec import Kind, RecordSpec
from ambidex.errors import ConfigurationError, Corrupted

__all__ = ["BUILDING", "REVISION", "Column", "Index", "Known", "Layout", "merged"]

REVISION: Final = 8
"""Bytes of a record's revision, which stand before its content."""

PLAIN, INDEX, UNIQUE, BUILDING = 0, 1, 2, 4
_pack = msgspec.msgpack.Encoder().encode
_pack_size = struct.Struct(">I").pack
_unpack = msgspec.msgpack.Decoder(dict[str, Any]).decode
_TABLE = "give the model another __tablename__"


class Column(NamedTuple):
    """A field as it is kept."""

    kind: Kind
    mark: int
    """PLAIN, INDEX or UNIQUE, with BUILDING added while the index may lack older records."""


class Index(NamedTuple):
    """An index on a field."""

    name: str
    kind: Kind
    at: int
    """The number of its key, as scripts count."""


class Known(NamedTuple):
    """A record as it was read."""

    revision: bytes
    plain: dict[str, Any]
    row: Row


Columns = Mapping[str, Column]
Member = tuple[int, bytes]
"""The number of an index's key, and what stands in it."""


class Layout:
    """A space with the stored form of its records.

    Args:
        space: whose.
        prefix: what every key begins with.
        columns: every field that is kept.
    """

    def __init__(self, space: Space, prefix: str, columns: Columns) -> None:
        self.space, self.spec, self.columns = space, space.spec, columns
        self.base = self.base_of(space, prefix)
        self.text = msgspec.json.encode({"id": self.spec.id, "fields": columns})
        self.digest = self.digest_of(self.text)
        self._id_kind = columns[self.spec.id].kind
        names = [self.spec.id, *sorted(n for n, c in columns.items() if c.mark != PLAIN and n != self.spec.id)]
        self.indexes = {name: Index(name, columns[name].kind, at) for at, name in enumerate(names, 3)}
        self.keys = [f"{self.base}layout", f"{self.base}rows", *(f"{self.base}by:{name}" for name in names)]
        self.unique = " ".join(str(i.at) for name, i in self.indexes.items() if columns[name].mark & UNIQUE)
        self._own = tuple((field.name, field.kind) for field in self.spec.fields)

    @staticmethod
    def base_of(space: Space, prefix: str) -> str:
        """Return what every key of a space begins with; they share its hash tag."""
        return f"{prefix}r:{{{space.spec.name}:{space.tenant}}}"

    @staticmethod
    def digest_of(text: bytes) -> bytes:
        """Return what stands for a layout's text."""
        return hashlib.sha256(text).digest()[:8]

    @property
    def building(self) -> list[Index]:
        """The indexes that may lack older records."""
        return [index for name, index in self.indexes.items() if self.columns[name].mark & BUILDING]

    def key_of(self, index: Index) -> str:
        """Return the key of an index."""
        return self.keys[index.at - 1]

    def named(self, at: int) -> Index:
        """Return the index whose key has this number."""
        return next(index for index in self.indexes.values() if index.at == at)

    def id(self, value: Any) -> bytes:
        """Return an id as the name under which its record is kept."""
        return encode(self._id_kind, value)

    def member(self, index: Index, value: Any, id_: Any) -> bytes:
        """Return the member of an index for a value of its field and an id."""
        if index.name == self.spec.id:
            data = self.id(id_)
            return b"\x01" + data + len(data).to_bytes(4, "big")
        return member(place(index.kind, value), self.id(id_))

    def members(self, known: Known, indexes: Sequence[Index] | None = None) -> list[Member]:
        """Return a record's places in indexes (None: all)."""
        id_ = known.row[self.spec.id]
        return [
            (index.at, self.member(index, from_plain(index.kind, known.plain.get(index.name)), id_))
            for index in (self.indexes.values() if indexes is None else indexes)
        ]

    def read(self, data: Any) -> Known:
        """Return a record from its stored form.

        Raises:
            Corrupted: it is something else.
        """
        try:
            plain = _unpack(data[REVISION:])
            row = {name: from_plain(kind, plain.get(name)) for name, kind in self._own}
        except (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError) as error:
            raise Corrupted(f"a record of {self.spec.name} in Redis cannot be read: {error}") from None
        return Known(data[:REVISION], plain, row)

    def made(self, row: Row, old: Known | None = None) -> Known:
        """Return a record that is to be stored; what the model does not know of an older one stays."""
        plain = {**(old.plain if old else {}), **{name: to_plain(kind, row[name]) for name, kind in self._own}}
        return Known(random.getrandbits(64).to_bytes(REVISION, "big"), plain, row)

    def step(self, old: Known | None, new: Known | None) -> bytes:
        """Return the step of a script that replaces one by the other; None is no record."""
        known = new or old
        assert known is not None  # noqa: S101  # a step has a record
        before, after = [] if old is None else self.members(old), [] if new is None else self.members(new)
        content = b"" if new is None else new.revision + _pack(new.plain)
        return _words(
            self.id(known.row[self.spec.id]),
            b"" if old is None else old.revision,
            content,
            [item for item in before if item not in after],
            [item for item in after if item not in before],
        )

    def adding(self, rows: Sequence[Row]) -> bytes:
        """Return the part of a script that adds records."""
        columns = {name: column(rows, name) for name, _ in self._own}
        ids = encode_all(self._id_kind, columns[self.spec.id])
        tails = [id_ + _pack_size(len(id_)) for id_ in ids]
        plain = [all_to_plain(kind, columns[name]) for name, kind in self._own]
        noise = os.urandom(REVISION * len(rows))
        revisions = [noise[at : at + REVISION] for at in range(0, len(noise), REVISION)]
        words = [b""] * (2 * len(rows))
        words[::2] = ids
        words[1::2] = map(add, revisions, map(_pack, map(self._record, *plain)))
        for index in self.indexes.values():
            if index.name == self.spec.id:
                words += [b"\x01" + tail for tail in tails]
            else:
                values = columns.get(index.name) or [None] * len(rows)
                words += map(add, places(index.kind, values), tails)
        return _joined([b"%d" % len(rows), *words])

    @functools.cached_property
    def _record(self) -> type[msgspec.Struct]:
        """A class whose objects are packed as a dict of a record's fields is, and made faster."""
        return msgspec.defstruct("_Record", [(name, Any) for name, _ in self._own], gc=False)

    def entering(self, known: Known) -> bytes:
        """Return the step of a script that enters a stored record into the indexes that may lack it."""
        return _words(self.id(known.row[self.spec.id]), known.revision, b"=", [], self.members(known, self.building))

    def complete(self) -> Columns:
        """Return the columns with every index complete."""
        return {name: column._replace(mark=column.mark & ~BUILDING) for name, column in self.columns.items()}


def _words(id_: bytes, revision: bytes, content: bytes, gone: Sequence[Member], added: Sequence[Member]) -> bytes:
    words = [id_, revision, content]
    for members in (gone, added):
        words.append(b"%d" % len(members))
        for at, data in members:
            words += (b"%d" % at, data)
    return _joined(words)


def _joined(words: Sequence[bytes]) -> bytes:
    return b"".join(map(add, map(_pack_size, map(len, words)), words))


def merged(spec: RecordSpec, text: bytes | None, *, empty: bool) -> dict[str, Column]:
    """Return the columns that a space needs: the stored ones, and what the model adds.

    Args:
        spec: the model's.
        text: the stored layout's, or None.
        empty: whether there are no records, so that new indexes are complete.

    Raises:
        ConfigurationError: the stored records cannot be the model's.
    """
    columns: dict[str, Column] = {}
    if text is not None:
        stored = msgspec.json.decode(text)
        if stored["id"] != spec.id:
            raise ConfigurationError(
                f"the stored records of {spec.name} have the id {stored['id']!r}, the model has {spec.id!r}; "
                f"change the model back, or {_TABLE}"
            )
        columns = {name: Column(Kind(kind), mark) for name, (kind, mark) in stored["fields"].items()}
    for field in spec.fields:
        indexed = field.indexed or field.name in (spec.id, spec.deleted_at)
        wanted = UNIQUE if field.unique and field.name != spec.id else INDEX if indexed or field.unique else PLAIN
        have, where = columns.get(field.name), f"{spec.name}.{field.name}"
        if have is None:
            if text is not None and not empty and field.required and not field.nullable:
                raise ConfigurationError(
                    f"{where} is new and has no default, so stored records would lack it; give it one, or {_TABLE}"
                )
            columns[field.name] = Column(field.kind, _added(wanted, empty))
        elif have.kind is not field.kind:
            raise ConfigurationError(
                f"{where} is {have.kind} in Redis, and the model wants {field.kind}; change the model back, or {_TABLE}"
            )
        elif have.mark == UNIQUE and wanted != UNIQUE:
            raise ConfigurationError(
                f"{where} is unique in Redis and not in the model; annotate it Unique(), or {_TABLE}"
            )
        elif have.mark & UNIQUE and wanted != UNIQUE:  # never completed, perhaps because of equal values
            columns[field.name] = Column(field.kind, INDEX | BUILDING)
        elif wanted > have.mark & ~BUILDING:
            columns[field.name] = Column(field.kind, _added(wanted, empty))
    return columns


def _added(mark: int, empty: bool) -> int:
    return mark if empty or mark == PLAIN else mark | BUILDING
