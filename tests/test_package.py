"""The package as a whole: importing it is cheap and opens nothing, and its public names exist."""

import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest

import ambidex
from ambidex import AsyncStorage, SyncStorage, UnifiedStorage

DRIVERS = ("apsw", "redis", "psycopg", "obstore")
HEAVY = (
    "asyncio",
    "concurrent.futures",
    "email",
    "http",
    "logging",
    "numpy",
    "pydantic",
    "ssl",
    "tokenizers",
    "wordllama",
)
ROOMS = ("conversations", "documents", "log", "media", "outbox", "repository", "search")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import ambidex", (*DRIVERS, *HEAVY, "typing", "ambidex.storage")),
        (
            "from ambidex import UnifiedStorage; UnifiedStorage('memory://')",
            (*DRIVERS, *HEAVY, "dataclasses", "inspect", "msgspec", "uuid", "ambidex.stores.kv"),
        ),
        ("from ambidex import UnifiedStorage; UnifiedStorage('memory://').sync.kv.get('key')", (*DRIVERS, *HEAVY)),
        (
            "from ambidex import SyncStorage; kv = SyncStorage('sqlite://').kv; kv.set('key', 1); kv.get('key')",
            (*DRIVERS[1:], *HEAVY),
        ),
    ],
)
def test_a_process_imports_what_it_uses_and_no_more(code: str, absent: tuple[str, ...]) -> None:
    absent = (*absent, *(f"ambidex.stores.{room}" for room in ROOMS))
    code = f"{code}; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("view", [AsyncStorage, SyncStorage, UnifiedStorage])
def test_annotations_of_what_is_loaded_late_can_be_read(view: type) -> None:
    hints = {name: get_type_hints(value) for name, value in inspect.getmembers(view, inspect.isfunction)}
    assert "ttl" in hints["set"]


def test_every_public_name_exists() -> None:
    for name in ambidex.__all__:
        if name != "unified_storage":
            assert getattr(ambidex, name) is not None


def test_the_core_needs_only_what_it_depends_on() -> None:
    absent = ("typing_extensions", "pydantic", "numpy", "rich", "cyclopts", "redis", "psycopg", "obstore", "sqlalchemy")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from dataclasses import dataclass\n"
        "from ambidex import UnifiedStorage\n"
        "@dataclass\n"
        "class Thing:\n"
        "    id: str\n"
        "storage = UnifiedStorage('sqlite://', embedder='none').sync\n"
        "storage.repository(Thing).create(Thing('a'))\n"
        "storage.index.add('1', 'swan')\n"
        "print(storage.repository(Thing).count(), len(storage.search('swan')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1 1", done.stderr
