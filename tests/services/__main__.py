"""`python -m tests.services [names] [--json]`: private servers for people, until Ctrl-C.

Prints one line a service with the variable that points the test suite at it and its URL, or why it
cannot run. Whatever ends this process ends the servers.
"""

import argparse
import json
import signal
import sys
from contextlib import ExitStack, suppress

from tests.services.catalogue import KINDS, Kind
from tests.services.handle import Flavour, StartFailed


def main() -> int:
    """Start what was asked for, print it, and wait for Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    known = ", ".join(KINDS)
    parser.add_argument("names", nargs="*", help=f"of: {known} (default: all)")
    parser.add_argument("--flavour", choices=("wheel", "system"), help="default: any that runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if unknown := set(options.names) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {known}")
    # As Ctrl-C does, so that the stack below unwinds. (Blocking the signals and waiting for them
    # would not do: the servers inherit the mask, and then ignore the SIGTERM that stops them.)
    for ends in (signal.SIGTERM, signal.SIGINT):  # a shell has its background jobs ignore SIGINT
        signal.signal(ends, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as running:
        rows = [_start(running, KINDS[name], options.flavour) for name in options.names or KINDS]
        print(json.dumps(rows, indent=2) if options.json else _table(rows), flush=True)
        if any(row["url"] for row in rows):
            while True:
                signal.pause()
        return 1
    return 0


def _start(running: ExitStack, kind: Kind, wanted: Flavour | None) -> dict[str, str]:
    """Start one service, of the first flavour that runs; its row, with a reason if none does."""
    reasons = []
    for flavour in kind.flavours:
        if wanted in (None, flavour) or flavour == "external":
            try:
                service = running.enter_context(kind.create(flavour))
            except StartFailed as failure:
                reasons.append(str(failure))
            else:
                return _row(kind, flavour, service.url, "")
    return _row(kind, wanted or "", "", "; ".join(reasons) or f"not offered as {wanted}")


def _row(kind: Kind, flavour: str, url: str, reason: str) -> dict[str, str]:
    names = ("name", "flavour", "variable", "url", "reason")
    return dict(zip(names, (kind.name, flavour, kind.variable, url, reason), strict=True))


def _table(rows: list[dict[str, str]]) -> str:
    lines = []
    for row in rows:
        value = f"{row['variable']}={row['url']}" if row["url"] else f"not running: {row['reason']}"
        lines.append(f"{row['name']:<10} {row['flavour']:<9} {value}")
    return "\n".join([*lines, "Ctrl-C stops them all."])


if __name__ == "__main__":
    sys.exit(main())
