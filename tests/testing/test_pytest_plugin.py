"""The fixtures for users, and that loading the plugin costs nothing."""

import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from ambidex import UnifiedStorage
from ambidex.face import Face
from ambidex.testing import Mode

Run = Callable[[Callable[[Face], Coroutine[Any, Any, Any]]], Any]


def test_the_storage_is_fresh_and_in_memory(ambidex_storage: UnifiedStorage) -> None:
    assert ambidex_storage.settings.url.backend == "memory"
    assert ambidex_storage.get("key") is None
    ambidex_storage.set("key", 1)


def test_the_storage_is_fresh_again(ambidex_storage: UnifiedStorage) -> None:
    assert ambidex_storage.get("key") is None


def test_a_body_runs_in_each_mode(ambidex_run: Run, ambidex_mode: Mode) -> None:
    async def check(storage: Face) -> Any:
        await storage.set("user:1", {"name": "Ada"})
        return (await storage.get("user:1"))["name"], storage._is_blocking

    assert ambidex_run(check) == ("Ada", ambidex_mode is Mode.BLOCKING)


def test_loading_the_plugin_imports_neither_storage_nor_hypothesis() -> None:
    heavy = ("ambidex.storage", "ambidex.testing.contract", "hypothesis", "msgspec", "apsw", "asyncio")
    code = (
        "import sys, pytest; before = set(sys.modules); import ambidex.testing.pytest_plugin;"
        f"print(sorted(name for name in {heavy} if name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_imports_neither_pytest_nor_hypothesis() -> None:
    code = (
        "import sys, ambidex; from ambidex import UnifiedStorage;"
        "UnifiedStorage('memory://').set('k', 1); UnifiedStorage('sqlite://').close();"
        "print([name for name in ('pytest', 'hypothesis') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
