"""The command outbox: what transactions have left for other backends; ``app.py`` lists it.

Its docstring is its --help. The invariant: of several ids, each is dealt with, whatever becomes of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ambidex.cli.output import print_json, stderr, working
from ambidex.cli.places import HERE, Places, opened
from ambidex.errors import AmbidexError, InvalidQuery

if TYPE_CHECKING:
    from ambidex import SyncStorage

__all__ = ["outbox"]


def outbox(
    action: Literal["list", "recover", "retry", "discard"] = "list",
    /,
    *ids: str,
    places: Places = HERE,
    limit: int = 100,
    json: bool = False,
) -> int:
    """Show what transactions have left for other backends, and make it or give it up.

    What waits is made by itself when its backend can be reached; what a backend refuses for good is set aside as failed
    until it is retried or discarded here. Name the places of the capabilities as the program does that wrote.

    Args:
        action: list what waits and what failed; recover: make now what waits; retry: make what failed, for when its
            reason is gone; discard: give up, also what waits.
        ids: of what is to be retried or discarded, from the list.
        places: where the capabilities are.
        limit: list up to this many of each.
        json: print one JSON value.
    """
    if (action in ("retry", "discard")) != bool(ids):
        raise InvalidQuery("name the ids to retry or discard, and none to list or recover: ambidex outbox retry ID")
    with opened(places, "") as storage:
        if action == "list":
            _list(storage, limit, json)
            return 0
        with working(action):
            if action == "recover":
                _recover(storage, json)
                return 0
            act = storage.outbox.retry if action == "retry" else storage.outbox.discard
            problems = {id_: _problem(act, id_) for id_ in ids}
    if json:
        print_json([{"id": id_, "done": not problem, "error": problem} for id_, problem in problems.items()])
    else:
        for id_, problem in problems.items():
            if problem:
                stderr().print(f"error: {id_}: {problem}", markup=False)
    return 1 if any(problems.values()) else 0


def _recover(storage: SyncStorage, json: bool) -> None:
    done = storage.recover()
    if json:
        print_json({"recovered": done})
    else:
        print(f"transactions dealt with: {done}")


def _problem(act: Any, id_: str) -> str:
    try:
        act(id_)
    except AmbidexError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _list(storage: SyncStorage, limit: int, json: bool) -> None:
    units = [("failed", unit) for unit in storage.outbox.failed(limit)]
    units += [("waiting", unit) for unit in storage.outbox.waiting(limit)]
    if json:
        shown = [unit._asdict() | {"writes": [write._asdict() for write in unit.writes]} for _, unit in units]
        print_json([{"state": state, **unit} for (state, _), unit in zip(units, shown, strict=True)])
        return
    if not units:
        print("nothing is left")
        return
    for state, unit in units:
        committed = f", committed {unit.committed_at:%Y-%m-%d %H:%M:%S} UTC" if unit.committed_at else ""
        print(f"{unit.id} {state}{committed}")
        for write in unit.writes:
            print(f"  {write.port}.{write.method} {' '.join(write.names)}")
        if unit.error:
            print(f"  {unit.error}")
