"""The command demo: hands its options to ``ambidex.demo``; ``app.py`` lists it.

Its docstring is its --help. The invariant: the demonstration is imported when it runs, not for the other commands.
"""

from __future__ import annotations

from ambidex.cli.places import HERE, Places

__all__ = ["demo"]


def demo(
    path: str | None = None,
    /,
    *,
    places: Places = HERE,
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
