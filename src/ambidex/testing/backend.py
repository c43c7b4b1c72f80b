"""All contracts in one class, for a backend's author to subclass.

The invariant: a part that a backend does not declare is skipped, never passed.
"""

from __future__ import annotations

import os
from typing import ClassVar

import pytest

from ambidex.core.ports import Capability
from ambidex.storage import UnifiedStorage
from ambidex.testing.blobs import BlobContract
from ambidex.testing.concurrency import ConcurrencyContract
from ambidex.testing.contract import Contract, Subject
from ambidex.testing.expiry import ExpiryContract
from ambidex.testing.face import FaceContract
from ambidex.testing.kv import KeyValueContract
from ambidex.testing.log import LogContract
from ambidex.testing.media import MediaContract, MediaInTransactionsContract
from ambidex.testing.names import NamesContract
from ambidex.testing.record_numbers import RecordNumbersContract, RecordNumbersInTransactionsContract
from ambidex.testing.record_writers import RecordsConcurrencyContract, RecordsTransactionContract
from ambidex.testing.records import RecordsContract
from ambidex.testing.search import SearchContract
from ambidex.testing.transactions import TransactionContract, TransactionRoomsContract
from ambidex.testing.values import ValuesContract

__all__ = ["BackendContract", "MachineContract"]


class MachineContract(Contract, needs=[Capability.KV]):
    """Random operations on the backend and on the memory backend give the same answers.

    Attributes:
        machine_examples: runs of random operations; the environment's AMBIDEX_MACHINE_EXAMPLES comes first.
        machine_steps: operations a run; the environment's AMBIDEX_MACHINE_STEPS comes first.
    """

    machine_examples: ClassVar[int] = 8
    machine_steps: ClassVar[int] = 25

    def test_machine_agrees_with_the_memory_backend(self, subject: Subject) -> None:
        """Needs hypothesis; skipped without it."""
        pytest.importorskip("hypothesis")
        from ambidex.testing.machine import compare

        examples = int(os.environ.get("AMBIDEX_MACHINE_EXAMPLES", self.machine_examples))
        steps = int(os.environ.get("AMBIDEX_MACHINE_STEPS", self.machine_steps))
        compare(subject, examples, steps)


class RecordMachineContract(Contract, needs=[Capability.RECORDS]):
    """Random calls of a repository agree with the memory backend; as many as :class:`MachineContract` runs."""

    def test_machine_of_records_agrees_with_the_memory_backend(self, subject: Subject) -> None:
        """Needs hypothesis; skipped without it."""
        pytest.importorskip("hypothesis")
        from ambidex.testing.record_machine import compare

        examples = int(os.environ.get("AMBIDEX_MACHINE_EXAMPLES", MachineContract.machine_examples))
        steps = int(os.environ.get("AMBIDEX_MACHINE_STEPS", MachineContract.machine_steps))
        compare(subject, examples, steps)


class BackendContract(
    KeyValueContract,
    ValuesContract,
    ExpiryContract,
    NamesContract,
    ConcurrencyContract,
    LogContract,
    SearchContract,
    RecordsContract,
    RecordsConcurrencyContract,
    RecordNumbersContract,
    BlobContract,
    MediaContract,
    MediaInTransactionsContract,
    TransactionContract,
    TransactionRoomsContract,
    RecordsTransactionContract,
    RecordNumbersInTransactionsContract,
    FaceContract,
    MachineContract,
    RecordMachineContract,
):
    """Everything that a backend promises by the capabilities it declares."""

    def test_backend_declares_what_its_author_meant(self, storage: UnifiedStorage) -> None:
        """Otherwise a lost capability would show as skipped tests only."""
        declared = frozenset(storage._core.configured())
        if self.capabilities is None:
            assert declared, "the backend declares no capability at all"
        else:
            assert declared == self.capabilities
