"""ingest, reindex and search, as a user runs them: texts are stored, found, and given other vectors."""

import json
from pathlib import Path

import pytest

from ambidex import UnifiedStorage
from ambidex.cli import main
from ambidex.core.embedding import Embedder


def test_ingested_texts_are_found(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "swans.md").write_text("# Whooper swans\n\nThey winter on [lowland] lakes.")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    assert main(["ingest", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("1 documents stored in ")
    assert said.out.endswith("; 1 files left out\n")
    assert said.err == "left out: photo.jpg: not UTF-8\n"
    assert main(["ingest", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["stored"], report["unchanged"], report["skipped"]) == (0, 1, 1)
    assert report["left_out"] == [{"path": "photo.jpg", "why": "not UTF-8"}]
    assert main(["search", "where do swans winter?"]) == 0
    shown = capsys.readouterr().out
    assert "Whooper swans" in shown
    assert "They winter on [lowland] lakes." in shown
    assert main(["search", "swans", "--json"]) == 0
    assert [hit["title"] for hit in json.loads(capsys.readouterr().out)] == ["Whooper swans"]
    assert main(["search", "swans", "--min-score", "1.1"]) == 1
    assert main(["search", "zebras"]) == 1
    assert capsys.readouterr().err == "error: nothing was found\n" * 2


def test_a_folder_without_texts_is_an_error(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", str(tmp_path)]) == 1
    assert "holds no text: 0 files" in capsys.readouterr().err
    for number in range(15):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"\xff\xd8")
    assert main(["ingest", str(tmp_path)]) == 1
    assert "holds no text: 15 files were looked at" in capsys.readouterr().err
    (tmp_path / "text.md").write_text("A swan.")
    assert main(["ingest", str(tmp_path)]) == 0
    named = capsys.readouterr().err.splitlines()
    assert len(named) == 11
    assert named[-1] == "and 5 more; --json names them all"


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
    report = json.loads(capsys.readouterr().out)
    assert (report["stored"], report["unchanged"]) == (151, 0)
    (folder / "007.md").write_text("# Note 7\n\nIt is about otters now.")
    assert main(["ingest", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 documents stored in ")
    assert said.endswith(" s, 150 unchanged\n")
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
