"""The storage of the tests of commands."""

from pathlib import Path

import pytest


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The storage that commands without --url use."""
    monkeypatch.setenv("AMBIDEX_URL", f"sqlite:///{tmp_path}/cli.db")
    monkeypatch.setenv("COLUMNS", "100")
    return f"sqlite:///{tmp_path}/cli.db"
