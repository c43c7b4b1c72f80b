"""Settings: from URL, keywords, environment and TOML; frozen; no secret shown; everything bad refused by name."""

import pickle
from typing import Any

import pytest

from ambidex.errors import ConfigurationError
from ambidex.settings import Settings, default_url, parse_url


def _settings(url: str | None = "memory://", **options: Any) -> Settings:
    return Settings(url, environ={}, **options)


@pytest.mark.parametrize(
    ("url", "backend", "path"),
    [
        ("memory://", "memory", ""),
        ("sqlite:///relative.db", "sqlite", "relative.db"),
        ("sqlite:////abs/olute.db", "sqlite", "/abs/olute.db"),
        ("sqlite:///with%20space%3F.db", "sqlite", "with space?.db"),
        ("sqlite+aiosqlite:///a.db", "sqlite", "a.db"),
        ("sqlite://", "sqlite", ":memory:"),
        ("sqlite:///:memory:", "sqlite", ":memory:"),
        ("SQLITE:///a.db", "sqlite", "a.db"),
        ("postgresql://u:p@h:5432/db", "postgres", "/db"),
        ("postgresql+asyncpg://h/db", "postgres", "/db"),
        ("postgresql+psycopg2://h/db", "postgres", "/db"),
        ("postgres://h/db", "postgres", "/db"),
        ("redis://h:6379/0", "redis", "/0"),
        ("rediss://h", "redis", ""),
        ("redis+cluster://h", "redis", ""),
        ("redis+sentinel://h", "redis", ""),
        ("s3://bucket/prefix", "objects", "/prefix"),
    ],
)
def test_urls(url: str, backend: str, path: str) -> None:
    place, _ = parse_url(url)
    assert (place.backend, place.path) == (backend, path)


def test_a_driver_suffix_is_dropped_from_what_the_driver_gets() -> None:
    assert parse_url("postgresql+asyncpg://u:p@h/db")[0].url == "postgresql://u:p@h/db"
    assert parse_url("redis+cluster://h:1")[0].scheme == "redis+cluster"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a storage URL; one looks like"),
        ("data.db", "not a storage URL"),
        ("/a/b.db", "not a storage URL"),
        ("mysql://h/db", "unknown scheme 'mysql'.*there are: .*sqlite"),
        ("://x", "unknown scheme ''"),
        ("sqlite://data.db", "no path; write sqlite:///relative.db"),
        ("sqlite://host/data.db", "names a host"),
        ("sqlite:///a.db?cache=shared", "unknown option 'cache'"),
        ("memory://?x=1", "unknown option 'x'"),
        ("redis://h:port/0", "malformed"),
        ("redis://h:99999/0", "malformed"),
        ("redis://[::1/0", "malformed"),
        ("sqlite:///a\x00.db", "NUL"),
        ("sqlite:///a.db?timeout=soon", "timeout must be a number"),
        ("sqlite:///a.db?timeout=0", "timeout must be between"),
        ("sqlite:///a.db?timeout=nan", "timeout must be between"),
        ("sqlite:///a.db?durability=maybe", "durability must be one of durable, relaxed"),
        ("sqlite:///a.db?max_value_bytes=-1", "max_value_bytes must be between"),
    ],
)
def test_bad_urls_say_what_is_wrong(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _settings(url)


@pytest.mark.parametrize("url", [5, b"sqlite:///a.db", ["sqlite:///a.db"]])
def test_a_url_that_is_no_text_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError):
        _settings(url)


def test_bad_urls_show_no_secret() -> None:
    for url in ("mysql://u:hunter2@h/db", "redis://u:hunter2@h:port/0", "u:hunter2", "redis://:hunter2@h:99999"):
        with pytest.raises(ConfigurationError) as caught:
            _settings(url)
        assert "hunter2" not in str(caught.value) or url == "u:hunter2"
        assert caught.value.__cause__ is None


def test_a_keyword_beats_the_url_beats_the_environment_beats_the_default() -> None:
    environ = {"AMBIDEX_TIMEOUT": "3", "AMBIDEX_DURABILITY": "relaxed", "AMBIDEX_LEASE_TIMEOUT": "7"}
    assert Settings("memory://", environ={}).timeout == 30
    assert Settings("memory://", environ=environ).timeout == 3
    assert Settings("memory://?timeout=2", environ=environ).timeout == 2
    made = Settings("memory://?timeout=2", timeout=1, environ=environ)
    assert (made.timeout, made.durability, made.lease_timeout) == (1, "relaxed", 7)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": "x"},
        {"timeout": True},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": [1]},
        {"lease_timeout": 0},
        {"durability": "x"},
        {"max_value_bytes": 2**40},
        {"cache": "redis://h"},
        {"transactions": "redis://h"},
        {"search": "nonsense"},
        {"search": 5},
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        _settings(**options)


def test_overrides_place_capabilities() -> None:
    made = _settings("redis://h", search="sqlite:///i.db", records=None)
    assert made.overrides.keys() == {"search"}
    assert made.overrides["search"].path == "i.db"


def test_the_default_is_the_environment_or_a_file_of_the_user() -> None:
    assert default_url({"AMBIDEX_URL": "memory://"}) == "memory://"
    assert Settings(environ={"AMBIDEX_URL": "redis://h"}).url.backend == "redis"
    assert default_url({"XDG_DATA_HOME": "/data"}) == "sqlite:////data/ambidex/ambidex.db"
    place = parse_url(default_url({"XDG_DATA_HOME": "/odd %41?name"}))[0]
    assert place.path == "/odd %41?name/ambidex/ambidex.db"


def test_embedders_are_names_folders_or_callables() -> None:
    assert Settings("memory://?embedder=minilm:/models/a", environ={}).embedder == "minilm:/models/a"
    assert Settings("memory://", environ={"AMBIDEX_EMBEDDER": "minilm"}).embedder == "minilm"
    assert Settings("memory://", embedder=len, environ={}).embedder is len
    for bad in ("minilm:", "wordllama:/models", "gpt", 5):
        with pytest.raises(ConfigurationError, match="embedder must be one of auto, none, wordllama, minilm"):
            Settings("memory://", embedder=bad, environ={})


def test_toml() -> None:
    made = Settings.from_toml('[ambidex]\nurl = "redis://h"\ntimeout = 4\nsearch = "sqlite:///i.db"\n')
    assert (made.url.backend, made.timeout, made.overrides["search"].path) == ("redis", 4, "i.db")
    assert Settings.from_toml('[other]\nx = 1\n[ambidex]\nurl = "memory://"').url.backend == "memory"
    for text, message in (
        ("[ambidex", "not TOML"),
        ('[ambidex]\ncolour = "x"', "unknown setting 'colour'"),
        ('[ambidex]\nurl = "x"', "not a storage URL"),
        ("ambidex = 5", "table"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Settings.from_toml(text)


def test_settings_are_frozen() -> None:
    made = _settings()
    with pytest.raises(AttributeError, match="frozen"):
        made.timeout = 5
    with pytest.raises(AttributeError):
        made.new = 5


def test_no_repr_shows_a_secret_and_pickling_keeps_everything() -> None:
    made = _settings("redis://user:hunter2@h/0", search="postgresql://u:hunter2@h/db", timeout=7)
    shown = (
        repr(made),
        str(made),
        repr(made.url),
        str(made.url),
        repr(made.overrides),
        made.url.display,
        f"{made.url}",
    )
    assert "hunter2" not in "".join(shown)
    assert "redis://user:***@h/0" in repr(made)
    again = pickle.loads(pickle.dumps(made))
    assert (again.url, again.overrides, again.timeout) == (made.url, made.overrides, 7)
    assert again.url.url == "redis://user:hunter2@h/0"
