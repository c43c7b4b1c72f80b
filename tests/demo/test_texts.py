"""Where the demo's texts come from: only text is read, the rest is counted, and there are always texts of our own."""

import os
from pathlib import Path

import pytest

from ambidex.demo import texts
from ambidex.demo.texts import own_texts, questions_about, read_folder
from ambidex.errors import ConfigurationError


def test_a_folder_gives_its_texts_and_counts_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "swans.md").write_text("# Whooper swans\n\nThey winter here.", encoding="utf-8")
    (tmp_path / "plain.txt").write_text("Grüße", encoding="utf-8")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "nul.bin").write_bytes(b"a\x00b")
    (tmp_path / "empty.txt").write_text(" \n")
    for hidden in (".git", "node_modules"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "text.md").write_text("not to be found")
    corpus = read_folder(str(tmp_path))
    assert [(text.path, text.title) for text in corpus.texts] == [
        ("plain.txt", "plain"),
        ("notes/swans.md", "Whooper swans"),
    ]
    assert sorted(corpus.left_out) == [("empty.txt", "empty"), ("nul.bin", "binary"), ("photo.jpg", "not UTF-8")]


def test_what_leads_out_of_the_folder_or_has_no_name_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("not of this folder")
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "swans.md").write_text("\ufeff# Swans\n\nThey winter here.", encoding="utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "again.md").symlink_to(folder / "swans.md")
    (folder / "dangling.md").symlink_to(tmp_path / "none")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.md")
    (folder / "large.txt").write_bytes(b"x" * (2 * 1024 * 1024 + 1))
    with open(os.fsencode(folder) + b"/bad\xff.md", "w", encoding="utf-8") as file:
        file.write("fine text, bad name")
    corpus = read_folder(str(folder))
    assert [(text.path, text.title, text.content[:7]) for text in corpus.texts] == [
        ("again.md", "Swans", "# Swans"),
        ("swans.md", "Swans", "# Swans"),
    ]
    assert dict(corpus.left_out) == {
        "bad\\udcff.md": "its name is not UTF-8",
        "dangling.md": "a link that leads out of the folder",
        "large.txt": "larger than 2 MiB",
        "link.txt": "a link that leads out of the folder",
        "pipe.md": "not a file",
    }
    assert read_folder(str(folder / "link.txt")).texts[0].content == "not of this folder", "it was named itself"


def test_one_file_is_a_corpus_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.txt").write_text("a single text")
    assert [text.path for text in read_folder("one.txt").texts] == ["one.txt"]


def test_a_path_without_texts_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file or folder '/no/such/place'"):
        read_folder("/no/such/place")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(ConfigurationError, match="holds no text: 1 files were looked at"):
        read_folder(str(tmp_path))


def test_a_checkout_brings_its_documents_and_docstrings() -> None:
    paths = [text.path for text in own_texts().texts]
    assert {"README.md", "docs/guide.md", "ambidex/stores/kv.py"} <= set(paths)
    assert len(paths) == len(set(paths))


def test_an_installed_package_brings_its_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "ambidex"
    (package / "demo").mkdir(parents=True)
    (package / "errors.py").write_text('"""Every error."""\n\nclass Busy:\n    """Somebody writes."""\n')
    (package / "demo" / "texts.py").write_text('"""Texts."""\n')
    monkeypatch.setattr(texts, "__file__", str(package / "demo" / "texts.py"))
    by_path = {text.path: text for text in own_texts().texts}
    assert by_path["ambidex/errors.py"].content == "Every error.\n\nBusy: Somebody writes."
    assert by_path["ambidex/demo/texts.py"].title == "ambidex.demo.texts"
    assert "docs/guide.md" not in by_path


def test_questions_are_made_of_titles_from_all_over_the_corpus(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.md").write_text(f"# Title {number}\n")
    questions = questions_about(read_folder(str(tmp_path)).texts, most=4)
    assert questions == [f"What is said about Title {number}?" for number in (0, 5, 10, 15)]
