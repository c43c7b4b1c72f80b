"""Statements and values on their way to PostgreSQL."""

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambidex.backends.postgres.wire import bigint_array, bytea_array, dump, native, text_array
from ambidex.errors import UnsupportedValue
from tests.services.handle import Service


def test_placeholders_are_numbered() -> None:
    assert native("SELECT ? WHERE a = ? AND b = 'x'") == b"SELECT $1 WHERE a = $2 AND b = 'x'"
    assert native("SELECT 1") == b"SELECT 1"


def test_each_kind_of_argument() -> None:
    values, formats = dump(["é", b"\x00\xff", 5, None, True, 0.5])
    assert values == ["é".encode(), b"\x00\xff", b"5", None, b"t", b"0.5"]
    assert formats == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("value", ["a\x00b", object(), [1]])
def test_what_cannot_be_bound_is_refused(value: object) -> None:
    with pytest.raises(UnsupportedValue):
        dump([value])


_TEXTS = st.lists(st.text(st.characters(exclude_characters="\x00", codec="utf-8")))
_BLOBS = st.lists(st.none() | st.binary())
_NUMBERS = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))


def test_arrays_arrive_as_they_were(postgres_server: Service) -> None:
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:

        def back(data: bytes, kind: str) -> object:
            result = connection.pgconn.exec_params(f"SELECT to_json($1::{kind}[])".encode(), [data], None, [1])
            assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, result.error_message
            import json

            return json.loads(result.get_value(0, 0) or b"null")

        @given(_TEXTS, _BLOBS, _NUMBERS)
        def check(texts: list[str], blobs: list[bytes | None], numbers: list[int | None]) -> None:
            assert back(text_array(texts), "text") == texts
            assert back(bytea_array(blobs), "bytea") == [b if b is None else f"\\x{b.hex()}" for b in blobs]
            assert back(bigint_array(numbers), "bigint") == numbers

        check()
