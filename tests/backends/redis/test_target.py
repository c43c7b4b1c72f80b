"""Redis URLs."""

import pytest

from ambidex.backends.redis.target import Address, Login, Target, parse
from ambidex.errors import ConfigurationError
from ambidex.settings import parse_url


def target(url: str) -> Target:
    return parse(parse_url(url)[0])


def test_a_single_server() -> None:
    found = target("redis://user:p%40ss@cache.example:6380/3?prefix=app:&pool_size=4&connect_timeout=2&timeout=1")
    assert (found.mode, found.hosts, found.db) == ("single", (Address("cache.example", 6380),), 3)
    assert found.login == Login("user", "p@ss")
    assert (found.prefix, found.pool_size, found.connect_timeout) == ("app:", 4, 2.0)
    assert found.context() is None
    assert target("valkey://").hosts == (Address("localhost", 6379),)
    assert target("redis://[::1]:7000").hosts == (Address("::1", 7000),)
    assert str(Address("::1", 7000)) == "[::1]:7000"


def test_a_cluster_and_sentinels() -> None:
    found = target("redis+cluster://:secret@h1:1,h2:2,h3")
    assert found.hosts == (Address("h1", 1), Address("h2", 2), Address("h3", 6379))
    assert (found.mode, found.login) == ("cluster", Login("", "secret"))
    found = target("rediss+sentinel://:x@s1,s2:5/main/2?sentinel_password=y")
    assert (found.mode, found.service, found.db) == ("sentinel", "main", 2)
    assert found.hosts == (Address("s1", 26379), Address("s2", 5))
    assert found.sentinel_login == Login("", "y")
    assert found.tls == {}


def test_nothing_shows_a_password() -> None:
    found = target("redis+sentinel://:hush@s1/main?sentinel_password=quiet")
    assert "hush" not in repr(found)
    assert "quiet" not in repr(found)


def test_tls_is_verified_unless_refused() -> None:
    strict = target("rediss://host").context()
    assert strict is not None
    assert strict.check_hostname
    lax = target("rediss://host?ssl_cert_reqs=none").context()
    assert lax is not None
    assert not lax.check_hostname


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h1,h2", "several hosts"),
        ("redis://host/one", "database number"),
        ("redis+cluster://host/1", "only database 0"),
        ("redis+sentinel://host", "master's name"),
        ("redis+cluster://h1:70000,h2", "no host:port"),
        ("redis://host?colour=red", "unknown option 'colour'"),
        ("redis://host?ssl_ca_certs=x", "no TLS"),
        ("rediss://host?ssl_cert_reqs=maybe", "required or none"),
        ("redis://host?pool_size=0", "pool_size must be between"),
        ("redis://host?prefix={x}", "prefix"),
    ],
)
def test_what_cannot_work_is_refused_by_name(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        target(url)


def test_a_missing_certificate_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match="certificate file"):
        target("rediss://host?ssl_ca_certs=/nowhere/ca.pem").context()
