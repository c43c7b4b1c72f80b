"""How the demo looks on a terminal; the command line and ``python -m ambidex.demo`` call :func:`main`.

The invariant: results go to standard output and progress to standard error, so that the output can be piped; with
``as_json`` the output is one JSON object and nothing else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ambidex import UnifiedStorage
from ambidex.demo.job import OPERATIONS, Report, Watch, run
from ambidex.demo.texts import OWN_QUESTIONS, Corpus, own_texts, questions_about, read_folder
from ambidex.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

__all__ = ["main"]

TENANT = "ambidex-demo"


def main(
    path: str | None = None,
    *,
    url: str | None = None,
    questions: Sequence[str] = (),
    as_json: bool = False,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Run the demo and print what it did.

    Args:
        path: a folder or file of texts; None: ambidex's own.
        url: the storage to use; None: SQLite in a temporary folder, which is removed afterwards.
        options: keywords of the storage object: storages of single capabilities, an embedder.
        questions: what to ask; none: questions that fit the texts.
        as_json: print one JSON object instead of tables.

    Raises:
        ConfigurationError: no texts, a URL that cannot work, or the package rich is not installed.
    """
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise ConfigurationError("the demo needs the package 'rich': pip install 'ambidex[cli]'") from None
    corpus = own_texts() if path is None else read_folder(path)
    asked = list(questions) or (list(OWN_QUESTIONS) if path is None else questions_about(corpus.texts))
    with _storage(url, options or {}) as storage:
        place = "SQLite in a temporary folder" if url is None else storage.settings.url.display
        in_memory = storage.settings.url.backend == "memory"
        out = Console(highlight=False)
        if not as_json:
            out.print(
                f"[bold]{len(corpus.texts)} texts[/] from {corpus.origin}"
                + (f" ({len(corpus.left_out)} other files left out)" if corpus.left_out else "")
                + f"\n[bold]one storage object[/] on {place}"
                + ("" if in_memory else f", {storage.settings.durability}")
                + f"\n[bold]search[/] by {_ways(storage)}"
            )
        with _progress(Console(stderr=True), len(corpus.texts)) as watch:
            report = run(storage, corpus.texts, asked, watch)
        if as_json:
            print(json.dumps(_as_data(report, corpus, place, _ways(storage)), indent=2))
        else:
            _print(report, out)
            if url is not None and not in_memory:
                out.print(f"The data stays in {place}, under the tenant {TENANT}.", style="dim")


@contextmanager
def _storage(url: str | None, options: Mapping[str, Any]) -> Iterator[UnifiedStorage]:
    """Open the storage of a URL, or one in a temporary folder that goes afterwards."""
    folder = None if url else tempfile.mkdtemp(prefix="ambidex-demo-")
    storage = UnifiedStorage(url or f"sqlite:///{folder}/demo.db", **options).tenant(TENANT)
    try:
        yield storage
    finally:
        storage.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class _Bars(Watch):
    """Shows the progress on a terminal: both halves of the first part at once, then the second part."""

    def __init__(self, progress: Progress, texts: int) -> None:
        self._progress, self._total = progress, texts
        self._storing = progress.add_task("storing, in a thread", total=texts, note="")
        self._asking = progress.add_task("asking, in an event loop", total=None, note="")
        self._timing = progress.add_task("timing each operation", total=len(OPERATIONS), note="", visible=False)

    def stored(self, done: int, path: str) -> None:
        self._progress.update(self._storing, completed=done, note=path if done < self._total else f"{done} documents")

    def asked(self, count: int) -> None:
        self._progress.update(self._asking, note=f"{count} questions")

    def measuring(self, operation: str) -> None:
        self._progress.update(self._asking, total=1, completed=1)
        done = OPERATIONS.index(operation)
        self._progress.update(self._timing, visible=True, completed=done, note=operation)


@contextmanager
def _progress(console: Console, texts: int) -> Iterator[Watch]:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description:<24}"), BarColumn(20), TextColumn("[dim]{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Bars(progress, texts)


def _print(report: Report, out: Console) -> None:
    from rich.markup import escape
    from rich.padding import Padding

    for answer in report.answers:
        out.print(f"\n[bold cyan]?[/] [bold]{escape(answer.question)}[/]")
        out.print(Padding(escape(answer.passage or "nothing was found"), (0, 0, 0, 2)))
        if answer.source:
            out.print(f"  [dim]{escape(answer.source)}[/]")
    for heading, note, table in _sections(report):
        out.print(f"\n[bold underline]{heading}[/]")
        if note:
            out.print(note, style="dim")
        out.print(table)


Section = tuple[str, str, "Table"]
"""A heading, a note under it, and the table."""


def _sections(report: Report) -> Iterator[Section]:
    yield _stored(report)
    if report.actions:
        yield _actions(report)
    if report.files:
        yield _files(report)
    yield _together(report)
    yield _alone(report)
    yield _health(report)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _stored(report: Report) -> Section:
    table = _table("what", "count")
    for what, count in report.stored.items():
        table.add_row(what, f"{count:,}")
    return "What is stored", "", table


def _actions(report: Report) -> Section:
    table = _table("query", "answer")
    for query, answer in report.actions.items():
        table.add_row(query, answer)
    note = "Each stored text and each question is an ActionExecution, written by the thread and by the event loop."
    return "A typed repository of what was done", note, table


def _files(report: Report) -> Section:
    from rich.markup import escape

    table = _table("call", "result")
    for call, result in report.files.items():
        table.add_row(call, escape(result))
    return "A file, stored synchronously and read asynchronously", "", table


def _together(report: Report) -> Section:
    table = _table("operation", "mode", "calls", "p50", "p95")
    for row in report.together.rows():
        times = (_duration(row["p50_ms"]), _duration(row["p95_ms"]))
        table.add_row(row["operation"], row["mode"], f"{row['calls']:,}", *times)
    return (
        "Storing and asking at the same time",
        f"One object, a thread and an event loop: {report.seconds:.2f} s. {report.asked_meanwhile} questions were "
        f"asked while the thread stored, {len(report.answers)} afterwards.",
        table,
    )


def _alone(report: Report) -> Section:
    table = _table("operation", "calls", "sync p50", "sync p95", "async p50", "async p95")
    by_operation: dict[str, dict[str, dict[str, Any]]] = {}
    for row in report.alone.rows():
        by_operation.setdefault(row["operation"], {})[row["mode"]] = row
    for operation, modes in by_operation.items():
        cells = [_duration(modes[mode][name]) for mode in ("sync", "async") for name in ("p50_ms", "p95_ms")]
        table.add_row(operation, f"{modes['sync']['calls']} + {modes['async']['calls']}", *cells)
    note = "What the caller waits, one call after another, nothing else running. Repeated questions come from a cache."
    return "Each operation in each mode", note, table


def _health(report: Report) -> Section:
    table = _table("capability", "from sync", "from async")
    for capability, well in report.health["sync"].items():
        table.add_row(capability, _mark(well), _mark(report.health["async"][capability]))
    return "Health", "", table


def _mark(well: bool) -> str:
    return "[green]ok[/]" if well else "[red]down[/]"


def _duration(ms: float) -> str:
    return f"{ms * 1000:.0f} µs" if ms < 1 else f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"


def _ways(storage: UnifiedStorage) -> str:
    """Say how searches are answered."""
    return "words and vectors of their meaning" if storage.sync.index.embeds else "words (no embedder is installed)"


def _as_data(report: Report, corpus: Corpus, place: str, search: str) -> dict[str, Any]:
    return {
        "storage": place,
        "search": search,
        "texts": {"origin": corpus.origin, "count": len(corpus.texts), "skipped": len(corpus.left_out)},
        "answers": [vars(answer) for answer in report.answers],
        "asked_meanwhile": report.asked_meanwhile,
        "seconds": report.seconds,
        "stored": report.stored,
        "actions": report.actions,
        "files": report.files,
        "timings": {"together": report.together.rows(), "alone": report.alone.rows()},
        "health": report.health,
    }
