"""The command chat: a conversation with what was ingested, typed, piped or from a script; ``app.py`` lists it.

Its docstring is its --help. The invariant: with --json nothing but one object goes to standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ambidex.cli.output import as_json, print_json, stderr, working
from ambidex.cli.places import HERE, Places, opened
from ambidex.errors import InvalidQuery

if TYPE_CHECKING:
    from ambidex import SyncStorage
    from ambidex.demo.chat import Passage

__all__ = ["chat"]

_MOST_QUOTED = 100
_SHOWN = 20


def chat(
    *,
    places: Places = HERE,
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
    with opened(places, tenant) as storage:
        said: list[dict[str, Any]] = []
        earlier = storage.conversations.window(chat_id, last=_SHOWN) or []
        if not json:
            stderr().print(NOTE, style="dim")
            _print_messages(earlier)
        for turn in turns:
            if turn == "/quit":
                break
            if turn in ("/history", "/reset"):
                _manage(storage, chat_id, turn, quiet=json)
                continue
            with working("searching"):
                found = take_turn(storage, chat_id, turn, top_k, min_score)
            said.append({"question": turn, "passages": [asdict(each) for each in found]})
            if not json:
                _print_turn(turn, found, echo=script is not None or not sys.stdin.isatty())
    if json:
        print_json({"chat_id": chat_id, "note": NOTE, "history": earlier, "turns": said})


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
        stderr().print("a new conversation; the old one can be restored", style="dim")
    elif not quiet:
        _print_messages(storage.conversations.history(chat_id))


def _print_messages(messages: Sequence[dict[str, Any]]) -> None:
    for message in messages:
        content = message["content"] if isinstance(message["content"], str) else as_json(message["content"])
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
