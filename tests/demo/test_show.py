"""The demo as a user sees it: run as a program, with tables or with one JSON object."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "swans.md").write_text("# Whooper swans\n\nThey winter on lowland lakes.")
    (folder / "geese.md").write_text("# Barnacle geese\n\nThey graze on [bold]salt[/] marshes.")
    return folder


def _demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-m", "ambidex.demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_tables_say_what_was_stored_and_how_long_it_took(texts: Path) -> None:
    done = _demo(str(texts))
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "2 texts",
        "What is said about Whooper swans?",
        "They graze on [bold]salt[/] marshes.",  # a text is not taken for markup
        "What is stored",
        "Storing and asking at the same time",
        "Each operation in each mode",
        "Health",
    ):
        assert part in done.stdout


def test_json_is_one_object_and_a_given_storage_keeps_the_data_apart(texts: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/kept.db"
    done = _demo(str(texts), "--json", "--url", url)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["storage"] == url
    assert report["stored"]["documents"] == 2
    assert {answer["source"] for answer in report["answers"]} == {"swans.md", "geese.md"}


def test_an_error_is_one_line() -> None:
    done = _demo("/no/such/place")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there is no file or folder '/no/such/place'\n"
