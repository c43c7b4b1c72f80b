"""The commands of texts and their search: ingest, reindex and search; ``app.py`` lists them.

Their docstrings are their --help. The invariant: what was interrupted can be run again and loses nothing.
"""

from __future__ import annotations

import sys
import time

from ambidex.cli.output import print_json, print_table, stderr, working
from ambidex.cli.places import HERE, Places, opened

__all__ = ["ingest", "reindex", "search"]

_NAMED = 10


def ingest(path: str, /, *, places: Places = HERE, tenant: str = "", json: bool = False) -> None:
    """Store every text file of a folder as a document for `ambidex search`; a changed one becomes a new version.

    It may be interrupted and run again: what is stored already is left as it is. Texts are UTF-8 of at most 2 MiB;
    hidden files are passed over, and others that are left out are named.

    Args:
        path: a folder or a file.
        places: where to keep them.
        tenant: the tenant whose data it is.
        json: print one JSON object.
    """
    from ambidex.demo.load import store_texts
    from ambidex.demo.texts import list_files, none_of_them, read_texts

    files = list_files(path)
    if not files:
        raise none_of_them(path, [])
    with opened(places, tenant) as storage:
        started = time.perf_counter()
        stored, unchanged, left_out = store_texts(storage, read_texts(path, files), stderr(), len(files))
        seconds = time.perf_counter() - started
    if not stored and not unchanged:
        raise none_of_them(path, left_out)
    if json:
        counts = {"stored": stored, "unchanged": unchanged, "skipped": len(left_out)}
        print_json({**counts, "left_out": [one._asdict() for one in left_out], "seconds": seconds})
        return
    more = (f", {unchanged} unchanged" if unchanged else "") + (f"; {len(left_out)} files left out" if left_out else "")
    print(f"{stored} documents stored in {seconds:.2f} s{more}")
    for one in left_out[:_NAMED]:
        print(f"left out: {one.path}: {one.why}", file=sys.stderr)
    if len(left_out) > _NAMED:
        print(f"and {len(left_out) - _NAMED} more; --json names them all", file=sys.stderr)


def reindex(
    *,
    places: Places = HERE,
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

    with opened(places, tenant) as storage:
        started = time.perf_counter()
        done, last = make_vectors(storage, namespace, after, stderr())
        seconds = time.perf_counter() - started
    if json:
        print_json({"namespace": namespace, "embedded": done, "last": last, "seconds": seconds})
    else:
        print(f"{done} vectors made in {seconds:.2f} s")


def search(
    query: str,
    /,
    *,
    places: Places = HERE,
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

    with opened(places, tenant) as storage, working("searching"):
        hits = storage.search(query, top_k=top_k, namespace=namespace, min_score=min_score)
    if json:
        print_json([hit._asdict() for hit in hits])
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
        print_table(("score", "document", "passage"), rows)
    return 0 if hits else 1
