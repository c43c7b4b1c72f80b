"""The command line, as a user runs it: what it prints, its exit codes, and one line where something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ambidex
from ambidex import UnifiedStorage
from ambidex.cli import main
from ambidex.core.embedding import Embedder

COMMANDS = ("demo", "health", "get", "set", "delete", "scan", "ingest", "reindex", "search", "chat")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The storage that commands without --url use."""
    monkeypatch.setenv("AMBIDEX_URL", f"sqlite:///{tmp_path}/cli.db")
    monkeypatch.setenv("COLUMNS", "100")
    return f"sqlite:///{tmp_path}/cli.db"


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


def test_a_value_goes_in_and_comes_out(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["set", "greeting", "hello there", "--ttl", "60"]) == 0
    assert main(["get", "greeting"]) == 0
    assert capsys.readouterr().out == "hello there\n"
    assert main(["get", "greeting", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["key"], shown["exists"], shown["value"]) == ("greeting", True, "hello there")
    assert 0 < shown["ttl"] <= 60
    assert main(["delete", "greeting"]) == 0
    assert main(["delete", "greeting"]) == 1
    assert main(["get", "greeting"]) == 1
    assert capsys.readouterr().err == "error: there is no key 'greeting'\n" * 2


def test_a_value_is_text_unless_it_is_to_be_parsed(url: str) -> None:
    main(["set", "text", "5"])
    main(["set", "number", "-5", "--parse"])
    main(["set", "nested", '{"a": [1, null]}', "--parse"])
    with UnifiedStorage(url) as storage:
        assert storage.kv.get_many(["text", "number", "nested"]) == {
            "text": "5",
            "number": -5,
            "nested": {"a": [1, None]},
        }


def test_values_that_json_lacks_are_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from datetime import UTC, datetime

    with UnifiedStorage(url) as storage:
        storage.set("mixed", {"at": datetime(2026, 1, 2, tzinfo=UTC), "raw": b"\x00\xff", "tags": {"b", "a"}})
    assert main(["get", "mixed"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "at": "2026-01-02 00:00:00+00:00",
        "raw": {"base64": "AP8="},
        "tags": ["a", "b"],
    }


def test_bytes_come_out_as_they_are(url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with UnifiedStorage(url) as storage:
        storage.set("raw", b"\x00\xff\n")
    assert main(["get", "raw"]) == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"\x00\xff\n"


def test_scan_prints_keys_of_one_namespace_and_tenant(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for where in ([], ["--namespace", "n"], ["--tenant", "t"]):
        for name in ("a1", "a2", "b1"):
            main(["set", f"{name}{''.join(where[1:])}", "x", *where])
    assert main(["scan"]) == 0
    assert sorted(capsys.readouterr().out.split()) == ["a1", "a2", "b1"]
    assert main(["scan", "a", "--namespace", "n", "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)) == ["a1n", "a2n"]
    assert main(["scan", "--glob", "?1*", "--tenant", "t"]) == 0
    assert sorted(capsys.readouterr().out.split()) == ["a1t", "b1t"]
    assert main(["scan", "--limit", "2"]) == 0
    assert len(capsys.readouterr().out.split()) == 2


def test_ingested_texts_are_found(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "swans.md").write_text("# Whooper swans\n\nThey winter on [lowland] lakes.")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    assert main(["ingest", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("1 documents stored in ")
    assert main(["search", "where do swans winter?"]) == 0
    shown = capsys.readouterr().out
    assert "Whooper swans" in shown
    assert "They winter on [lowland] lakes." in shown
    assert main(["search", "swans", "--json"]) == 0
    assert [hit["title"] for hit in json.loads(capsys.readouterr().out)] == ["Whooper swans"]
    assert main(["search", "swans", "--min-score", "1.1"]) == 1
    assert main(["search", "zebras"]) == 1
    assert capsys.readouterr().err == "error: nothing was found\n" * 2


def test_a_folder_is_stored_in_batches_and_again_only_where_it_changed(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:03}.md").write_text(
            f"# Note {number}\n\nIt is about {'zebras' if number % 50 else 'swans'}."
        )
    (folder / "long.txt").write_text("A sentence about geese. " * 20_000)
    assert main(["ingest", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == 151
    (folder / "007.md").write_text("# Note 7\n\nIt is about otters now.")
    assert main(["ingest", str(folder)]) == 0
    with UnifiedStorage(url) as storage:
        versions = {info.path: info.version for info in storage.documents.iterate()}
        assert len(versions) == 151
        assert {path for path, version in versions.items() if version != 1} == {"007.md"}
        assert [hit.title for hit in storage.search("otters")] == ["Note 7"]


def test_vectors_are_made_anew_for_another_embedder(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for bird in ("swans", "geese", "ducks"):
        (folder / f"{bird}.md").write_text(f"# About {bird}\n\nThey live near water.")
    assert main(["ingest", str(folder)]) == 0
    assert main(["reindex"]) == 1
    assert "there is no embedder" in capsys.readouterr().err
    monkeypatch.setattr("ambidex.embedders.embedder_for", lambda _setting: Embedder(_lengths, "lengths"))
    assert main(["reindex", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["embedded"], report["last"]) == (3, "swans.md#chunk_0")
    assert main(["reindex", "--after", "geese.md#chunk_0"]) == 0
    assert capsys.readouterr().out.startswith("1 vectors made in ")
    monkeypatch.setattr("ambidex.embedders.embedder_for", lambda _setting: Embedder(_interrupted, "lengths"))
    assert main(["reindex", "--after", "ducks.md#chunk_0"]) == 130
    assert capsys.readouterr().err == "to go on: --after ducks.md#chunk_0\ninterrupted\n"


def _lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


def _interrupted(texts: list[str]) -> list[list[float]]:
    raise KeyboardInterrupt


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


def test_a_missing_capability_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "a", "--url", "redis://127.0.0.1:1"]) == 1
    shown = capsys.readouterr().err
    assert "has no search" in shown
    assert "--search sqlite:///index.db" in shown


def test_health_of_something_broken_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database at all" * 100)
    assert main(["health", f"sqlite:///{broken}"]) == 1
    shown = capsys.readouterr()
    assert "down" in shown.out
    assert "damaged or not a database" in " ".join(shown.err.split())


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


def test_a_reader_that_has_enough_ends_it_quietly(url: str) -> None:
    with UnifiedStorage(url) as storage:
        storage.kv.set_many({f"key-{n:06}": n for n in range(20_000)})
    command = [sys.executable, "-c", "import sys; from ambidex.cli import main; sys.exit(main(['scan']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
