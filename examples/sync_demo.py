"""Synchronous code: a small address book on SQLite. Run it by its path; it works in a temporary folder."""

import tempfile
from dataclasses import dataclass

from ambidex import SyncStorage, UnifiedStorage


@dataclass
class Person:
    name: str
    town: str


def fill(storage: SyncStorage) -> None:
    people = storage.kv.namespace("people")
    people.set_many(
        {
            "ada": Person("Ada Lovelace", "London"),
            "grace": Person("Grace Hopper", "Arlington"),
        }
    )
    for key in people.scan():
        person = people.get(key, model=Person)
        storage.index.add(key, f"{person.name} lives in {person.town}", {"town": person.town})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, UnifiedStorage(f"sqlite:///{folder}/people.db") as storage:
        fill(storage)
        print(storage.kv.namespace("people").get("ada", model=Person))  # -> Person(name='Ada Lovelace', town='London')
        print(storage.search("who lives in Arlington?")[0].id)  # -> grace
        print([hit.id for hit in storage.search("lives", filters={"town": "London"})])  # -> ['ada']


if __name__ == "__main__":
    main()
