"""The guide for authors of backends: whoever follows it has a backend that keeps the contract."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# The whole contract runs in a process of its own, which a busy machine may give little of its time.
pytestmark = [pytest.mark.docs, pytest.mark.timeout(600)]

_GUIDE = Path(__file__).resolve().parent.parent / "docs" / "add-a-backend.md"
_FILE = re.compile(r'^```py title="(\w+\.py)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def _follow(folder: Path, spoil: tuple[str, str] = ("", "")) -> subprocess.CompletedProcess[str]:
    files = dict(_FILE.findall(_GUIDE.read_text(encoding="utf-8")))
    assert set(files) == {"shelf.py", "test_shelf.py"}
    for name, text in files.items():
        assert spoil[0] in "".join(files.values())
        (folder / name).write_text(text.replace(*spoil) if spoil[0] else text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "-W", "error", "test_shelf.py"]
    few = {**os.environ, "AMBIDEX_MACHINE_EXAMPLES": "2"}
    return subprocess.run(command, cwd=folder, env=few, capture_output=True, text=True, timeout=540, check=False)


def test_following_the_guide_gives_a_backend_that_keeps_the_contract(tmp_path: Path) -> None:
    done = _follow(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 100


def test_a_backend_that_breaks_the_contract_is_found_out(tmp_path: Path) -> None:
    done = _follow(tmp_path, ("when is When.ABSENT and exists", "False"))
    assert done.returncode == 1
    assert "FAILED" in done.stdout
