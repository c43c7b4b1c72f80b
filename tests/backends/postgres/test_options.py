"""What stands in a PostgreSQL URL."""

import pytest

from ambidex.backends.postgres.options import Options
from ambidex.errors import ConfigurationError
from ambidex.settings import parse_url


def _parse(url: str) -> Options:
    return Options.parse(parse_url(url)[0])


def test_defaults() -> None:
    options = _parse("postgresql+asyncpg://ada:secret@db.example:5433/app")
    assert options.conninfo["host"] == "db.example"
    assert options.conninfo["port"] == "5433"
    assert options.conninfo["password"] == "secret"
    assert (options.schema, options.pool_size, options.pooled) == ("", 10, False)
    assert options.isolation == "REPEATABLE READ"
    assert "secret" not in repr(options)
    assert "sslmode" not in options.conninfo


def test_own_options_do_not_reach_libpq() -> None:
    options = _parse("postgresql://h/db?schema=app&pool_size=3&pgbouncer=true&isolation=serializable&sslmode=require")
    assert (options.schema, options.pool_size, options.pooled) == ("app", 3, True)
    assert options.isolation == "SERIALIZABLE"
    assert options.conninfo["sslmode"] == "require"
    assert "schema" not in options.conninfo


def test_tls_means_a_certificate_that_is_checked_in_full() -> None:
    options = _parse("postgresql://h/db?tls=true")
    assert options.conninfo["sslmode"] == "verify-full"
    assert options.conninfo["sslrootcert"] == "system"
    assert _parse("postgresql://h/db?tls=true&sslrootcert=/ca.pem").conninfo["sslrootcert"] == "/ca.pem"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("schema=a;drop", "schema"),
        ("schema=a.b", "schema"),
        ("pool_size=0", "pool_size"),
        ("pool_size=many", "pool_size"),
        ("pgbouncer=perhaps", "pgbouncer"),
        ("isolation=none", "isolation"),
        ("tls=true&sslmode=require", "verify-full"),
        ("unheard_of=1", "unheard_of"),
    ],
)
def test_what_cannot_work_is_named(query: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        _parse(f"postgresql://ada:hidden@h/db?{query}")
