"""Many keys at once: whether they are new, or some are there, or somebody else stores them meanwhile."""

import asyncio
import threading
import time

from ambidex import UnifiedStorage

KEYS = [f"k{number:05}" for number in range(1_000)]
UNSEEN = KEYS[501]
"""A key that no sample of the keys shows."""


def test_new_keys_and_integers(storage: UnifiedStorage) -> None:
    kv = storage.sync.kv
    items = {key: place if place % 2 else f"v{place}" for place, key in enumerate(KEYS)}
    kv.set_many(items)
    assert kv.get_many(KEYS) == items


def test_a_key_that_is_there_is_replaced_and_counts_its_versions(storage: UnifiedStorage) -> None:
    kv = storage.sync.kv
    kv.set(UNSEEN, "old")
    before = kv.get_versioned(UNSEEN)
    assert before is not None
    kv.set_many(dict.fromkeys(KEYS, "new"))
    after = kv.get_versioned(UNSEEN)
    assert after is not None
    assert (after.value, after.version) == ("new", before.version + 1)
    assert set(kv.get_many(KEYS).values()) == {"new"}
    kv.set_many(dict.fromkeys(KEYS, "newer"))
    assert set(kv.get_many(KEYS).values()) == {"newer"}


def test_a_key_whose_time_has_passed_is_stored_again(storage: UnifiedStorage) -> None:
    kv = storage.sync.kv
    kv.set(UNSEEN, "old", ttl=0.001)
    time.sleep(0.05)
    kv.set_many(dict.fromkeys(KEYS, "new"), ttl=600)
    assert len(kv.get_many(KEYS)) == len(KEYS)
    left = kv.ttl(UNSEEN)
    assert left is not None
    assert 500 < left <= 600


def test_within_a_transaction_keys_that_are_there_do_not_end_it(storage: UnifiedStorage) -> None:
    kv = storage.sync.kv
    kv.set(UNSEEN, "old")
    with storage.sync.transaction():
        kv.set("first", 1)
        kv.set_many(dict.fromkeys(KEYS, "new"))
    assert kv.get("first") == 1
    assert kv.get(UNSEEN) == "new"


def test_several_who_store_the_same_new_keys_all_succeed(storage: UnifiedStorage) -> None:
    kv = storage.sync.kv
    start, errors = threading.Barrier(4), list[BaseException]()

    def store(name: int) -> None:
        try:
            start.wait(30)
            kv.set_many(dict.fromkeys(KEYS, name))
        except BaseException as error:  # reported below
            errors.append(error)

    threads = [threading.Thread(target=store, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(kv.get_many(KEYS).values())) == 1


def test_tasks_that_store_the_same_new_keys_all_succeed(place: str) -> None:
    async def main() -> None:
        storage = UnifiedStorage(place)
        try:
            kv = storage.aio.kv
            await asyncio.gather(*(kv.set_many(dict.fromkeys(KEYS, name)) for name in range(4)))
            assert len(set((await kv.get_many(KEYS)).values())) == 1
        finally:
            await storage.aio.close()

    asyncio.run(main())
