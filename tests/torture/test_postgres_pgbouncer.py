"""Behind PgBouncer in transaction mode, where two statements of one client may run on two server connections."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from ambidex import UnifiedStorage
from ambidex.errors import Conflict
from tests.services.handle import Service
from tests.torture.postgres_tools import rounds

pytestmark = pytest.mark.torture

_CLIENTS = 6


@pytest.mark.parametrize("option", ["", "?pgbouncer=true"], ids=["found out", "told"])
def test_six_clients_on_two_connections_get_their_own_results(pgbouncer_server: Service, option: str) -> None:
    storages = [UnifiedStorage(pgbouncer_server.url + option) for _ in range(_CLIENTS)]
    turns = rounds(25, 250)

    def blocking(number: int) -> None:
        kv = storages[number].sync.kv
        for turn in range(turns):
            kv.set(f"b{number}", [number, turn])
            assert kv.get(f"b{number}") == [number, turn]
            assert kv.get_many([f"b{number}"]) == {f"b{number}": [number, turn]}
            while True:
                try:
                    with storages[number].sync.transaction():
                        kv.incr("units")
                        kv.incr(f"units{number}")
                    break
                except Conflict:  # another unit counted first; this one left nothing
                    pass

    async def aio(number: int) -> None:
        kv = storages[number].aio.kv
        for turn in range(turns):
            await asyncio.gather(*(kv.set(f"a{number}-{key}", [number, key, turn]) for key in range(5)))
            found = await asyncio.gather(*(kv.get(f"a{number}-{key}") for key in range(5)))
            assert found == [[number, key, turn] for key in range(5)]

    def run(number: int) -> None:
        try:
            if number % 2:
                asyncio.run(aio(number))
            else:
                blocking(number)
        finally:
            storages[number].close()

    storages[0].sync.kv.delete("units")
    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(run, range(_CLIENTS)))
    assert storages[0].sync.kv.get("units") == turns * _CLIENTS // 2
    storages[0].close()


def test_control_named_statements_get_wrong_results(pgbouncer_server: Service) -> None:
    """The same crowd on raw psycopg, preparing statements under names as it does by default."""
    wrong = 0

    def run(number: int) -> int:
        bad = 0
        with psycopg.connect(pgbouncer_server.url, autocommit=True, prepare_threshold=0) as connection:
            for turn in range(100):
                try:
                    row = connection.execute(f"SELECT %s::int, {number}", (turn,)).fetchone()
                    bad += row != (turn, number)
                except psycopg.Error:
                    bad += 1
        return bad

    with ThreadPoolExecutor(_CLIENTS) as pool:
        wrong = sum(pool.map(run, range(_CLIENTS)))
    assert wrong > 0
