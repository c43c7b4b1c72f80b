"""The conformance suite itself: it passes what is right, fails what is wrong, and skips what is not declared."""

import subprocess
import sys
from pathlib import Path

import pytest

from ambidex.testing import Contract, KeyValueContract, LogContract, Subject

_MODULE = """
from ambidex import register_backend
from ambidex.backends.memory import MemoryBackend
from ambidex.backends.memory.kv import MemoryKeyValue
from ambidex.backends.memory.log import MemoryLog
from ambidex.core.ports import Capability
from ambidex.testing import BackendContract

{broken}

def backend(kv):
    class Mine(MemoryBackend):
        name = "mine"
        capabilities = frozenset({{Capability.KV}})

        def __init__(self, url, settings):
            super().__init__(url, settings)
            self.blocking.kv = kv(self.blocking.kv._data)

    register_backend(kv.__name__.lower(), Mine)

    class Checked(BackendContract):
        capabilities = frozenset({{Capability.{means}}})
        machine_examples = 20
        machine_steps = 6

        def make_url(self, tmp_path):
            return f"{{kv.__name__.lower()}}://here"

    return Checked

{classes}
"""


def _run(folder: Path, kinds: dict[str, str], select: str, means: str = "KV") -> tuple[int, str]:
    """Run part of the suite on one backend for each kind of key-value port, in a pytest of its own."""
    classes = "\n".join(f"Test{name} = backend({name})" for name in kinds)
    text = _MODULE.format(broken="\n".join(kinds.values()), classes=classes, means=means)
    (folder / "test_mine.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rsf", "-p", "no:cacheprovider", "-k", select, "test_mine.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


_RIGHT = {"Right": "class Right(MemoryKeyValue): pass"}


def test_a_third_partys_class_is_collected_run_and_skipped(tmp_path: Path) -> None:
    code, out = _run(tmp_path, _RIGHT, "kv_incr or log_tail or declares")
    assert code == 0, out
    assert "passed" in out
    assert "does not declare log" in out


def test_a_lost_capability_fails(tmp_path: Path) -> None:
    code, out = _run(tmp_path, _RIGHT, "declares", means="LOG")
    assert code == 1, out
    assert "1 failed" in out


_EXPIRED = """
class Reviving(MemoryKeyValue):
    async def touch(self, key, ttl_ms):
        from ambidex.backends.memory.data import expiry
        value = self._data._tables.values.get(key)
        if value is not None:
            value.expires = expiry(ttl_ms)
        return value is not None
"""
_FOLDED = """
class Mixing(MemoryKeyValue):
    async def get(self, key):
        return await super().get(key.replace("%3A", ":"))
    async def put(self, key, value, ttl_ms, when):
        return await super().put(key.replace("%3A", ":"), value, ttl_ms, when)
"""
_LOSING = """
class Losing(MemoryKeyValue):
    async def incr(self, key, by, ttl_ms):
        import asyncio
        have = await super().get(key) or 0
        if isinstance(have, int):
            await asyncio.sleep(0)
            await super().put(key, have + by, ttl_ms, "always")
            return have + by
"""
_VERSIONS = """
class Repeating(MemoryKeyValue):
    def _write(self, tables, key, stored, ttl_ms):
        version = super()._write(tables, key, stored, ttl_ms)
        tables.values[key].version = 1
        return 1
"""
_FLOATS = """
class Boasting(MemoryKeyValue):
    async def delete_many(self, keys):
        return len(keys)
"""


def test_broken_backends_fail(tmp_path: Path) -> None:
    kinds = {"Reviving": _EXPIRED, "Mixing": _FOLDED, "Losing": _LOSING, "Repeating": _VERSIONS, "Boasting": _FLOATS}
    select = "expiry_is_seen or names_of_keys or concurrent_counts or kv_versions or (Boasting and machine)"
    code, out = _run(tmp_path, kinds, select)
    assert code == 1, out
    for name, test in (
        ("Reviving", "expiry_is_seen_by_every_method[async]"),
        ("Reviving", "expiry_is_seen_by_every_method[blocking]"),
        ("Mixing", "names_of_keys[async]"),
        ("Losing", "concurrent_counts_are_not_lost[async]"),  # loses counts
        ("Losing", "concurrent_counts_are_not_lost[blocking]"),  # suspends
        ("Repeating", "kv_versions[blocking]"),
        ("Boasting", "machine_agrees_with_the_memory_backend[async]"),
        ("Boasting", "machine_agrees_with_the_memory_backend[blocking]"),
    ):
        assert f"FAILED test_mine.py::Test{name}::test_{test}" in out
    assert "TestMixing::test_kv_versions" not in out, "what is right passes"


def test_a_test_that_hides_another_is_refused() -> None:
    class Other(Contract):
        def test_kv_delete(self) -> None:
            """Of the same name as one of the key-value contract."""

    with pytest.raises(TypeError, match=r"hides .*test_kv_delete"):

        class Both(KeyValueContract, Other):  # type: ignore[misc]
            pass

    class Own(KeyValueContract, LogContract):
        async def test_kv_delete(self, subject: Subject) -> None:
            """An author may replace a test on purpose."""

    assert Own.test_kv_delete is not KeyValueContract.test_kv_delete
