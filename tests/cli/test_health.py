"""health, as a user runs it: both modes are probed, and what is down says why."""

import json
from pathlib import Path

import pytest

from ambidex.cli import main


def test_health_probes_both_modes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["url"] == url
    assert report["ok"] is True
    assert report["sync"] == report["async"]
    assert {"kv", "log", "records", "search", "transactions"} <= report["sync"].keys()
    assert all(report["sync"].values())
    assert main(["health", "memory://"]) == 0
    assert "capability" in capsys.readouterr().out


def test_health_says_what_is_kept_elsewhere(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["health", "--url", "memory://", "--search", url]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("memory://: probed in ")
    assert [line.split()[-1] for line in shown.splitlines() if "search" in line] == [url]


def test_health_of_something_broken_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database at all" * 100)
    assert main(["health", f"sqlite:///{broken}"]) == 1
    shown = capsys.readouterr()
    assert "down" in shown.out
    assert "damaged or not a database" in " ".join(shown.err.split())
