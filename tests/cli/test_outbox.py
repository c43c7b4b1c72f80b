"""outbox, as an operator runs it: what was left is listed, made and given up, by the ids that the list shows."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from ambidex import UnifiedStorage, errors
from ambidex.cli import main
from ambidex.stores.outbox import Outbox
from tests.stores.conftest import stop_applying


def test_what_is_left_is_listed_made_and_given_up(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    places = ["--kv", other]
    assert main(["outbox", *places]) == 0
    assert capsys.readouterr().out == "nothing is left\n"

    async def refuse(*_: object) -> None:
        raise errors.UnsupportedValue("[not] this one")

    with closing(UnifiedStorage(url, kv=other)) as storage:
        with monkeypatch.context() as patch:
            patch.setattr(Outbox, "_together", refuse)
            for key in ("a", "b"):
                with storage.sync.transaction():
                    storage.sync.kv.set(key, "my value")
        with monkeypatch.context() as patch:
            stop_applying(patch)
            with storage.sync.transaction():
                storage.sync.kv.set("c", 1)

    assert main(["outbox", "list", *places]) == 0
    shown = capsys.readouterr().out
    assert "  kv.put kv:::a\n  UnsupportedValue: [not] this one\n" in shown
    assert shown.count(" failed, committed ") == 2
    assert shown.count(" waiting, committed ") == 1
    assert "my value" not in shown
    assert main(["outbox", "--json"]) == 0  # without the places: to look needs only where transactions are
    first, second, waiting = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in (first, second, waiting)] == ["failed", "failed", "waiting"]
    assert first["error"] == "UnsupportedValue: [not] this one"
    assert first["writes"] == [{"place": "kv", "port": "kv", "method": "put", "names": ["kv:::a"]}]

    assert main(["outbox", "recover", *places, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"recovered": 1}
    assert main(["outbox", "retry", first["id"], "0123", *places, "--json"]) == 1
    made, missing = json.loads(capsys.readouterr().out)
    assert made == {"id": first["id"], "done": True, "error": ""}
    assert missing["error"].startswith("NotFound: ")
    assert main(["outbox", "discard", second["id"], *places]) == 0
    assert main(["outbox", "discard", second["id"], *places]) == 1
    assert "nothing is left of a unit" in capsys.readouterr().err
    assert main(["outbox", *places, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    with closing(UnifiedStorage(url, kv=other)) as storage:
        assert storage.sync.kv.get_many(["a", "b", "c"]) == {"a": "my value", "c": 1}
