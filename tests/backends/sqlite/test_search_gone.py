"""The log of items that disappeared: it tells all of them, or that it cannot."""

from __future__ import annotations

from array import array
from typing import Any

import apsw
import pytest

from ambidex.backends.sqlite import search_gone
from ambidex.backends.sqlite.schema import migrate
from ambidex.backends.sqlite.search_schema import space_of


@pytest.fixture
def conn() -> apsw.Connection:
    made = apsw.Connection(":memory:")
    migrate(made, ":memory:")
    return made


def read(conn: apsw.Connection) -> Any:
    return lambda sql, args: conn.execute(sql, args).fetchall()


def current(conn: apsw.Connection, space: int) -> int:
    rows: list[Any] = conn.execute("SELECT gone FROM ambidex_spaces WHERE space = ?", (space,)).fetchall()
    return int(rows[0][0])


def told(conn: apsw.Connection, space: int, known: int) -> list[int] | None:
    found = search_gone.since(read(conn), space, known, current(conn, space))
    return None if found is None else array("q", found).tolist()


def test_it_tells_what_disappeared_since_any_moment(conn: apsw.Connection) -> None:
    space, other = space_of(conn, "a"), space_of(conn, "b")
    moments = [current(conn, space)]
    for turn in range(5):
        search_gone.note(conn, space, [10 * turn, 10 * turn + 1])
        search_gone.note(conn, other, [7])
        moments.append(current(conn, space))
    for turn, moment in enumerate(moments):
        assert told(conn, space, moment) == [10 * n + extra for n in range(turn, 5) for extra in (0, 1)]
    assert told(conn, other, 0) == [7] * 5


def test_it_does_not_tell_of_a_moment_that_it_has_not_seen(conn: apsw.Connection) -> None:
    space = space_of(conn, "a")
    search_gone.note(conn, space, [1])
    first = current(conn, space)
    search_gone.note(conn, space, [2])
    last = current(conn, space)
    assert told(conn, space, -1) is None
    assert told(conn, space, first - 1) is None
    assert told(conn, space, last + 1) is None  # another copy of the file came that far
    assert told(conn, space, 1 << 61) is None


def test_of_many_at_once_it_says_only_that(conn: apsw.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_gone, "_MOST_ITEMS", 3)
    space = space_of(conn, "a")
    search_gone.note(conn, space, [1, 2, 3, 4])
    assert told(conn, space, 0) is None
    before = current(conn, space)
    search_gone.note(conn, space, [5, 6, 7])
    assert told(conn, space, before) == [5, 6, 7]
    assert told(conn, space, 0) is None


def test_it_is_cut_and_says_so(conn: apsw.Connection) -> None:
    space = space_of(conn, "a")
    moments = []
    for item in range(3_000):
        moments.append(current(conn, space))
        search_gone.note(conn, space, [item])
    rows: list[Any] = conn.execute("SELECT count(*) FROM ambidex_gone").fetchall()
    assert rows[0][0] < 2_000
    assert told(conn, space, moments[0]) is None
    assert told(conn, space, moments[-500]) == list(range(2_500, 3_000))
