"""The command line as a whole: its help, its exit codes, what it imports, and one line where something is wrong."""

import os
import subprocess
import sys

import pytest

import ambidex
from ambidex.cli import main

COMMANDS = ("demo", "health", "get", "set", "delete", "scan", "ingest", "reindex", "search", "chat", "outbox")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: ambidex {command}" in shown
    assert "--json" in shown


def test_the_help_lists_every_command(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == ambidex.__version__


def test_a_missing_capability_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "a", "--url", "redis://127.0.0.1:1"]) == 1
    shown = capsys.readouterr().err
    assert "has no search" in shown
    assert "--search sqlite:///index.db" in shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["get", "a", "--url", "nope"], "'nope' is not a storage URL"),
        (["get", "a", "--url", "sqlite:////no/such/folder/a.db"], "does not exist; create /no/such/folder"),
        (["set", "a", "{", "--parse"], "the value is not JSON"),
        (["set", "a\x00", "1"], "contains a NUL character"),
        (["set", "a", "1", "--ttl", "-1"], "a time to live is above 0"),
        (["ingest", "/no/such/folder"], "there is no file or folder"),
        (["search", "a", "--top-k", "0"], "top_k is 1 to 1,000"),
        (["demo", "/no/such/folder"], "there is no file or folder"),
        (["demo", "--script", "/no/such/script"], "cannot read the script"),
        (["chat", "--script", "/no/such/script"], "cannot read the script"),
        (["chat", "--top-k", "0"], "top_k is 1 to 100"),
        (["search", "a", "--min-score", "nan"], "min_score is a number"),
        (["search", "a", "--embedder", "gpt"], "embedder must be one of auto, none, wordllama, minilm"),
        (["search", "a", "--embedder", "minilm:/no/such"], "embedder 'minilm' "),
        (["chat", "--chat-id", "a\x00b", "--script", "/dev/null"], "contains a NUL character"),
        (["health", "memory://", "--url", "memory://"], "takes one storage"),
        (["search", "a", "--search", "nope"], "'nope' is not a storage URL"),
        (["ingest", ".", "--blobs", "nope"], "'nope' is not a storage URL"),
        (["outbox", "list", "--kv", "nope"], "'nope' is not a storage URL"),
        (["outbox", "retry"], "name the ids to retry or discard"),
        (["outbox", "list", "abc"], "name the ids to retry or discard"),
        (["outbox", "list", "--limit", "0"], "a limit is 1 to 10,000"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    arguments: list[str], line: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert line in shown.err
    assert shown.err.count("\n") == 1


def test_wrong_usage_is_exit_code_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get"]) == 2
    assert main(["bogus"]) == 2
    assert "bogus" in capsys.readouterr().err


def test_the_package_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ambidex", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ambidex.__version__)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("options", [["--json"], []])
def test_an_output_without_room_is_one_line(options: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ambidex", "health", "--url", "memory://", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


def _python(code: str, **kwargs: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_importing_loads_no_third_party_package() -> None:
    names = ("apsw", "asyncio", "cyclopts", "msgspec", "rich")
    done = _python(f"import sys, ambidex.cli; print([name for name in {names} if name in sys.modules])")
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_the_extra_it_says_how_to_install_it(missing: str) -> None:
    done = _python(
        f"import sys; sys.modules[{missing!r}] = None; from ambidex.cli import main; sys.exit(main(['scan']))"
    )
    assert done.returncode == 1
    assert done.stderr == f"error: the command line needs the package {missing!r}: pip install 'ambidex[cli]'\n"
