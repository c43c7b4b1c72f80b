"""``python -m ambidex.demo [PATH] [--url URL] [--json]``: the demo without the command line's other commands."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from ambidex.demo.exits import exit_code
from ambidex.demo.show import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m ambidex.demo", description="store texts, ask questions, time both")
    parser.add_argument("path", nargs="?", help="a folder of texts (default: ambidex's own)")
    parser.add_argument("--url", help="the storage to use (default: SQLite in a temporary folder)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    arguments = parser.parse_args()
    sys.exit(exit_code(partial(main, arguments.path, url=arguments.url, as_json=arguments.as_json)))
