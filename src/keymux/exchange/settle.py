"""The bill of one exchange: opened when the caller is known, settled whatever happens."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from keymux.core.faults import (
    ClientGone,
    ClientStalled,
    Fault,
    Internal,
    LedgerFull,
    UpstreamFault,
)
from keymux.core.pricing import cost_micros
from keymux.core.records import (
    AttemptRecord,
    AttemptStarted,
    ExchangeRow,
    Outcome,
    Reservation,
)
from keymux.core.retrying import DECISIONS, Work
from keymux.core.vocabulary import Caller, Quality, Route, Usage
from keymux.exchange.ports import Book, ClientRequest, Incoming, Tokens
from keymux.exchange.refuse import status_of
from keymux.exchange.watch import Watched
from keymux.pools.pool import Lease
from keymux.wire.estimate import tokens_of
from keymux.wire.formats import Format

_CLIENT_LEFT = (ClientGone, ClientStalled)


class Bill:
    """What one exchange did and used.

    A ``with`` around the exchange: leaving it settles the bill in one synchronous step, so that
    not even a cancellation can come between.

    Attributes:
        tries: attempts begun so far.
        status: HTTP status the client got, 0 while it got none.
        bound_micros: highest cost of one attempt, estimated; None when there is no price.
        prompt_tokens: estimate for the request.
    """

    __slots__ = (
        "_at",
        "_attempts",
        "_busy_s",
        "_caller",
        "_first_at",
        "_incoming",
        "_ledger",
        "_request",
        "_route",
        "_served",
        "_tokens",
        "_upstream_id",
        "_watched",
        "bound_micros",
        "prompt_tokens",
        "status",
        "tries",
    )

    def __init__(
        self, ledger: "Ledger", incoming: Incoming, caller: Caller, watched: Watched
    ) -> None:
        self._ledger = ledger
        self._incoming = incoming
        self._caller = caller
        self._watched = watched
        self._at = ledger.wall_ms()
        self._request: ClientRequest | None = None
        self._route: Route | None = None
        self._tokens: Tokens | None = None
        self._served: Lease | None = None
        self._upstream_id = ""
        self._attempts: list[AttemptRecord] = []
        self._busy_s = 0.0
        self._first_at = 0.0
        self.tries = 0
        self.status = 0
        self.bound_micros: int | None = None
        self.prompt_tokens = 0

    def reserve(self, request: ClientRequest, route: Route) -> None:
        """The request is admitted: from here on a crash leaves a row.

        Raises:
            LedgerFull: it could not be booked.
        """
        self._request, self._route = request, route
        self.prompt_tokens = prompt = tokens_of(len(request.body))
        self.bound_micros = cost_micros(Usage(prompt, request.max_tokens), route.price)
        self._ledger.book.reserve(
            Reservation(
                request.id,
                self._at,
                self._caller.id,
                request.format.name,
                request.operation,
                request.model,
                route.model,
                request.stream,
                prompt,
                self.bound_micros,
            )
        )

    def attempt(self, lease: Lease) -> "AttemptNote":
        """Note an attempt, to be ended later; it is journaled before it is sent."""
        self.tries += 1
        return AttemptNote(self, lease)

    def delivering(self, status: int) -> None:
        """The answer goes to the client now."""
        self.status = status
        self._first_at = self._watched.clock()

    def served_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What a client may know of how it was served."""
        if self._served is None or self._route is None:
            return ()
        return (
            (b"x-keymux-provider", self._served.target.provider.encode()),
            (b"x-keymux-model", self._route.model.encode()),
            (b"x-keymux-attempts", b"%d" % self.tries),
        )

    # -- for the notes -------------------------------------------------------------------------
    def begun(self, record: AttemptRecord) -> float:
        """An attempt is about to be sent; gives the time."""
        self._ledger.book.begin(AttemptStarted(self._incoming.id, record))
        return self._watched.clock()

    def elapsed_ms(self) -> int:
        """Milliseconds since the exchange began."""
        return int((self._watched.clock() - self._watched.started) * 1000)

    def serve(self, lease: Lease, tokens: Tokens, upstream_id: str) -> float:
        """An attempt has begun to answer: it is the one that counts; gives the time."""
        self._served, self._tokens, self._upstream_id = lease, tokens, upstream_id
        return self._watched.clock()

    def ended(self, record: AttemptRecord, seconds: float) -> None:
        """An attempt is over."""
        self._attempts.append(record)
        self._busy_s += seconds

    def now(self) -> float:
        """The time, on the clock of the exchange."""
        return self._watched.clock()

    # -- settling ------------------------------------------------------------------------------
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        error = self._watched.named(error)
        if isinstance(error, LedgerFull):  # a row for each would fill what is left
            self._ledger.turned_away(self._incoming, error)
            return
        self._ledger.book.settle(self._row(self._outcome(error), error))

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None:
            return Outcome.OK
        if isinstance(error, _CLIENT_LEFT):
            return Outcome.CLIENT_GONE
        if not isinstance(error, Exception):
            return Outcome.INTERRUPTED
        if self._request is None:
            return Outcome.REFUSED
        return Outcome.CUT if self._first_at else Outcome.FAILED

    def _row(self, outcome: Outcome, error: BaseException | None) -> ExchangeRow:
        incoming, request, route, served = self._incoming, self._request, self._route, self._served
        usage, quality = self._usage(outcome)
        unknown = quality is Quality.UNKNOWN
        started, now = self._watched.started, self._watched.clock()
        return ExchangeRow(
            incoming.id,
            self._at,
            self._caller.id,
            incoming.format.name,
            incoming.operation,
            request.model if request else "",
            route.model if route else "",
            request.stream if request else False,
            outcome,
            fault=_code(error),
            status=self.status or _status(error, incoming.format),
            provider=served.target.provider if served else "",
            key=served.key.id if served else "",
            attempts=tuple(self._attempts),
            usage=usage,
            quality=quality,
            cost_micros=cost_micros(usage, route.price) if route and not unknown else None,
            bound_micros=self.bound_micros if unknown else None,
            first_ms=int((self._first_at - started) * 1000) if self._first_at else 0,
            took_ms=int((now - started) * 1000),
            upstream_id=self._upstream_id,
            overhead_us=int((now - started - self._busy_s) * 1_000_000),
        )

    def _usage(self, outcome: Outcome) -> tuple[Usage, Quality]:
        if self._tokens is not None:
            return self._tokens.settle(self.prompt_tokens)
        if outcome is Outcome.CLIENT_GONE and self._attempts:
            return Usage(), Quality.UNKNOWN  # sent, and nobody waited for the answer
        return Usage(), Quality.FINAL


def _code(error: BaseException | None) -> str:
    if isinstance(error, Fault):
        return error.code
    return Internal.code if isinstance(error, Exception) else ""


def _status(error: BaseException | None, wire: Format) -> int:
    """What the client is told at the end, when it has not been told before."""
    if isinstance(error, Fault):
        return status_of(error, wire)
    return Internal.status if isinstance(error, Exception) else 0


class AttemptNote:
    """Writes down how one attempt ended."""

    __slots__ = ("_bill", "_first_at", "_lease", "_started", "_started_ms")

    def __init__(self, bill: Bill, lease: Lease) -> None:
        self._bill = bill
        self._lease = lease
        self._first_at = 0.0
        self._started_ms = bill.elapsed_ms()
        target = lease.target
        self._started = bill.begun(
            AttemptRecord(
                target.provider,
                target.model,
                lease.key.id,
                lease.exit.name,
                started_ms=self._started_ms,
            )
        )

    def opened(self, tokens: Tokens, upstream_id: str) -> None:
        """The answer has begun: this is the attempt that counts."""
        self._first_at = self._bill.serve(self._lease, tokens, upstream_id)

    def end(self, error: BaseException | None) -> None:
        """The attempt is over, with this error or well."""
        bill, lease, target = self._bill, self._lease, self._lease.target
        outcome, work, status, reason = "ok", Work.DONE, 200, ""
        if isinstance(error, UpstreamFault):
            outcome, work, reason = error.code, DECISIONS[type(error)].work, error.reason
            status = error.answer.status if error.answer else 0
        elif error is not None:
            outcome, work, status = "abandoned", Work.UNKNOWN, 0
        at_stake = work is not Work.NONE and not self._first_at
        seconds = bill.now() - self._started
        first_s = self._first_at - self._started if self._first_at else 0.0
        record = AttemptRecord(
            target.provider,
            target.model,
            lease.key.id,
            lease.exit.name,
            outcome,
            work,
            status,
            reason,
            self._started_ms,
            int(first_s * 1000),
            int(seconds * 1000),
            "unknown" if at_stake else "",
            bill.prompt_tokens if at_stake else 0,
        )
        bill.ended(record, seconds)


class Ledger:
    """Opens bills.

    Args:
        book: where they are kept when they are settled.
        wall_ms: milliseconds since 1970.
        on_refusal: told the format and the code when a request is refused before its caller is
            known. Such a request leaves no row: strangers do not get to fill the ledger.
    """

    def __init__(
        self, book: Book, wall_ms: Callable[[], int], on_refusal: Callable[[str, str], None]
    ) -> None:
        self.book = book
        self.wall_ms = wall_ms
        self._on_refusal = on_refusal

    def open(self, incoming: Incoming, caller: Caller, watched: Watched) -> Bill:
        """The bill of one exchange."""
        return Bill(self, incoming, caller, watched)

    def turned_away(self, incoming: Incoming, fault: Fault) -> None:
        """A request was refused before its caller was known."""
        self._on_refusal(incoming.format.name, fault.code)
