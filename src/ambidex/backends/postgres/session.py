"""What one connection to PostgreSQL has under way: statements sent, results arrived; both leaf colours hold these.

It speaks libpq's pipeline mode: all statements of a request go out at once, behind them one Sync, and everything before
that Sync is one implicit transaction. So a script of many statements costs one round trip and is all or nothing. The
invariant: a session has at most one request under way, and its reply is complete only at the Sync, so that no result
can be taken for another request's. Nothing here waits; the colours do.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import OperationalError
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from ambidex.backends.postgres.errors import Lost, Refused
from ambidex.backends.postgres.wire import Later, dump, native
from ambidex.backends.relational.sql import Row, Statement

__all__ = ["Session"]

_SYNC, _ERROR = ExecStatus.PIPELINE_SYNC, ExecStatus.FATAL_ERROR
_ROWS, _DONE = ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK
_MOST_NAMED = 500
Bound = tuple[list[bytes | None], list[int]]
Request = list[tuple[str, Bound | Later]]
"""Statements with their bound values and the formats of these, or with what is bound when it is sent."""
_BINARY = 1


class Session:
    """The protocol's state on one connection.

    Args:
        pgconn: connected, not blocking.
        named: whether statements are prepared under names; not behind a pooler that deals out server connections.
    """

    def __init__(self, pgconn: PGconn, named: bool) -> None:
        pgconn.nonblocking = 1
        pgconn.notice_handler = None
        pgconn.enter_pipeline_mode()
        self.pgconn = pgconn
        self.named = named
        self.last_tag = b""
        self._names: dict[str, bytes] = {}
        self._named = 0
        self._wanted: list[str | None] = []  # for each result: the statement that it prepares, or None
        self._results: list[PGresult] = []
        self._transformer = Transformer()

    @property
    def in_transaction(self) -> bool:
        """True between BEGIN and its end, by what the server said last."""
        return self.pgconn.transaction_status != TransactionStatus.IDLE

    @staticmethod
    def bind(statements: Sequence[Statement]) -> Request:
        """Return a request ready to be sent.

        Raises:
            UnsupportedValue: an argument cannot be bound.
        """
        return [(sql, args if type(args) is Later else dump(args)) for sql, args in statements]

    def send(self, request: Request) -> None:
        """Hand a request to libpq; it may need flushing.

        After any exception the connection is of no use.

        Raises:
            Lost: the connection is broken.
        """
        pgconn = self.pgconn
        # What is made late is no COMMIT: without the Sync behind it, the server undoes what it has of such statements.
        whole = all(type(args) is not Later for _, args in request)
        try:
            for sql, args in request:
                if type(args) is Later:
                    pgconn.flush()  # so that the server has something to do meanwhile
                    values, formats = dump(args)
                else:
                    values, formats = args
                name = self._names.get(sql)
                if name is None and self.named and len(self._names) < _MOST_NAMED:
                    name = self._names[sql] = b"s%d" % self._named
                    self._named += 1
                    pgconn.send_prepare(name, native(sql))
                    self._wanted.append(sql)
                if name is None:
                    pgconn.send_query_params(native(sql), values, None, formats, _BINARY)
                else:
                    pgconn.send_query_prepared(name, values, formats, _BINARY)
                self._wanted.append(None)
            whole = True
            pgconn.pipeline_sync()
        except OperationalError as error:
            raise Lost(str(error), sent=whole) from None

    def flush(self) -> bool:
        """Push out what libpq holds; True when nothing is left."""
        try:
            return self.pgconn.flush() == 0
        except OperationalError as error:
            raise Lost(str(error), sent=True) from None

    def receive(self) -> None:
        """Take in what the socket has.

        Raises:
            Lost: the server has gone.
            Refused: it said why before it went.
        """
        try:
            self.pgconn.consume_input()
        except OperationalError as error:
            self._last_words()
            raise Lost(str(error), sent=True) from None

    def complete(self) -> bool:
        """Tell whether the whole reply has arrived.

        Raises:
            Lost: the connection broke in the middle of it.
        """
        pgconn = self.pgconn
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                if pgconn.status == ConnStatus.BAD:
                    self._last_words()
                    raise Lost(pgconn.get_error_message(), sent=True)
                continue  # the end of one statement's results
            if result.status == _SYNC:
                return True
            self._results.append(result)
        return False

    def _last_words(self) -> None:
        """Raise what the server said before it closed the connection, if it said anything."""
        while not self.pgconn.is_busy():
            result = self.pgconn.get_result()
            if result is None:
                break
            self._results.append(result)
        for result in self._results:
            if result.status == _ERROR and (refused := Refused(result)).sqlstate:
                raise refused

    def reply(self) -> list[list[Row]]:
        """Return the rows of each statement of a complete reply, and be ready for the next request.

        Raises:
            Refused: the server refused a statement; nothing of the request was applied.
        """
        results, self._results = self._results, []
        wanted, self._wanted = self._wanted, []
        rows: list[list[Row]] = []
        refused: PGresult | None = None
        for result, prepares in zip(results, wanted, strict=False):
            status = result.status
            if status == _ERROR and refused is None:
                refused = result
            if prepares is None:
                rows.append(self._load(result) if status == _ROWS else [])
            elif status != _DONE:
                del self._names[prepares]
        if len(results) > len(wanted):  # the commit at the Sync failed
            refused = refused or results[-1]
        if refused is not None:
            raise Refused(refused)
        self.last_tag = (results[-1].command_status or b"") if results else b""
        return rows

    def _load(self, result: PGresult) -> list[Row]:
        count = result.ntuples
        if not count:
            return []
        transformer = self._transformer
        transformer.set_pgresult(result)
        return transformer.load_rows(0, count, tuple)

    def finish(self) -> None:
        """Close the connection."""
        self.pgconn.finish()
