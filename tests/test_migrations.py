"""The metadata for Alembic is what ambidex itself makes, and the example environment migrates with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import ambidex
from ambidex import Indexed, UnifiedStorage
from ambidex.migrations import Kept, include_object, prepare
from ambidex.testing.record_models import KINDS, model
from tests.services.handle import Service


@dataclass
class _Elsewhere:
    id: str
    price: Annotated[Decimal | None, Indexed()] = None
    at: Annotated[datetime | None, Indexed()] = None
    tags: list[str] = field(default_factory=list)

    __tablename__ = "migrated_elsewhere"


@dataclass
class _Counted:
    name: str
    id: int | None = None

    __tablename__ = "migrated_counted"


_EXAMPLE = Path(__file__).parent.parent / "examples" / "alembic"


@contextmanager
def _connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        prepare(connection)
        yield connection
    engine.dispose()


def _differences(url: str, metadata: sa.MetaData) -> list[Any]:
    with _connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"include_object": include_object})
        return list(compare_metadata(context, metadata))


@pytest.mark.parametrize("kind", KINDS)
def test_alembic_finds_nothing_to_do_where_ambidex_made_the_tables(tmp_path: Path, kind: str) -> None:
    url = f"sqlite:///{tmp_path}/data.db"
    make = model(kind)
    with UnifiedStorage(url) as storage:
        storage.repository(make).create(make(price=Decimal("1.5"), seen=datetime.now(UTC), ref=UUID(int=1)))
    assert _differences(url, ambidex.metadata(make)) == []


def test_alembic_finds_nothing_to_do_on_postgresql(postgres_server: Service) -> None:
    url, make = postgres_server.url, model("dataclass")
    engine_url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    with UnifiedStorage(url, pool_size=2, max_overflow=1) as storage:
        storage.index.add("a", "text", vector=[0.6, 0.8], namespace="migrations")  # its tables are none of Alembic's
        storage.tenant("migrations").repository(make).create(make(price=Decimal("1.5"), anything=1e16))
        found = storage.tenant("migrations").repository(make).list()
        assert [type(thing.anything) for thing in found] == [float]
        storage.tenant("migrations").repository(make).with_deleted().delete_where(key__is_null=False)
    assert _differences(engine_url, ambidex.metadata(make)) == []
    made = ambidex.metadata(_Elsewhere, _Counted)
    with _connected(engine_url) as connection:
        made.create_all(connection)
        connection.commit()
    with UnifiedStorage(url) as storage:
        storage.repository(_Elsewhere).create(_Elsewhere("a", Decimal("1.50")))
        assert storage.repository(_Elsewhere).list(price__gt=Decimal(1)) == [_Elsewhere("a", Decimal("1.50"))]
        assert storage.repository(_Counted).create(_Counted("a")).id == 1  # from a sequence that no migration made
    assert _differences(engine_url, made) == []
    with _connected(engine_url) as connection:
        made.drop_all(connection)
        connection.commit()


def test_alembic_finds_what_has_changed(tmp_path: Path) -> None:
    """The positive control: each kind of change is seen."""
    url = f"sqlite:///{tmp_path}/data.db"
    make = model("dataclass")
    with UnifiedStorage(url) as storage:
        storage.repository(make).create(make())
    metadata = ambidex.metadata(make)
    table = metadata.tables["contract_things"]
    table.append_column(sa.Column("added", Kept("uuid")))
    table.c.seen.type = Kept("date")
    table.c.name.nullable = True
    table.indexes.discard(next(index for index in table.indexes if index.name == "ix_contract_things_age"))
    found = [item[0] if isinstance(item, tuple) else item[0][0] for item in _differences(url, metadata)]
    assert sorted(found) == ["add_column", "modify_nullable", "modify_type", "remove_index"]


def test_ambidex_accepts_the_tables_that_the_metadata_makes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/data.db"
    make = model("dataclass")
    with _connected(url) as connection:
        ambidex.metadata(make).create_all(connection)
        connection.commit()
    with UnifiedStorage(url) as storage:
        things = storage.repository(make)
        things.create(make(key="k", price=Decimal("1.50")))
        assert things.list(price__gt=Decimal(1))[0].price == Decimal("1.50")
    assert _differences(url, ambidex.metadata(make)) == []


def _alembic(folder: Path, url: str, *args: str) -> str:
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_example_migrates_up_and_down(tmp_path: Path) -> None:
    """Autogenerate, upgrade, change a field, autogenerate, upgrade, downgrade, with records kept throughout."""
    folder, url = tmp_path / "alembic", f"sqlite:///{tmp_path}/data.db"
    shutil.copytree(_EXAMPLE, folder)
    sys.path.insert(0, str(_EXAMPLE))
    try:
        from models import Invoice  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(_EXAMPLE))
    _alembic(folder, url, "revision", "--autogenerate", "-m", "first")
    _alembic(folder, url, "upgrade", "head")
    invoice = Invoice("1", UUID(int=5), Decimal("10.50"), [{"sku": "a"}])
    with UnifiedStorage(url) as storage:
        storage.repository(Invoice).create(invoice)
    _alembic(folder, url, "check")

    changed = (folder / "models.py").read_text().replace("paid: bool = False", 'paid: bool = False\n    memo: str = ""')
    (folder / "models.py").write_text(changed.replace("total: Annotated[Decimal, Indexed()]", "total: Decimal"))
    _alembic(folder, url, "revision", "--autogenerate", "-m", "second")
    second = next(path for path in (folder / "versions").glob("*second.py"))
    assert "add_column" in second.read_text()
    assert "drop_index(batch_op.f('ix_invoice_total'))" in second.read_text()
    second.write_text(
        second.read_text().replace(
            "ambidex.migrations.Kept('text'), nullable=False)",
            "ambidex.migrations.Kept('text'), nullable=False, server_default='')",
        )
    )
    _alembic(folder, url, "upgrade", "head")
    _alembic(folder, url, "downgrade", "-1")
    with UnifiedStorage(url) as storage:
        assert storage.repository(Invoice).get("1") == invoice
        assert storage.kv.get("anything") is None  # its own tables are there
    _alembic(folder, url, "downgrade", "base")
    with UnifiedStorage(url) as storage:
        assert storage.repository(Invoice).list() == []
