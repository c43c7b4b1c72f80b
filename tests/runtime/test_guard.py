"""The warning about blocking calls in a running loop."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from ambidex.runtime import guard


def test_it_warns_once_inside_a_loop_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_warned", set())
    guard.warn_if_in_loop("kv.get")  # no loop: nothing to say

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match=r"await storage\.aio\.\.\.get\(\.\.\.\)") as seen:
            guard.warn_if_in_loop("kv.get")
        assert seen[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            guard.warn_if_in_loop("kv.get")
        with pytest.warns(RuntimeWarning, match="kv.put"):
            guard.warn_if_in_loop("kv.put")

    asyncio.run(main())
