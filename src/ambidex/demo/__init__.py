"""The demonstration: real texts stored from a thread and searched from an event loop, on one storage object.

``ambidex demo`` and ``python -m ambidex.demo`` run it. ``job.py`` is what it does, ``texts.py`` where its texts come
from, ``show.py`` how it looks. The invariant: it uses only what an application can use, and every duration that it
reports was measured around a call that did real work.
"""
