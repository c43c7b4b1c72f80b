"""get, set, delete and scan, as a user runs them: what goes in comes out, and what is found is printed."""

import json
import os
import subprocess
import sys

import pytest

from ambidex import UnifiedStorage
from ambidex.cli import main


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
