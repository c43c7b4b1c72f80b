"""The command ``ambidex``: demo, health, get, set, delete, scan, ingest, reindex, search and chat.

The entry point ``ambidex`` calls :func:`main`. The invariant: importing this module loads no third-party package;
results go to standard output and everything else to standard error, so that output can be piped; what a user can cause
ends in one line and exit code 1, wrong usage in exit code 2.
"""

from __future__ import annotations

import json as jsonlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ambidex.demo.exits import exit_code
from ambidex.errors import CapabilityMissing, InvalidQuery

if TYPE_CHECKING:
    from cyclopts import App
    from rich.console import Console

    from ambidex import SyncStorage, UnifiedStorage
    from ambidex.demo.chat import Passage

__all__ = ["main"]


@dataclass(frozen=True)
class Places:
    """Where data is kept, and how it is searched: options that several commands share.

    Args:
        url: the storage.
        search: a storage for the search index, if it is another.
        records: a storage for typed records, if it is another.
        blobs: a storage for large files, if it is another.
        embedder: what makes vectors of texts: auto, none, wordllama, minilm or minilm:FOLDER.
    """

    url: str | None = None
    search: str | None = None
    records: str | None = None
    blobs: str | None = None
    embedder: str | None = None

    def storage(self) -> UnifiedStorage:
        """Return a storage object over these places."""
        from ambidex import UnifiedStorage

        return UnifiedStorage(self.url, **self.options())

    def options(self) -> dict[str, Any]:
        """Return what was chosen beside the URL, as keywords of a storage object."""
        options = asdict(self)
        del options["url"]
        return options


_HERE = Places()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what stands behind ``ambidex`` on the command line; None: the process's own.
    """
    try:
        app = _app()
    except ModuleNotFoundError as error:
        print(f"error: the command line needs the package {error.name!r}: pip install 'ambidex[cli]'", file=sys.stderr)
        return 1
    words = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(partial(_run, app, words))


def _run(app: App, words: Sequence[str]) -> int:
    try:
        answer = app(words, result_action="return_value")
    except SystemExit as end:  # help, version and wrong usage
        return end.code if isinstance(end.code, int) else 1
    except CapabilityMissing as error:
        print(f"error: {error} (here: --search sqlite:///index.db and the like)", file=sys.stderr)
        return 1
    return answer if isinstance(answer, int) else 0


def _app() -> App:
    import rich  # noqa: F401  # named here, so that a missing one is reported as such
    from cyclopts import App, Parameter

    import ambidex

    app = App(
        name="ambidex",
        help="One storage layer for synchronous and asynchronous code. Without --url, commands use AMBIDEX_URL, "
        "else a SQLite file in your data folder.",
        version=ambidex.__version__,
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    Parameter(name="*")(Places)  # its fields are options of each command that takes one
    for command in (demo, health, get, set_, delete, scan, ingest, reindex, search, chat):
        app.command(command, name=command.__name__.rstrip("_"))
    return app


# The commands. Their docstrings are their --help.


def demo(
    path: str | None = None,
    /,
    *,
    places: Places = _HERE,
    ask: list[str] | None = None,
    script: str | None = None,
    json: bool = False,
) -> None:
    """Store texts from a thread while an event loop asks questions about them, and show how long everything took.

    Without --url it works in a temporary folder, which is removed afterwards.

    Args:
        path: a folder of texts; without it, ambidex's own documents.
        places: where to keep it.
        ask: a question to ask instead of the prepared ones; may be given several times.
        script: a file with the turns of the conversation: lines, or a JSON list of texts or messages.
        json: print one JSON object.
    """
    from ambidex.demo import show
    from ambidex.demo.chat import read_script

    questions = [*(ask or ()), *(read_script(script) if script else ())]
    show.main(path, url=places.url, questions=questions, as_json=json, options=places.options())


def health(url: str | None = None, /, *, places: Places = _HERE, json: bool = False) -> int:
    """Probe each capability of a storage from both modes; the exit code is 1 if one is down.

    Args:
        url: the storage to probe; the same as --url.
        places: where the capabilities are.
        json: print one JSON object.
    """
    import asyncio

    if url is not None and places.url is not None:
        raise InvalidQuery("health takes one storage: behind the command, or behind --url, not both")
    reasons = _Reasons()
    storage = replace(places, url=url or places.url).storage()
    logging.getLogger("ambidex").addHandler(reasons)
    try:
        with _working("probing"):
            started = time.perf_counter()
            sync = storage.sync.health_check()
            between = time.perf_counter()
            aio = asyncio.run(_health(storage))
            ended = time.perf_counter()
    finally:
        logging.getLogger("ambidex").removeHandler(reasons)
        storage.close()
    well = all(sync.values()) and all(aio.values())
    seconds = {"sync": between - started, "async": ended - between}
    display = storage.settings.url.display
    if json:
        _print_json({"url": display, "ok": well, "sync": sync, "async": aio, "seconds": seconds, "why": reasons.seen})
    else:
        print(f"{display}: probed in {seconds['sync'] * 1000:.1f} ms (sync), {seconds['async'] * 1000:.1f} ms (async)")
        elsewhere = {name: place.display for name, place in storage.settings.overrides.items()}
        rows = [(name, _mark(sync[name]), _mark(aio[name]), elsewhere.get(name, "")) for name in sync]
        columns = ("capability", "sync", "async", "kept elsewhere")
        _print_table(columns if elsewhere else columns[:3], [row if elsewhere else row[:3] for row in rows])
        for reason in reasons.seen:
            _errors().print(reason, markup=False)
    return 0 if well else 1


def get(key: str, /, *, url: str | None = None, namespace: str = "", tenant: str = "", json: bool = False) -> int:
    """Print the value of a key: text as it is, bytes as they are, anything else as JSON.

    Args:
        key: the key; the exit code is 1 if it does not exist.
        url: the storage.
        namespace: the namespace of the key.
        tenant: the tenant whose data it is.
        json: print one JSON object with the value and the seconds that it has left.
    """
    with _opened(url, tenant) as storage:
        kv = storage.kv.namespace(namespace) if namespace else storage.kv
        found = kv.get_versioned(key)
        left = None if found is None else kv.ttl(key)
    if json:
        value = None if found is None else found.value
        _print_json({"key": key, "exists": found is not None, "value": value, "ttl": left})
    elif found is None:
        print(f"error: there is no key {key!r}", file=sys.stderr)
    elif isinstance(found.value, bytes):
        sys.stdout.buffer.write(found.value)
    else:
        print(found.value if isinstance(found.value, str) else _as_json(found.value))
    return 0 if found is not None else 1


def set_(
    key: str,
    value: str,
    /,
    *,
    url: str | None = None,
    namespace: str = "",
    tenant: str = "",
    ttl: float | None = None,
    parse: bool = False,
    json: bool = False,
) -> None:
    """Store a value.

    Args:
        key: the key.
        value: the text to store; "-" reads it from standard input.
        url: the storage.
        namespace: the namespace of the key.
        tenant: the tenant whose data it is.
        ttl: seconds until it is gone; without it, it stays.
        parse: read the value as JSON instead of text, so that 5 is a number.
        json: print one JSON object.
    """
    text = sys.stdin.read() if value == "-" else value
    try:
        stored = jsonlib.loads(text) if parse else text
    except ValueError as error:
        raise InvalidQuery(f"the value is not JSON ({error}); without --parse it is stored as text") from None
    with _opened(url, tenant) as storage:
        (storage.kv.namespace(namespace) if namespace else storage.kv).set(key, stored, ttl)
    if json:
        _print_json({"key": key, "stored": True, "ttl": ttl})


def delete(key: str, /, *, url: str | None = None, namespace: str = "", tenant: str = "", json: bool = False) -> int:
    """Delete a key.

    Args:
        key: the key; the exit code is 1 if it did not exist.
        url: the storage.
        namespace: the namespace of the key.
        tenant: the tenant whose data it is.
        json: print one JSON object.
    """
    with _opened(url, tenant) as storage:
        existed = (storage.kv.namespace(namespace) if namespace else storage.kv).delete(key)
    if json:
        _print_json({"key": key, "deleted": existed})
    elif not existed:
        print(f"error: there is no key {key!r}", file=sys.stderr)
    return 0 if existed else 1


def scan(
    prefix: str = "",
    /,
    *,
    url: str | None = None,
    namespace: str = "",
    tenant: str = "",
    glob: str | None = None,
    limit: int | None = None,
    json: bool = False,
) -> None:
    """Print the keys that start with a prefix or match a pattern, one a line, as they are found.

    Args:
        prefix: literal text with which the keys begin; without it, all keys.
        url: the storage.
        namespace: the namespace of the keys.
        tenant: the tenant whose data it is.
        glob: a pattern in which * is any text and ? any one character.
        limit: stop after this many keys.
        json: print one JSON list.
    """
    with _opened(url, tenant) as storage:
        kv = storage.kv.namespace(namespace) if namespace else storage.kv
        keys = kv.scan(prefix, glob=glob)
        found = (key for key, _ in zip(keys, iter(int, 1) if limit is None else range(limit), strict=False))
        if json:
            with _working("scanning"):
                _print_json(list(found))
        else:
            for key in found:
                print(key)


def ingest(path: str, /, *, places: Places = _HERE, tenant: str = "", json: bool = False) -> None:
    """Store every text file of a folder as a document for `ambidex search`; a changed one becomes a new version.

    It may be interrupted and run again: what is stored already is left as it is.

    Args:
        path: a folder or a file.
        places: where to keep them.
        tenant: the tenant whose data it is.
        json: print one JSON object.
    """
    from ambidex.demo.load import store_texts
    from ambidex.demo.texts import read_folder

    corpus = read_folder(path)
    with _at(places, tenant) as storage:
        started = time.perf_counter()
        store_texts(storage, corpus.texts, _errors())
        seconds = time.perf_counter() - started
    if json:
        _print_json({"stored": len(corpus.texts), "skipped": corpus.skipped, "seconds": seconds})
    else:
        left_out = f"; {corpus.skipped} other files were left out" if corpus.skipped else ""
        print(f"{len(corpus.texts)} documents stored in {seconds:.2f} s{left_out}")


def reindex(
    *,
    places: Places = _HERE,
    tenant: str = "",
    namespace: str = "default",
    after: str | None = None,
    json: bool = False,
) -> None:
    """Make the vectors of an index anew, as is needed when another embedder is chosen.

    It may be interrupted, and says how to go on.

    Args:
        places: where the index is, and the embedder.
        tenant: the tenant whose data it is.
        namespace: the namespace of the index.
        after: go on behind this item, the last one of a run that was interrupted.
        json: print one JSON object.
    """
    from ambidex.demo.load import make_vectors

    with _at(places, tenant) as storage:
        started = time.perf_counter()
        done, last = make_vectors(storage, namespace, after, _errors())
        seconds = time.perf_counter() - started
    if json:
        _print_json({"namespace": namespace, "embedded": done, "last": last, "seconds": seconds})
    else:
        print(f"{done} vectors made in {seconds:.2f} s")


def search(
    query: str,
    /,
    *,
    places: Places = _HERE,
    tenant: str = "",
    namespace: str = "default",
    top_k: int = 5,
    min_score: float = 0.0,
    json: bool = False,
) -> int:
    """Print the best matches of a query; the exit code is 1 if there are none.

    Args:
        query: words as you would say them.
        places: where to look.
        tenant: the tenant whose data it is.
        namespace: the namespace of the index.
        top_k: how many matches, at most 1,000.
        min_score: leave out weaker ones; scores are 0 to 1, and comparable within one query only.
        json: print one JSON list.
    """
    from rich.markup import escape

    with _at(places, tenant) as storage, _working("searching"):
        hits = storage.search(query, top_k=top_k, namespace=namespace, min_score=min_score)
    if json:
        _print_json([hit._asdict() for hit in hits])
    elif not hits:
        print("error: nothing was found", file=sys.stderr)
    else:
        from ambidex.demo.chat import passage

        rows = [
            (
                f"{hit.score:.2f}",
                f"[bold]{escape(hit.title)}[/]\n[dim]{escape(hit.id)}[/]",
                escape(passage([hit.text], query)[0]),
            )
            for hit in hits
        ]
        _print_table(("score", "document", "passage"), rows)
    return 0 if hits else 1


def chat(
    *,
    places: Places = _HERE,
    chat_id: str = "default",
    script: str | None = None,
    top_k: int = 3,
    min_score: float = 0.0,
    tenant: str = "",
    json: bool = False,
) -> None:
    """Talk to what was ingested: each turn is answered by the stored passages that fit it best, with their sources.

    There is no language model in it. Turns come from the keyboard, from standard input (one a line) or from a script;
    the conversation is kept, and goes on where it ended when you come back. /history, /reset and /quit are commands.

    Args:
        places: where the texts and the conversation are.
        chat_id: the name of the conversation.
        script: a file with the turns: lines, or a JSON list of texts or messages.
        top_k: how many documents an answer quotes at most, 1 to 100.
        min_score: leave out weaker ones; scores are 0 to 1, and comparable within one turn only.
        tenant: the tenant whose data it is.
        json: print one JSON object at the end.
    """
    from ambidex.demo.chat import NOTE, read_script, take_turn

    if not 1 <= top_k <= _MOST_QUOTED:
        raise InvalidQuery(f"top_k is 1 to {_MOST_QUOTED}, not {top_k}")
    turns = iter(read_script(script)) if script is not None else _typed(quiet=json)
    with _at(places, tenant) as storage:
        said: list[dict[str, Any]] = []
        earlier = storage.conversations.window(chat_id, last=_SHOWN) or []
        if not json:
            _errors().print(NOTE, style="dim")
            _print_messages(earlier)
        for turn in turns:
            if turn == "/quit":
                break
            if turn in ("/history", "/reset"):
                _manage(storage, chat_id, turn, quiet=json)
                continue
            with _working("searching"):
                found = take_turn(storage, chat_id, turn, top_k, min_score)
            said.append({"question": turn, "passages": [asdict(each) for each in found]})
            if not json:
                _print_turn(turn, found, echo=script is not None or not sys.stdin.isatty())
    if json:
        _print_json({"chat_id": chat_id, "note": NOTE, "history": earlier, "turns": said})


_MOST_QUOTED = 100
_SHOWN = 20


def _typed(*, quiet: bool) -> Iterator[str]:
    """Yield what is typed or piped, line by line, until its end."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            if interactive and not quiet:
                line = input("> ")  # with the terminal's own line editing
            else:
                if interactive:
                    print("> ", end="", file=sys.stderr, flush=True)
                line = sys.stdin.readline()
                if not line:
                    return
        except EOFError:  # Ctrl-D
            print()
            return
        except UnicodeDecodeError:
            raise InvalidQuery("standard input is no UTF-8 text") from None
        if line.strip():
            yield line.strip()


def _manage(storage: SyncStorage, chat_id: str, command: str, *, quiet: bool) -> None:
    if command == "/reset":
        storage.conversations.reset(chat_id)
        _errors().print("a new conversation; the old one can be restored", style="dim")
    elif not quiet:
        _print_messages(storage.conversations.history(chat_id))


def _print_messages(messages: Sequence[dict[str, Any]]) -> None:
    for message in messages:
        content = message["content"] if isinstance(message["content"], str) else _as_json(message["content"])
        sources = [each["source"] for each in message.get("sources", ())]
        print(f"{message['role']}: {content}" + (f"  [{', '.join(sources)}]" if sources else ""))
    if messages:
        print()


def _print_turn(turn: str, found: Sequence[Passage], *, echo: bool) -> None:
    from ambidex.demo.chat import NOTHING

    if echo:
        print(f"> {turn}")
    for each in found:
        print(f"  {each.text}\n    [{each.source}, {each.score:.2f}]")
    if not found:
        print(f"  {NOTHING}")


# What the commands share.


@contextmanager
def _opened(url: str | None, tenant: str) -> Iterator[SyncStorage]:
    """Open the storage for one command."""
    with _at(Places(url), tenant) as storage:
        yield storage


@contextmanager
def _at(places: Places, tenant: str) -> Iterator[SyncStorage]:
    storage = places.storage().sync
    try:
        yield storage.tenant(tenant) if tenant else storage
    finally:
        storage.close()


async def _health(storage: UnifiedStorage) -> dict[str, bool]:
    return await storage.aio.health_check()


class _Reasons(logging.Handler):
    """Collects what the health check logs, so that it stands under the table and not above it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.seen:
            self.seen.append(message)


def _errors() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Show that something is under way, on a terminal."""
    errors = _errors()
    if not errors.is_terminal:
        yield
        return
    with errors.status(what):
        yield


def _mark(well: bool) -> str:
    return "[green]ok[/]" if well else "[red]down[/]"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def _print_json(data: Any) -> None:
    print(_as_json(data))


def _as_json(data: Any) -> str:
    return jsonlib.dumps(data, indent=2, ensure_ascii=False, default=_readable)


def _readable(value: Any) -> Any:
    """Return a JSON form of a stored value that JSON lacks."""
    if isinstance(value, bytes):
        import base64

        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return str(value)
