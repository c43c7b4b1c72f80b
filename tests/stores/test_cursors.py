"""Cursors are accepted as they were made and in no other form."""

import base64
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambidex import UnifiedStorage
from ambidex.errors import ConfigurationError, Corrupted, InvalidQuery
from ambidex.stores.cursors import read_cursor, write_cursor
from ambidex.testing.record_models import model

_SECRET = b"s" * 32
_EDGES = st.lists(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
    | st.datetimes(timezones=st.just(UTC))
    | st.uuids(),
    max_size=4,
)


@given(st.text(st.characters(codec="utf-8")), st.booleans(), _EDGES)
def test_a_cursor_says_what_it_was_given(query: str, backwards: bool, key: list[Any]) -> None:
    cursor = write_cursor(_SECRET, query, backwards, key)
    assert read_cursor(_SECRET, query, cursor) == (backwards, key)
    for secret, other in ((b"t" * 32, query), (_SECRET, query + " ")):
        with pytest.raises(InvalidQuery):
            read_cursor(secret, other, cursor)


@given(st.data())
def test_a_changed_cursor_is_refused(data: st.DataObject) -> None:
    cursor = write_cursor(_SECRET, "q", False, [1, "a"])
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidQuery):
        read_cursor(_SECRET, "q", base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_an_invented_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery):
        read_cursor(_SECRET, "q", text)


def _first_cursor(storage: UnifiedStorage) -> str:
    things = storage.sync.repository(model("dataclass"))
    things.upsert_many([model("dataclass")(key=str(number)) for number in range(3)])
    cursor: str | None = things.page(size=1).next
    assert cursor is not None
    return cursor


def test_a_database_has_a_secret_of_its_own_that_every_process_shares(tmp_path: Path) -> None:
    one, again = (UnifiedStorage(f"sqlite:///{tmp_path}/one.db") for _ in range(2))
    other = UnifiedStorage(f"sqlite:///{tmp_path}/other.db")
    cursor = _first_cursor(one)
    assert [t.key for t in again.sync.repository(model("dataclass")).page(size=1, cursor=cursor).items] == ["1"]
    _first_cursor(other)
    with pytest.raises(InvalidQuery):
        other.sync.repository(model("dataclass")).page(size=1, cursor=cursor)
    for storage in (one, again, other):
        storage.close()


def test_a_secret_from_the_settings_comes_first() -> None:
    one, two = (UnifiedStorage("memory://", secret=name * 16) for name in ("a", "b"))
    same = UnifiedStorage("memory://", secret="a" * 16)
    cursor = _first_cursor(one)
    _first_cursor(same)
    _first_cursor(two)
    assert same.sync.repository(model("dataclass")).page(size=1, cursor=cursor).items[0].key == "1"
    with pytest.raises(InvalidQuery):
        two.sync.repository(model("dataclass")).page(size=1, cursor=cursor)
    assert "aaaa" not in repr(one.settings)
    with pytest.raises(ConfigurationError, match="16 bytes"):
        UnifiedStorage("memory://", secret="short")


def test_a_damaged_secret_says_so() -> None:
    storage = UnifiedStorage("memory://")
    _first_cursor(storage)
    storage2 = UnifiedStorage("memory://")
    from ambidex.core.codec import encode
    from ambidex.core.dual import drive
    from ambidex.core.ports import Capability, When
    from ambidex.stores import secrets

    leaf = storage2.sync.scope(Capability.RECORDS, blocking=True).leaf
    drive(leaf.kv.put(secrets._KEY, encode("text"), None, When.ALWAYS))
    with pytest.raises(Corrupted, match="cursor-secret"):
        _first_cursor(storage2)
