"""The contract of simultaneous callers: tasks in one mode, threads in the other; backends are tested with it.

The invariant: what one call reports as done is done exactly once, however many run beside it.
"""

from __future__ import annotations

from functools import partial

from ambidex.core.ports import Capability
from ambidex.testing.contract import Contract, Subject

__all__ = ["ConcurrencyContract"]

_CALLERS = 8


class ConcurrencyContract(Contract, needs=[Capability.KV]):
    """Many callers at once."""

    async def test_concurrent_counts_are_not_lost(self, subject: Subject) -> None:
        """Each increment counts, and each caller gets a number of its own."""

        async def count() -> list[int]:
            return [await subject.kv.incr("n") for _ in range(10)]

        results = await subject.together([count] * _CALLERS)
        assert sorted(number for numbers in results for number in numbers) == list(range(1, _CALLERS * 10 + 1))
        assert await subject.kv.get("n") == _CALLERS * 10

    async def test_concurrent_add_has_one_winner(self, subject: Subject) -> None:
        """And the winner's value is the one stored."""
        for number in range(5):
            calls = [partial(subject.kv.add, f"key-{number}", caller) for caller in range(_CALLERS)]
            won = await subject.together(calls)
            assert won.count(True) == 1
            assert await subject.kv.get(f"key-{number}") == won.index(True)

    async def test_concurrent_delete_has_one_winner(self, subject: Subject) -> None:
        """A key is reported deleted once."""
        for number in range(5):
            await subject.kv.set("key", number)
            assert (await subject.together([partial(subject.kv.delete, "key")] * _CALLERS)).count(True) == 1

    async def test_concurrent_compare_and_set_loses_no_update(self, subject: Subject) -> None:
        """Reading, adding and swapping until it works counts every caller."""
        await subject.kv.set("n", [0])

        async def count() -> None:
            for _ in range(5):
                while True:
                    entry = await subject.kv.get_versioned("n")
                    assert entry is not None
                    if await subject.kv.compare_and_set("n", [entry.value[0] + 1], entry.version):
                        break

        await subject.together([count] * _CALLERS)
        assert await subject.kv.get("n") == [_CALLERS * 5]

    async def test_concurrent_get_or_set_makes_one_value(self, subject: Subject) -> None:
        """All who ask at once share one run of the factory."""
        runs: list[int] = []

        async def factory() -> dict[str, int]:
            runs.append(1)
            await subject.sleep(0.05)
            return {"run": len(runs)}

        calls = [partial(subject.kv.get_or_set, "key", factory)] * _CALLERS
        assert await subject.together(calls) == [{"run": 1}] * _CALLERS
        assert runs == [1]

    async def test_concurrent_callers_get_their_own_answers(self, subject: Subject) -> None:
        """No reply ever reaches the wrong caller."""

        async def work(caller: int) -> None:
            for number in range(10):
                key, value = f"{caller}-{number}", {"caller": caller, "number": number}
                await subject.kv.set(key, value)
                assert await subject.kv.get(key) == value
                found = await subject.kv.get_many([key, f"{caller}-absent"])
                assert found == {key: value}

        await subject.together([partial(work, caller) for caller in range(_CALLERS)])
        assert len([key async for key in subject.kv.scan()]) == _CALLERS * 10
