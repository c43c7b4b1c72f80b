"""The tables of records as SQLAlchemy metadata, for Alembic; an application's ``env.py`` calls :func:`metadata`.

The invariant: what the metadata says is exactly what ambidex itself makes, because both are derived from the same spec
and dialect; so on a database that ambidex made, Alembic's autogenerate finds nothing to do, and a table that a
migration made is one that ambidex accepts. Needs the extra ``migrations``; nothing else in the package imports
SQLAlchemy.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from ambidex.backends.relational.record_sql import TENANT, RecordDialect, Sql
from ambidex.core.models import model_of
from ambidex.core.spec import Field, Kind
from ambidex.errors import ConfigurationError

__all__ = ["Kept", "include_object", "metadata", "prepare"]

_DIALECTS = {"sqlite": "ambidex.backends.sqlite.columns", "postgresql": "ambidex.backends.postgres.columns"}


@functools.cache
def _columns(name: str) -> RecordDialect:
    """Return how a dialect of SQLAlchemy's keeps records."""
    if name not in _DIALECTS:
        raise ConfigurationError(f"records are kept in {' and '.join(_DIALECTS)}, not in {name}")
    dialect: RecordDialect = importlib.import_module(_DIALECTS[name]).RECORDS
    return dialect


class _Declared(UserDefinedType[Any]):
    """A column's type in the words of one database."""

    cache_ok = True

    def __init__(self, text: str) -> None:
        self.text = text

    def get_col_spec(self, **_kw: Any) -> str:
        return self.text


class Kept(TypeDecorator[Any]):
    """The type of a record's field, whichever database it is in; written into migrations as ``Kept('uuid')``."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = Kind(kind)

    def __repr__(self) -> str:
        return f"Kept({self.kind.value!r})"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type in the words of a database."""
        return _Declared(_columns(dialect.name).columns[self.kind].type)

    def compare_against_backend(self, dialect: Dialect, conn_type: TypeEngine[Any]) -> bool:
        """Tell Alembic whether a column of the database has this type."""
        found = conn_type.compile(dialect=dialect)
        return found.partition(" COLLATE")[0].upper() == _columns(dialect.name).columns[self.kind].declared.upper()


def metadata(*models: type[Any], into: sa.MetaData | None = None) -> sa.MetaData:
    """Return the tables of model classes, as ``target_metadata`` for Alembic.

    Args:
        *models: the classes of which repositories are made.
        into: metadata of other tables to add them to; None makes a new one.

    Raises:
        ConfigurationError: a class is no model, or has a field that cannot be kept.
    """
    _teach()
    found = sa.MetaData() if into is None else into
    for model in models:
        _table(model, found)
    return found


def _table(model: type[Any], found: sa.MetaData) -> sa.Table:
    spec = model_of(model).spec
    names = Sql(spec, _columns("sqlite"))  # the names of indexes are the same everywhere
    table = sa.Table(
        spec.name,
        found,
        sa.Column(TENANT, Kept("text"), nullable=False),
        *(_column(field) for field in spec.fields),
        sa.PrimaryKeyConstraint(TENANT, spec.id),
    )
    for field in spec.fields:
        if (field.indexed or field.unique) and field.name != spec.id:
            columns = [TENANT, field.name] if field.unique else [TENANT, field.name, spec.id]
            sa.Index(names.index(field), *(table.c[name] for name in columns), unique=field.unique)
    return table


def _column(field: Field) -> sa.Column[Any]:
    return sa.Column(field.name, Kept(field.kind.value), nullable=field.nullable)


def include_object(_item: Any, _name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Keep Alembic from dropping tables that are not in the metadata, ambidex's own among them.

    For ``context.configure(include_object=...)``.
    """
    return not (kind == "table" and reflected and compare_to is None)


def prepare(connection: Connection) -> None:
    """Teach a migration's SQLite connection to compare Decimals; does nothing on other databases."""
    if connection.dialect.name != "sqlite":
        return
    compare: Callable[[str, str], int] = importlib.import_module(_DIALECTS["sqlite"]).compare
    driver: Any = connection.connection.driver_connection
    driver.create_collation("ambidex_decimal", compare)


@functools.cache
def _teach() -> None:
    """Let SQLAlchemy's reflection know the types of our columns.

    SQLite itself keeps the kinds of records as text. Of PostgreSQL's types it does not know the one of the index's
    vectors, and would warn of a table that is none of the application's.
    """
    from sqlalchemy.dialects.postgresql.base import PGDialect
    from sqlalchemy.dialects.sqlite.base import SQLiteDialect

    names = [columns.declared for columns in _columns("sqlite").columns.values()]
    for known, wanted in ((SQLiteDialect.ischema_names, names), (PGDialect.ischema_names, ["halfvec"])):
        for name in wanted:
            if name not in known:
                known[name] = type(name, (_Declared,), {"__init__": _init(name)})


def _init(name: str) -> Callable[..., None]:
    def init(self: _Declared, *_args: Any, **_kw: Any) -> None:
        _Declared.__init__(self, name)

    return init
