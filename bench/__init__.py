"""How fast ambidex is, as ratios: run with ``make bench`` or ``python -m bench``. Nothing imports this but itself.

The invariant: a figure compares ambidex with the raw driver or a peer in one process and one run, round by round
(A B A B ...), so that a busy or slow machine changes both sides alike. No figure is ever a test: a missed target is
shown, and the exit status stays 0. It is 1 when a row that should have run broke.

How to read the table
    ``figure`` is the median over the rounds and ``spread`` its smallest and largest round. ``1.4x time`` means that
    ambidex takes 1.4 times as long as what stands under ``against``, ``9x speed`` that it does nine times as many
    operations, ``+0.4 µs`` what it adds to one operation, ``1,500/s`` how many it does by itself. ``ours`` and
    ``theirs`` are the median times of one operation (in concurrent rows: wall time divided by operations), for
    orientation; only a figure that compares travels from one machine to another. When the spread straddles the target,
    run again with more ``--rounds`` on a quiet machine. Both sides give the same promise (durability, decoded values),
    and a peer runs in its best shape that does.
    A row that cannot run here says why.

How to add a row
    Write a function in the module of its subject, marked with :func:`bench.harness.row`. It sets both sides up,
    returns ``bench.compare(ours, theirs)``, and cleans up after itself (``with``). A side comes from
    :func:`bench.harness.calls` (synchronous), from :func:`bench.harness.tasks` (asynchronous, so many in flight) or
    is any function that does ``n`` operations and returns the seconds they took. Peers come from
    :func:`bench.harness.require`, so that one which is not installed is a reason and not an error; servers from
    :func:`bench.services.url`. A new module is named in ``bench.__main__.MODULES``, and the names of its rows begin
    with its own.
"""
