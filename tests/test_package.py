"""The package as a whole: importing it is cheap and opens nothing, and its public names exist."""

import subprocess
import sys

import ambidex


def test_importing_loads_no_driver_and_no_event_loop() -> None:
    drivers = ("apsw", "redis", "psycopg", "obstore", "asyncio")
    code = f"import sys, ambidex; print([name for name in {drivers} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
