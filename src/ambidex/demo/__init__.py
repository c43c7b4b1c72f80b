"""The demonstration: real texts stored from a thread and searched from an event loop, on one storage object.

``ambidex demo`` and ``python -m ambidex.demo`` run it; :func:`run` is the whole of it for both. The invariant: it uses
only what an application can use, and every duration that it reports was measured around a call that did real work.
"""

from __future__ import annotations

from ambidex.demo.job import Report, Watch, run
from ambidex.demo.texts import OWN_QUESTIONS, Corpus, Text, own_texts, questions_about, read_folder

__all__ = [
    "OWN_QUESTIONS",
    "Corpus",
    "Report",
    "Text",
    "Watch",
    "own_texts",
    "questions_about",
    "read_folder",
    "run",
]
