"""The conformance suite that every backend passes; authors of backends and pytest call it.

One contract, written once, is run in both modes against whatever a URL opens. A backend is checked by a class in a
test module, and everything it inherits is collected by pytest::

    from pathlib import Path

    from ambidex import register_backend
    from ambidex.core.ports import Capability
    from ambidex.testing import BackendContract

    from my_package import MyBackend

    register_backend("mine", MyBackend)


    class TestMyBackend(BackendContract):
        capabilities = frozenset({Capability.KV, Capability.LOG})

        def make_url(self, tmp_path: Path) -> str:
            return f"mine://{tmp_path}/data"

What the backend does not declare is skipped with that reason; ``capabilities`` makes a backend that declares less than
its author meant fail instead. The invariant: nothing here knows a backend, and only this package imports pytest and
hypothesis, the latter only for the state machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambidex.testing.backend import BackendContract
    from ambidex.testing.blobs import BlobContract
    from ambidex.testing.concurrency import ConcurrencyContract
    from ambidex.testing.contract import Contract, Mode, Subject
    from ambidex.testing.expiry import ExpiryContract
    from ambidex.testing.face import FaceContract
    from ambidex.testing.kv import KeyValueContract
    from ambidex.testing.log import LogContract
    from ambidex.testing.media import MediaContract
    from ambidex.testing.names import NamesContract
    from ambidex.testing.record_numbers import RecordNumbersContract, RecordNumbersInTransactionsContract
    from ambidex.testing.record_writers import RecordsConcurrencyContract, RecordsTransactionContract
    from ambidex.testing.records import RecordsContract
    from ambidex.testing.search import SearchContract
    from ambidex.testing.transactions import TransactionContract
    from ambidex.testing.values import ValuesContract

_HOME = {
    "BackendContract": "backend",
    "BlobContract": "blobs",
    "ConcurrencyContract": "concurrency",
    "Contract": "contract",
    "ExpiryContract": "expiry",
    "FaceContract": "face",
    "KeyValueContract": "kv",
    "LogContract": "log",
    "MediaContract": "media",
    "Mode": "contract",
    "NamesContract": "names",
    "RecordNumbersContract": "record_numbers",
    "RecordNumbersInTransactionsContract": "record_numbers",
    "RecordsConcurrencyContract": "record_writers",
    "RecordsContract": "records",
    "RecordsTransactionContract": "record_writers",
    "SearchContract": "search",
    "Subject": "contract",
    "TransactionContract": "transactions",
    "ValuesContract": "values",
}

__all__ = [
    "BackendContract",
    "BlobContract",
    "ConcurrencyContract",
    "Contract",
    "ExpiryContract",
    "FaceContract",
    "KeyValueContract",
    "LogContract",
    "MediaContract",
    "Mode",
    "NamesContract",
    "RecordNumbersContract",
    "RecordNumbersInTransactionsContract",
    "RecordsConcurrencyContract",
    "RecordsContract",
    "RecordsTransactionContract",
    "SearchContract",
    "Subject",
    "TransactionContract",
    "ValuesContract",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'ambidex.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ambidex.testing.{_HOME[name]}"), name)
