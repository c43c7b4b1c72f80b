"""The README, docs/ and examples/: every Python example runs, and prints what it says it prints.

Each fenced ``python`` block is a program of its own, run in a fresh interpreter in an empty folder with warnings as
errors. What stands behind ``# ->`` in its lines is what it must print, in that order. One that says ``server=postgres``
or ``server=redis`` is run against a private server, whose address takes the place of the one in the text.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ambidex import UnifiedStorage
from tests.services.handle import Service

pytestmark = pytest.mark.docs

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"# -> (.*)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^]]+\]\(([^)#\s]+)\)")


ADDRESS = {" server=postgres": "postgresql://localhost/app", " server=redis": "redis://localhost:6379/0"}
DESIGN = ROOT / "docs" / "design"


def _blocks(info: str) -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 2
            if block.group(1) == info:
                found.append(pytest.param(block.group(2), id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def _run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("code", _blocks(""))
def test_an_example_runs_and_prints_what_it_says(code: str, tmp_path: Path) -> None:
    assert _run(["-c", code], tmp_path).splitlines() == PROMISE.findall(code)


def _run_on(server: Service, info: str, code: str, folder: Path) -> None:
    assert ADDRESS[info] in code
    here = (
        f"import logging; logging.disable()\n{code.replace(ADDRESS[info], server.url)}"  # it warns of volatile servers
    )
    assert _run(["-c", here], folder).splitlines() == PROMISE.findall(code)


@pytest.mark.parametrize("code", _blocks(" server=postgres"))
def test_an_example_runs_on_postgresql(code: str, postgres_server: Service, tmp_path: Path) -> None:
    _run_on(postgres_server, " server=postgres", code, tmp_path)


@pytest.mark.parametrize("code", _blocks(" server=redis"))
def test_an_example_runs_on_redis(code: str, redis_server: Service, tmp_path: Path) -> None:
    _run_on(redis_server, " server=redis", code, tmp_path)


def test_no_example_is_left_out() -> None:
    infos = {block.group(1) for page in PAGES for block in BLOCK.finditer(page.read_text(encoding="utf-8"))}
    assert infos == {"", *ADDRESS}


def test_decisions_have_numbers_of_their_own_and_stand_in_the_index() -> None:
    pages = {page.name: page for page in DESIGN.glob("[0-9]*.md")}
    assert len({name[:3] for name in pages}) == len(pages)
    entry = re.compile(r"^\| \[(\d{3})]\(([^)]+)\) \| (.+?) \|", re.MULTILINE)
    index = entry.findall((DESIGN / "README.md").read_text(encoding="utf-8"))
    titles = {name: page.read_text(encoding="utf-8").splitlines()[0] for name, page in pages.items()}
    assert {name: f"# {number}: {title}" for number, name, title in index} == titles
    assert [number for number, _, _ in index] == sorted(number for number, _, _ in index)


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


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "sqlite:///file.db",
        "postgresql://user@host/database",
        "redis://host:6379/0",
        "s3://bucket/prefix",
        "file:///folder",
    ],
)
def test_the_table_of_backends_says_what_each_can_do(url: str) -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    header = next(row for row in rows if row[0] == "URL")
    row = next(row for row in rows if f"`{url}" in row[0])
    said = {name for name, cell in zip(header[1:-1], row[1:-1], strict=True) if cell == "yes"}
    assert said == set(map(str, UnifiedStorage(url)._core.configured()))
