"""The tree of errors: complete, documented, redacted, and fit to cross processes."""

import copy
import pickle
import re

import pytest

from ambidex import errors
from ambidex.errors import AmbidexError, redact

_ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AmbidexError)]


def test_every_error_is_public_and_stands_in_the_tree_with_its_parent() -> None:
    tree = errors.__doc__ or ""
    branch: list[tuple[int, str]] = []
    parents: dict[str, str] = {}
    for line in tree.splitlines():
        if (found := re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)) is None:
            continue
        depth = len(found[1])
        while branch and branch[-1][0] >= depth:
            branch.pop()
        parents[found[2]] = branch[-1][1] if branch else "Exception"
        branch.append((depth, found[2]))
    assert set(parents) == {error.__name__ for error in _ALL} <= set(errors.__all__)
    for error in _ALL:
        assert parents[error.__name__] in {base.__name__ for base in error.__bases__}, error


@pytest.mark.parametrize("error", _ALL, ids=lambda error: error.__name__)
def test_each_says_what_became_of_the_call(error: type[AmbidexError]) -> None:
    made = error("message")
    assert made.applied == ("unknown" if issubclass(error, errors.UncertainError) else "no")
    assert made.retryable is issubclass(error, errors.RetryableError)
    assert made.retry_after is None
    assert error.__doc__


@pytest.mark.parametrize("error", _ALL, ids=lambda error: error.__name__)
def test_each_crosses_processes_and_copies(error: type[AmbidexError]) -> None:
    made = error("what happened", applied="yes", retryable=True, retry_after=1.5)
    for again in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert type(again) is error
        assert str(again) == "what happened"
        assert (again.applied, again.retryable, again.retry_after) == ("yes", True, 1.5)


def test_builtin_parents() -> None:
    assert issubclass(errors.NotFound, LookupError)
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    for error in (errors.InvalidKey, errors.InvalidQuery, errors.UnsupportedValue, errors.ConfigurationError):
        assert issubclass(error, ValueError)
    assert issubclass(errors.UsageError, RuntimeError)


@pytest.mark.parametrize(
    "text",
    [
        "redis://user:hunter2@host:6379/0",
        "redis://:hunter2@host",
        "cannot reach postgresql://u:hunter2@h/db now",
        "postgresql+asyncpg://u:p@hunter2@h/db",
        "password=hunter2 host=x",
        "PASSWORD: hunter2",
        "token=hunter2&x=1",
        "api_key=hunter2;",
        "access-key = hunter2".replace("-", "_"),
        "Secret='x' secret=hunter2",
    ],
)
def test_secrets_are_redacted(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert "***" in redact(text)
    assert "hunter2" not in str(AmbidexError(text))
    assert "hunter2" not in repr(AmbidexError(text))
    assert "hunter2" not in str(pickle.loads(pickle.dumps(AmbidexError(text))))


@pytest.mark.parametrize("text", ["", "redis://host:6379/0", "sqlite:///a:b@c.db", "no secrets here", "a@b.c"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
