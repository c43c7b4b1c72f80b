"""`ambidex chat` as a user has it: a script, lines from a pipe, a terminal; kept, continued, on servers, too."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from ambidex.cli import main
from tests.services.handle import Service

PROGRAM = [sys.executable, "-W", "error", "-c", "import sys; from ambidex.cli import main; sys.exit(main())"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "swans.md").write_text("# Whooper swans\n\nThey winter on lowland lakes.")
    (folder / "geese.md").write_text("# Barnacle geese\n\nThey graze on salt marshes.")
    return folder


@pytest.fixture
def url(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage with the notes in it, which commands without --url use."""
    url = f"sqlite:///{tmp_path}/chat.db?embedder=none"
    monkeypatch.setenv("AMBIDEX_URL", url)
    assert main(["ingest", str(notes)]) == 0
    return url


def _chat(typed: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [*PROGRAM, "chat", *options]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60, check=False)


def test_lines_from_a_pipe_are_turns(url: str) -> None:
    done = _chat("where do swans winter?\n\nzebras\n")
    assert done.returncode == 0
    assert done.stdout == (
        "> where do swans winter?\n"
        "  They winter on lowland lakes.\n"
        "    [swans.md, 1.00]\n"
        "> zebras\n"
        "  Nothing that is stored fits.\n"
    )
    assert "no language model" in " ".join(done.stderr.split())


def test_weak_passages_are_left_out_if_asked(url: str) -> None:
    question = "where do swans winter, and geese?"
    for least, found in (("0", ["swans.md", "geese.md"]), ("0.9", ["swans.md"]), ("1.1", [])):
        shown = _chat(question, "--chat-id", least, "--min-score", least, "--json")
        assert [each["source"] for each in json.loads(shown.stdout)["turns"][0]["passages"]] == found


def test_the_conversation_is_kept_and_shown_when_it_goes_on(url: str) -> None:
    _chat("where do geese graze?", "--chat-id", "birds")
    again = _chat("", "--chat-id", "birds")
    said = "user: where do geese graze?\nassistant: They graze on salt marshes.  [geese.md]\n\n"
    assert again.stdout == said
    assert _chat("/history\n/reset\n/history", "--chat-id", "birds").stdout == 2 * said
    assert _chat("", "--chat-id", "other").stdout == ""
    with UnifiedStorage(url) as storage:
        assert storage.conversations.history("birds") == []
        assert storage.conversations.restore("birds")
        (asked, answered) = storage.conversations.history("birds")
    assert asked == {"role": "user", "content": "where do geese graze?"}
    assert [each["source"] for each in answered["sources"]] == ["geese.md"]


@pytest.mark.parametrize(
    "script",
    [
        "where do swans winter?\n\nwhere do geese graze?\n",
        json.dumps(["where do swans winter?", "where do geese graze?"]),
        json.dumps(
            [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "where do swans winter?"},
                {"role": "assistant", "content": "Who knows?"},
                {"role": "user", "content": "where do geese graze?"},
            ]
        ),
    ],
    ids=["lines", "texts", "messages"],
)
def test_a_script_is_played(script: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "script").write_text(script)
    capsys.readouterr()
    assert main(["chat", "--script", str(tmp_path / "script"), "--top-k", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["chat_id"], report["history"]) == ("default", [])
    assert [(turn["question"], [found["text"] for found in turn["passages"]]) for turn in report["turns"]] == [
        ("where do swans winter?", ["They winter on lowland lakes."]),
        ("where do geese graze?", ["They graze on salt marshes."]),
    ]


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (b"[1]", "entry 0 of the script"),
        (b'["a", {"role": "user"}]', "entry 1 of the script"),
        (b"[", "begins like JSON and is none"),
        (b"\xff", "no UTF-8 text"),
    ],
)
def test_a_script_that_is_none_is_refused(
    script: bytes, line: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "script").write_bytes(script)
    assert main(["chat", "--script", str(tmp_path / "script")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert line in shown


def test_somebody_types_at_a_terminal(url: str) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen([*PROGRAM, "chat"], stdin=end, stdout=end, stderr=end, close_fds=True) as process:
        os.close(end)
        shown = _until(terminal, "> ")
        assert "no language model" in " ".join(shown.split())
        os.write(terminal, b"where do swans winter?\n")
        shown = _until(terminal, "[swans.md, 1.00]\r\n> ")
        assert "They winter on lowland lakes." in shown
        os.write(terminal, b"\x04")  # Ctrl-D
        assert process.wait(60) == 0
    os.close(terminal)
    with UnifiedStorage(url) as storage:
        assert len(storage.conversations.history("default")) == 2


def _until(terminal: int, text: str) -> str:
    shown, give_up = "", time.monotonic() + 60
    while text not in shown:
        assert time.monotonic() < give_up, shown
        shown += os.read(terminal, 4096).decode()
    return shown


def test_it_talks_on_postgresql(postgres_server: Service, tmp_path: Path, notes: Path) -> None:
    _on_a_server(postgres_server.url, tmp_path, notes)


def test_it_talks_on_redis(redis_server: Service, tmp_path: Path, notes: Path) -> None:
    _on_a_server(redis_server.url, tmp_path, notes)


def _on_a_server(url: str, tmp_path: Path, notes: Path) -> None:
    """The search index lies in SQLite, everything else on the server."""
    places = ("--url", url, "--search", f"sqlite:///{tmp_path}/index.db?embedder=none", "--tenant", tmp_path.name)
    assert main(["ingest", str(notes), *places]) == 0
    first = _chat("where do geese graze?", *places)
    assert "They graze on salt marshes." in first.stdout, first.stderr
    assert _chat("", *places).stdout.startswith("user: where do geese graze?\nassistant: They graze on salt marshes.")
