"""The SQL of one kind of record: table, indexes, conditions and orders; ``records.py`` runs it.

The invariant: a statement is made of the spec's own names, which were checked when the spec was derived, and of texts
that stand here; values are bound, and lists are padded to a power of two, so the set of possible statements is finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ambidex.core.ports import Order, RecordQuery, Row
from ambidex.core.query import ELEMENT, Condition
from ambidex.core.rows import column
from ambidex.core.spec import Field, Kind, RecordSpec

__all__ = ["TENANT", "Columns", "RecordDialect", "Sql"]

TENANT = "ambidex_tenant"

Converter = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Columns:
    """How a dialect keeps one kind of value.

    Attributes:
        type: the column's type as written in DDL.
        to_db: turns a Python value, not None, into what the driver binds; None where nothing is to do.
        from_db: turns what the driver returns, not None, back.
        column_to_db: does what ``to_db`` does for many values, None among them, where there is a faster way.
    """

    type: str
    to_db: Converter | None = None
    from_db: Converter | None = None
    column_to_db: Callable[[Sequence[Any]], Sequence[Any]] | None = None

    def all_to_db(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return what ``to_db`` makes of each value, None among them."""
        if self.column_to_db is not None:
            return self.column_to_db(values)
        convert = self.to_db
        return values if convert is None else [None if value is None else convert(value) for value in values]

    @property
    def declared(self) -> str:
        """The type without its collation, as the database reports it."""
        return self.type.partition(" COLLATE")[0]


@dataclass(frozen=True, slots=True)
class RecordDialect:
    """Where the databases differ in keeping records.

    Attributes:
        columns: how each kind is kept.
        contains_text: a template with ``{column}``: a text column contains a bound text.
        contains_json: a template with ``{column}``: a JSON list contains a bound JSON scalar.
        nulls_first: what to write behind an ascending order so that NULL comes first; "" where it does anyway.
        nulls_last: the same behind a descending order, so that NULL comes last.
        same: the operator that compares equal also for NULL.
        not_same: its opposite.
        element: turns what ``contains_json`` looks for, text or an int, into what the driver binds.
        schema: what stands before a table's name, with its point; "" for nothing.
        add_column: how ALTER TABLE says that a column is added.
        true: a condition that always holds.
        false: a condition that never holds.
    """

    columns: Mapping[Kind, Columns]
    contains_text: str
    contains_json: str
    nulls_first: str
    nulls_last: str
    same: str
    not_same: str
    element: Converter
    schema: str = ""
    add_column: str = "ADD COLUMN"
    true: str = "1 = 1"
    false: str = "1 = 0"


_COMPARE = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Sql:
    """The statements for one spec in one dialect; ``?`` marks what is bound."""

    def __init__(self, spec: RecordSpec, dialect: RecordDialect) -> None:
        self.spec, self.dialect = spec, dialect
        self.fields: dict[str, Field] = {field.name: field for field in spec.fields}
        self.table = dialect.schema + _quote(spec.name)
        names = [_quote(name) for name in self.fields]
        self.names = ", ".join(names)
        id_ = _quote(spec.id)
        key = f"({TENANT}, {id_})"
        marks = ", ".join("?" * (len(names) + 1))
        self.select = f"SELECT {self.names} FROM {self.table} WHERE {TENANT} = ?"
        self.get = f"{self.select} AND {id_} = ?"
        self.insert = f"INSERT INTO {self.table} ({TENANT}, {self.names}) VALUES ({marks})"
        self.upsert = f"{self.insert} ON CONFLICT {key} DO UPDATE SET {self._replacing()} RETURNING {self.names}"
        self.delete = f"DELETE FROM {self.table} WHERE {TENANT} = ?"
        self.count = f"SELECT count(*) FROM {self.table} WHERE {TENANT} = ?"
        self._counted = f"coalesce({_quote(spec.version)}, 0)" if spec.version is not None else "0"
        self.version = f"SELECT {self._counted} FROM {self.table} WHERE {TENANT} = ? AND {id_} = ?"
        self._to_db = [(name, dialect.columns[field.kind].to_db) for name, field in self.fields.items()]
        self._from_db = [(name, dialect.columns[field.kind].from_db) for name, field in self.fields.items()]

    # Rows.

    def bind_row(self, tenant: str, row: Row) -> list[Any]:
        """Return a row as the arguments of ``insert`` and ``upsert``."""
        out: list[Any] = [tenant]
        for name, convert in self._to_db:
            value = row[name]
            out.append(value if convert is None or value is None else convert(value))
        return out

    def bind_columns(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """Return what ``insert`` binds for many rows, a list for each column behind the tenant."""
        kinds = self.dialect.columns
        return [kinds[field.kind].all_to_db(column(rows, name)) for name, field in self.fields.items()]

    def row(self, values: Sequence[Any]) -> Row:
        """Return the row behind what a statement with all columns gave."""
        return {
            name: value if convert is None or value is None else convert(value)
            for (name, convert), value in zip(self._from_db, values, strict=True)
        }

    def bind(self, name: str, value: Any) -> Any:
        """Return one value of a field as the driver binds it."""
        convert = self.dialect.columns[self.fields[name].kind].to_db
        return value if convert is None or value is None else convert(value)

    # Definition.

    def create(self) -> list[str]:
        """Return the statements that make the table and its indexes where they do not exist."""
        columns = [f"{TENANT} TEXT NOT NULL", *(self.column(field) for field in self.spec.fields)]
        key = f"PRIMARY KEY ({TENANT}, {_quote(self.spec.id)})"
        return [f"CREATE TABLE IF NOT EXISTS {self.table} ({', '.join(columns)}, {key})", *self.indexes().values()]

    def column(self, field: Field, *, added: bool = False) -> str:
        """Return a column's definition; one added to a table with records cannot demand a value."""
        null = "" if field.nullable or added else " NOT NULL"
        return f"{_quote(field.name)} {self.dialect.columns[field.kind].type}{null}"

    def indexes(self) -> dict[str, str]:
        """Return the statements that make the indexes, by the indexes' names."""
        id_ = self.spec.id
        return {
            self.index(field): f"CREATE {'UNIQUE ' if field.unique else ''}INDEX IF NOT EXISTS"
            f" {_quote(self.index(field))}"
            f" ON {self.table} ({TENANT}, {_quote(field.name)}{'' if field.unique else ', ' + _quote(id_)})"
            for field in self.spec.fields
            if (field.indexed or field.unique) and field.name != id_
        }

    def index(self, field: Field) -> str:
        """Return the name of a field's index."""
        return f"{'ux' if field.unique else 'ix'}_{self.spec.name}_{field.name}"

    # Queries.

    def find(self, tenant: str, query: RecordQuery) -> tuple[str, list[Any]]:
        """Return the statement for a query and what it binds."""
        text, bound = self.where(query.where)
        if query.after is not None:
            behind, more = self._behind(query.order, query.after)
            text, bound = f"{text} AND ({behind})", bound + more
        sql = f"{self.select}{text}"
        if query.order:
            sql += f" ORDER BY {', '.join(map(self._step, query.order))}"
        if query.limit is not None:
            sql, bound = f"{sql} LIMIT ?", [*bound, query.limit]
        return sql, [tenant, *bound]

    def where(self, conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
        """Return conditions as text that continues a WHERE clause, and what it binds."""
        texts: list[str] = []
        bound: list[Any] = []
        for condition in conditions:
            text, values = self._condition(condition)
            texts.append(f" AND {text}")
            bound += values
        return "".join(texts), bound

    def _condition(self, condition: Condition) -> tuple[str, list[Any]]:
        name, op, value = condition
        column, dialect = _quote(name), self.dialect
        if op == "is_null":
            return f"{column} IS {'' if value else 'NOT '}NULL", []
        if op in ("in", "not_in"):
            return self._in(name, list(value), positive=op == "in")
        if op in ("eq", "ne"):
            if value is None:
                return f"{column} IS {'' if op == 'eq' else 'NOT '}NULL", []
            nullable = self.fields[name].nullable
            sign = "=" if op == "eq" else (dialect.not_same if nullable else "<>")
            return f"{column} {sign} ?", [self.bind(name, value)]
        if op == ELEMENT:
            return dialect.contains_json.format(column=column), [dialect.element(value)]
        if op == "contains":
            return dialect.contains_text.format(column=column), [value]
        if op == "startswith":
            return f"({column} >= ? AND substr({column}, 1, ?) = ?)", [value, len(value), value]
        return f"{column} {_COMPARE[op]} ?", [self.bind(name, value)]

    def _in(self, name: str, values: list[Any], *, positive: bool) -> tuple[str, list[Any]]:
        """Return a list condition in which None is a value like any other."""
        column, nullable = _quote(name), self.fields[name].nullable
        given = [self.bind(name, value) for value in values if value is not None]
        padded = pad(given)
        marks = ", ".join("?" * len(padded))
        has_null = len(given) < len(values)
        if positive:
            parts = [f"{column} IN ({marks})"] if padded else []
            parts += [f"{column} IS NULL"] if has_null else []
            return f"({' OR '.join(parts) or self.dialect.false})", padded
        text = f"{column} NOT IN ({marks})" if padded else self.dialect.true
        if has_null:
            return f"({text} AND {column} IS NOT NULL)", padded
        return (f"({text} OR {column} IS NULL)" if nullable else text), padded

    def _step(self, order: Order) -> str:
        dialect = self.dialect
        nulls = (
            (dialect.nulls_last if order.descending else dialect.nulls_first)
            if self.fields[order.field].nullable
            else ""
        )
        return f"{_quote(order.field)}{' DESC' if order.descending else ''}{nulls}"

    def _behind(self, order: Sequence[Order], after: Sequence[Any]) -> tuple[str, list[Any]]:
        """Return the condition that a record comes strictly behind an edge."""
        same_way = len({step.descending for step in order}) == 1
        if same_way and not any(self.fields[step.field].nullable for step in order):
            # One comparison of rows, which an index over the same columns answers.
            names = ", ".join(_quote(step.field) for step in order)
            bound = [self.bind(step.field, edge) for step, edge in zip(order, after, strict=True)]
            return f"({names}) {'<' if order[0].descending else '>'} ({', '.join('?' * len(order))})", bound
        texts: list[str] = []
        bound = []
        equal = ""
        equal_bound: list[Any] = []
        for step, edge in zip(order, after, strict=True):
            column, value = _quote(step.field), self.bind(step.field, edge)
            if edge is None:
                behind, values = (self.dialect.false if step.descending else f"{column} IS NOT NULL"), []
            else:
                behind, values = f"{column} {'<' if step.descending else '>'} ?", [value]
                if step.descending and self.fields[step.field].nullable:
                    behind = f"({behind} OR {column} IS NULL)"
            texts.append(f"({equal}{behind})")
            bound += [*equal_bound, *values]
            equal += f"{column} IS NULL AND " if edge is None else f"{column} = ? AND "
            equal_bound = [*equal_bound, *([] if edge is None else [value])]
        return " OR ".join(texts), bound

    def update(self, names: Sequence[str], *, checked: bool, where: str = "") -> str:
        """Return the statement that sets fields of one record.

        If its version is still the bound one where ``checked``, and if it meets ``where``.
        """
        spec = self.spec
        guard = f" AND {self._counted} = ?" if checked and spec.version is not None else ""
        return f"{self.change(names)} AND {_quote(spec.id)} = ?{guard}{where} RETURNING {self.names}"

    def change(self, names: Sequence[str]) -> str:
        """Return the statement that sets fields of every record of a tenant; conditions may continue it."""
        spec = self.spec
        sets = [f"{_quote(name)} = ?" for name in names]
        if spec.version is not None:
            sets.append(f"{_quote(spec.version)} = {self._counted} + 1")
        if not sets:
            sets = [f"{_quote(spec.id)} = {_quote(spec.id)}"]
        return f"UPDATE {self.table} SET {', '.join(sets)} WHERE {TENANT} = ?"

    def _replacing(self) -> str:
        spec = self.spec
        sets = []
        for name in self.fields:
            column = _quote(name)
            if name == spec.version:
                sets.append(f"{column} = coalesce({_quote(spec.name)}.{column}, 0) + 1")
            elif name not in (spec.id, spec.created_at):
                sets.append(f"{column} = excluded.{column}")
        return ", ".join(sets) or f"{_quote(spec.id)} = excluded.{_quote(spec.id)}"


def pad(values: list[Any]) -> list[Any]:
    """Repeat the last value until the length is a power of two, so that lists of all lengths share few statements."""
    if not values:
        return values
    size = 1 << (len(values) - 1).bit_length()
    return values + values[-1:] * (size - len(values))


def _quote(name: str) -> str:
    """Quote an identifier; names are letters, digits and underscores only."""
    return f'"{name}"'
