"""Loaded by pytest through its entry point: fixtures for those who test their own code over ambidex.

The invariant: loading it costs next to nothing, because the storage and the suite are imported only by what uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ambidex.face import Face
    from ambidex.storage import UnifiedStorage
    from ambidex.testing.contract import Mode

__all__ = ["ambidex_mode", "ambidex_run", "ambidex_storage"]

_MODULES = (
    "backend",
    "concurrency",
    "contract",
    "expiry",
    "face",
    "kv",
    "log",
    "machine",
    "names",
    "record_machine",
    "records",
    "search",
)

# A failing assert of the suite shows its values, as in a test module.
pytest.register_assert_rewrite(
    *(f"ambidex.testing.{name}" for name in (*_MODULES, "transactions", "values")),
)


@pytest.fixture
def ambidex_storage() -> Iterator[UnifiedStorage]:
    """A storage of its own in memory; override it to run the same tests on another backend."""
    from ambidex import UnifiedStorage

    storage = UnifiedStorage("memory://")
    yield storage
    storage.close()


@pytest.fixture(params=["async", "blocking"])
def ambidex_mode(request: pytest.FixtureRequest) -> Mode:
    """The mode; a test that asks for it runs once in each."""
    from ambidex.testing.contract import Mode

    return Mode(request.param)


@pytest.fixture
def ambidex_run(
    ambidex_storage: UnifiedStorage, ambidex_mode: Mode
) -> Callable[[Callable[[Face], Coroutine[Any, Any, Any]]], Any]:
    """Runs ``async def check(storage)`` once in each mode and returns its result.

    The storage has its asynchronous shape in both modes, so one test body shows that code works in both::

        def test_signing_up(ambidex_run):
            async def check(storage):
                await storage.set("user:1", {"name": "Ada"})
                assert (await storage.get("user:1"))["name"] == "Ada"

            ambidex_run(check)
    """
    from ambidex.testing.contract import Subject

    subject = Subject(ambidex_storage, ambidex_mode)
    return lambda check: subject.run(lambda: check(subject.face))
