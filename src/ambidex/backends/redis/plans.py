"""Choosing the index that answers a query of records; the records port does what comes out.

The invariant: a query that no index narrows or orders is refused, unless its caller allows to look at every record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ambidex.backends.redis.encoding import EVERYTHING, Range, intersect, ranges
from ambidex.backends.redis.layout import Index, Layout
from ambidex.core.ports import Order, RecordQuery
from ambidex.core.query import Condition
from ambidex.core.spec import Kind, RecordSpec
from ambidex.errors import InvalidQuery

__all__ = ["Plan", "describe", "plans"]


class Plan(NamedTuple):
    """A way to answer a query."""

    on: Index
    ranges: list[Range]
    rest: list[Condition]
    """What the ranges do not say."""
    ordered: bool
    """Whether the index gives the query's order."""
    points: bool
    """Whether each range is one value."""

    @property
    def whole(self) -> bool:
        """Whether it looks at every record."""
        return self.ranges == EVERYTHING


def plans(layout: Layout, query: RecordQuery) -> list[Plan]:
    """Return the ways to answer a query, at least one.

    Raises:
        InvalidQuery: no index answers it, and ``scan`` is not allowed.
    """
    spec = layout.spec
    said: dict[str, list[Range]] = {}
    unsaid: list[Condition] = []
    for condition in query.where:
        index = layout.indexes.get(condition.field)
        found = None if index is None else ranges(index.kind, condition)
        if found is None:
            unsaid.append(condition)
        else:
            said[condition.field] = intersect(said.get(condition.field, EVERYTHING), found)
    if not query.scan:
        _check(layout, query, unsaid)
    first = query.order[0].field if query.order else spec.id
    fields = dict.fromkeys(said)
    if first in layout.indexes:
        fields[first] = None
    made = [_plan(layout, query, name, said.get(name, EVERYTHING)) for name in fields]
    made = made or [_plan(layout, query, spec.id, EVERYTHING)]
    for plan in made:
        if not plan.ranges or (plan.points and plan.on.name == spec.id):
            return [plan]
        if plan.ordered and not plan.rest:
            return [plan]
    return [plan for plan in made if not _hides(spec, plan)] or made


def describe(layout: Layout, query: RecordQuery, plan: Plan) -> str:
    """Say in one line what a plan does."""
    name, rest = layout.spec.name, [condition.said for condition in plan.rest]
    if plan.whole:
        text = f"a walk over every record of {name} by the index on {plan.on.name}"
    else:
        text = f"the index on {name}.{plan.on.name}, {len(plan.ranges)} range(s)"
    if rest:
        text += f"; each record is compared with {', '.join(rest)}"
    if query.order and not plan.ordered:
        text += f"; sorted by {', '.join(('-' if d else '') + field for field, d in query.order)} afterwards"
    return text


def _plan(layout: Layout, query: RecordQuery, name: str, found: list[Range]) -> Plan:
    index = layout.indexes[name]
    rest = [c for c in query.where if c.field != name or ranges(index.kind, c) is None]
    points = any(c.op in ("eq", "in") or c == (name, "is_null", True) for c in query.where if c.field == name)
    return Plan(index, found, rest, _is_ordered(layout.spec, query.order, name, points and len(found) == 1), points)


def _is_ordered(spec: RecordSpec, order: Sequence[Order], name: str, single: bool) -> bool:
    if not order:
        return True
    first, *others = order
    if first.field == name:
        return others in ([], [Order(spec.id, first.descending)])
    return single and first.field == spec.id


def _hides(spec: RecordSpec, plan: Plan) -> bool:
    """Tell whether a plan only leaves out what is marked deleted, which is usually little."""
    return plan.on.name == spec.deleted_at and plan.ranges[0][0] == b"\x00"


def _check(layout: Layout, query: RecordQuery, unsaid: Sequence[Condition]) -> None:
    spec = layout.spec
    narrowed = any(
        condition not in unsaid and not (condition.field == spec.deleted_at and condition.op == "is_null")
        for condition in query.where
    )
    if unsaid and not narrowed:
        raise InvalidQuery(_remedy(layout, unsaid[0].field, f"the filter {unsaid[0].said}"))
    if query.order:
        first, *others = query.order
        if first.field not in layout.indexes:
            raise InvalidQuery(_remedy(layout, first.field, f"the order by {first.field}"))
        if others not in ([], [Order(spec.id, first.descending)]):
            raise InvalidQuery(
                f"on Redis an index gives the order of {spec.name} by one field, equal ones by {spec.id} in the same "
                f"direction; order by {first.field!r} alone, or allow sorting with scan=True"
            )


def _remedy(layout: Layout, field: str, what: str) -> str:
    if field in layout.indexes:
        return f"no index of {layout.spec.name} answers {what}; use startswith or a comparison, or allow scan=True"
    if layout.spec.field(field).kind is Kind.JSON:
        return (
            f"no index of {layout.spec.name} answers {what}, as {field} is nested data; keep what you filter by in a "
            "field of its own, or allow a look at every record with scan=True"
        )
    return (
        f"no index of {layout.spec.name} answers {what}; annotate the field: {field}: Annotated[..., Indexed()], "
        "or allow a look at every record with scan=True"
    )
