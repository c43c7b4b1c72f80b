"""The command line of the benchmarks: ``python -m bench --help``.

The invariant: a module of rows is imported only if a row of it was asked for, so that no peer's import disturbs
another's figures.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import ROWS, Bench, Result, Row, measure
from bench.report import Progress, environment, table, write_json

MODULES = (
    "dual",
    "imports",
    "sqlite",
    "redis",
    "postgres",
    "records",
    "records_postgres",
    "records_redis",
    "documents",
    "vectors",
)
RESULTS = Path(__file__).with_name("results")


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    chosen = _choose(options.only)
    if not chosen:
        print(f"no row is called {', '.join(options.only)}; --list shows them all", file=sys.stderr)
        return 2
    if options.list:
        width = max(len(about.name) for about in chosen)
        for about in chosen:
            target = f" ({about.target})" if about.target else ""
            print(f"{about.name:<{width}}  {about.title}, against {about.against}{target}")
        return 0
    results: list[Result] = []
    rounds = options.rounds or (3 if options.quick else 9)
    with Progress(len(chosen), rounds) as progress:
        bench = Bench(rounds=rounds, slot=0.03 if options.quick else 0.15, tick=progress.tick, chunks=options.chunks)
        for about in chosen:
            progress.begin(about.name)
            results.append(measure(about, bench))
            progress.end()
    path = options.json or RESULTS / f"{_file_name(options.only)}.json"
    write_json(path, results, bench)
    _print(results, path)
    return 1 if any(result.broken for result in results) else 0


def _print(results: Sequence[Result], path: Path) -> None:
    about = environment()
    print(
        f"{about['python']}, {about['cpus']} CPUs, load {about['load'][0] if about['load'] else 'unknown'}, "
        f"SQLite {about['sqlite3']} (sqlite3) and {about['sqlite of apsw'] or 'none'} (apsw)\n"
    )
    print(table(results))
    judged = [result.met for result in results if result.met is not None]
    print(f"\n{sum(judged)} of {len(judged)} targets met; every round is in {path}")
    for result in results:
        if result.broken:
            print(f"\n{result.row.name} broke:\n{result.reason}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure ambidex against the raw drivers and its peers. Every figure is a median of interleaved "
        "rounds in one process; a missed target is shown and is no error.",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help=f"a row, or all whose names begin so: {', '.join(MODULES)}, sqlite.get, ... (may be repeated)",
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="turns of each side (default 9, quick 3)")
    parser.add_argument("--quick", action="store_true", help="short turns and 3 rounds: an impression, not a figure")
    parser.add_argument("--chunks", type=_positive, metavar="N", default=100_000, help="chunks that vectors.* search")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write (default bench/results/<name>.json)")
    parser.add_argument("--list", action="store_true", help="say what there is to measure, and measure nothing")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _choose(only: Sequence[str]) -> list[Row]:
    for module in MODULES:
        if not only or any(name.partition(".")[0] in {module, ""} for name in only):
            importlib.import_module(f"bench.{module}")
    return [about for about in ROWS.values() if not only or about.name.startswith(tuple(only))]


def _file_name(only: Sequence[str]) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "+".join(only)) if only else "all"


if __name__ == "__main__":
    sys.exit(main())
