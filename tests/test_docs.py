"""The README, docs/ and examples/: every Python example runs, and prints what it says it prints.

Each fenced ``python`` block is a program of its own, run in a fresh interpreter in an empty folder with warnings as
errors. What stands behind ``# ->`` in its lines is what it must print, in that order.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage

pytestmark = pytest.mark.docs

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"# -> (.*)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^]]+\]\(([^)#\s]+)\)")


def _blocks() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 2
            found.append(pytest.param(block.group(1), id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def _run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("code", _blocks())
def test_an_example_runs_and_prints_what_it_says(code: str, tmp_path: Path) -> None:
    assert _run(["-c", code], tmp_path).splitlines() == PROMISE.findall(code)


@pytest.mark.parametrize(
    "example", [pytest.param(path, id=path.name) for path in sorted((ROOT / "examples").glob("*.py"))]
)
def test_a_program_runs_by_its_path_and_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    assert _run([str(example)], tmp_path).splitlines() == PROMISE.findall(example.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("url", ["memory://", "sqlite:///file.db"])
def test_the_table_of_backends_says_what_each_can_do(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "README.md").read_text().splitlines() if line[:1] == "|"]
    header = next(row for row in rows if row[0] == "URL")
    row = next(row for row in rows if url in row[0])
    said = {name for name, cell in zip(header[1:-1], row[1:-1], strict=True) if cell == "yes"}
    with UnifiedStorage(url) as storage:
        assert said == set(storage.health_check())
