"""A storage of its own for each test, in a schema of its own."""

from collections.abc import Iterator
from itertools import count

import pytest

from ambidex import UnifiedStorage
from tests.services.handle import Service

_numbers = count()


@pytest.fixture
def place(postgres_server: Service) -> str:
    """A URL whose schema nobody has used."""
    return f"{postgres_server.url}?schema=own{next(_numbers)}"


@pytest.fixture
def storage(place: str) -> Iterator[UnifiedStorage]:
    storage = UnifiedStorage(place)
    yield storage
    storage.close()
