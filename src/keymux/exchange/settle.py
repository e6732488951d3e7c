"""The bill of one exchange: opened when the caller is known, settled whatever happens."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType

from keymux.core.faults import ClientGone, ClientStalled, Fault, Internal, UpstreamFault
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
from keymux.exchange.refuse import status_of
from keymux.exchange.ports import Book, ClientRequest, Incoming, Tokens
from keymux.exchange.watch import Watched
from keymux.pools.pool import Lease
from keymux.wire.estimate import tokens_of
from keymux.wire.formats import Format

_CLIENT_LEFT = (ClientGone, ClientStalled)


class Bill:
    """What one exchange did and used.

    An ``async with`` around the exchange: leaving it settles the bill in one synchronous step, so
    that not even a cancellation can come between.

    Attributes:
        attempts: all so far, in order.
        attempts_s: seconds in which an attempt ran.
        status: HTTP status the client got, 0 while it got none.
    """

    def __init__(self, ledger: "Ledger", incoming: Incoming, caller: Caller, watched: Watched) -> None:
        self._ledger = ledger
        self._incoming = incoming
        self._caller = caller
        self._watched = watched
        self._at = ledger.wall_ms()
        self._request: ClientRequest | None = None
        self._route: Route | None = None
        self._tokens: Tokens | None = None
        self._served: AttemptRecord | None = None
        self._upstream_id = ""
        self._prompt_tokens = 0
        self._bound: int | None = None
        self.attempts: list[AttemptRecord] = []
        self.attempts_s = 0.0
        self.status = 0
        self._first_ms = 0

    def reserve(self, request: ClientRequest, route: Route) -> None:
        """The request is admitted: from here on a crash leaves a row."""
        self._request, self._route = request, route
        self._prompt_tokens = tokens_of(len(request.body))
        self._bound = cost_micros(
            Usage(input=self._prompt_tokens, output=request.max_tokens), route.price
        )
        self._ledger.book.reserve(
            Reservation(
                id=request.id,
                at=self._at,
                caller=self._caller.id,
                format=request.format.name,
                operation=request.operation,
                asked=request.model,
                model=route.model,
                stream=request.stream,
                prompt_tokens=self._prompt_tokens,
                bound_micros=self._bound,
            )
        )

    def delivering(self, status: int) -> None:
        """The answer goes to the client now."""
        self.status = status
        self._first_ms = self.elapsed_ms()

    def served_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What a client may know of how it was served."""
        provider = self._served.provider if self._served else ""
        model = self._route.model if self._route else ""
        return (
            (b"x-keymux-provider", provider.encode()),
            (b"x-keymux-model", model.encode()),
            (b"x-keymux-attempts", b"%d" % len(self.attempts)),
        )

    @property
    def bound_micros(self) -> int:
        """Highest estimated cost of one attempt, 0 when unknown."""
        return self._bound or 0

    def attempt(self, lease: Lease) -> "AttemptNote":
        """Note an attempt, to be ended later; it is journaled before it is sent."""
        record = AttemptRecord(
            provider=lease.target.provider,
            model=lease.target.model,
            key=lease.key.id,
            egress=lease.egress,
            started_ms=self.elapsed_ms(),
        )
        self._ledger.book.begin(AttemptStarted(self._incoming.id, record))
        return AttemptNote(self, record)

    def serve(self, record: AttemptRecord, tokens: Tokens, upstream_id: str) -> None:
        """An attempt has begun to answer: it is the one that counts."""
        self._served, self._tokens, self._upstream_id = record, tokens, upstream_id

    def now(self) -> float:
        """The time, on the clock of the exchange."""
        return self._watched.clock()

    def elapsed_ms(self) -> int:
        """Milliseconds since the exchange began."""
        return round((self._watched.clock() - self._watched.started) * 1000)

    @property
    def prompt_tokens(self) -> int:
        """Estimate for the request."""
        return self._prompt_tokens

    async def __aenter__(self) -> "Bill":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fault: type[Fault] | None = None
        if isinstance(error, Fault):
            fault = type(error)
        elif isinstance(error, asyncio.CancelledError):
            fault = self._watched.tripped
        elif error is not None:
            fault = Internal
        outcome = self._outcome(fault, failed=error is not None)
        self._ledger.settle(self._row(outcome, fault, error))

    def _outcome(self, fault: type[Fault] | None, *, failed: bool) -> Outcome:
        if not failed:
            return Outcome.OK
        if fault is not None and issubclass(fault, _CLIENT_LEFT):
            return Outcome.CLIENT_GONE
        if self._request is None:
            return Outcome.REFUSED
        if fault is None:
            return Outcome.INTERRUPTED
        if self._served is not None and self.status:
            return Outcome.CUT
        return Outcome.FAILED

    def _row(
        self, outcome: Outcome, fault: type[Fault] | None, error: BaseException | None
    ) -> ExchangeRow:
        incoming, request, route = self._incoming, self._request, self._route
        usage, quality = self._usage(outcome)
        price = route.price if route else None
        unknown = quality is Quality.UNKNOWN
        return ExchangeRow(
            id=incoming.id,
            at=self._at,
            caller=self._caller.id,
            format=incoming.format.name,
            operation=incoming.operation,
            asked=request.model if request else "",
            model=route.model if route else "",
            stream=request.stream if request else False,
            outcome=outcome,
            fault=fault.code if fault else "",
            status=self.status or _status(error, incoming.format),
            provider=self._served.provider if self._served else "",
            key=self._served.key if self._served else "",
            attempts=tuple(self.attempts),
            usage=usage,
            quality=quality,
            cost_micros=None if unknown else cost_micros(usage, price),
            bound_micros=self._bound if unknown else None,
            first_ms=self._first_ms,
            took_ms=self.elapsed_ms(),
            upstream_id=self._upstream_id,
            overhead_us=self._overhead_us(),
        )

    def _overhead_us(self) -> int:
        total = self._watched.clock() - self._watched.started
        return max(0, round((total - self.attempts_s) * 1_000_000))

    def _usage(self, outcome: Outcome) -> tuple[Usage, Quality]:
        if self._tokens is not None:
            return self._tokens.settle(self._prompt_tokens)
        if outcome is Outcome.CLIENT_GONE and self.attempts:
            return Usage(), Quality.UNKNOWN  # sent, and nobody waited for the answer
        return Usage(), Quality.FINAL


def _status(error: BaseException | None, wire: Format) -> int:
    """What the client is told at the end, when it has not been told before."""
    if isinstance(error, Fault):
        return status_of(error, wire)
    return Internal.status if isinstance(error, Exception) else 0


class AttemptNote:
    """Writes down how one attempt ended.

    Attributes:
        record: the attempt as it was begun.
    """

    __slots__ = ("_bill", "_first_ms", "_index", "_started", "record")

    def __init__(self, bill: Bill, record: AttemptRecord) -> None:
        self._bill = bill
        self._started = bill.now()
        self._first_ms = 0
        self._index = len(bill.attempts)
        self.record = record
        bill.attempts.append(record)

    def opened(self, tokens: Tokens, upstream_id: str) -> None:
        """The answer has begun: this is the attempt that counts."""
        self._first_ms = self._bill.elapsed_ms()
        self._bill.serve(self.record, tokens, upstream_id)

    def end(self, error: BaseException | None) -> None:
        """The attempt is over, with this error or well."""
        bill, start = self._bill, self.record
        bill.attempts_s += bill.now() - self._started
        outcome, work, status, reason = "ok", Work.DONE, 200, ""
        if isinstance(error, UpstreamFault):
            outcome, work, reason = error.code, DECISIONS[type(error)].work, error.reason
            status = error.answer.status if error.answer else 0
        elif error is not None:
            outcome, work, status = "abandoned", Work.UNKNOWN, 0
        at_stake = work is not Work.NONE and not self._first_ms
        bill.attempts[self._index] = AttemptRecord(
            provider=start.provider,
            model=start.model,
            key=start.key,
            egress=start.egress,
            outcome=outcome,
            work=work.value,
            status=status,
            reason=reason,
            started_ms=start.started_ms,
            first_ms=self._first_ms - start.started_ms if self._first_ms else 0,
            took_ms=bill.elapsed_ms() - start.started_ms,
            billing="unknown" if at_stake else "",
            tokens=bill.prompt_tokens if at_stake else 0,
        )


class Ledger:
    """Opens bills, and passes them on when they are settled.

    Args:
        book: where they are kept.
        wall_ms: milliseconds since 1970.
        observers: told of every settled exchange, after the book.
        on_refusal: told the format and the code when a request is refused before its caller is
            known. Such a request leaves no row: strangers do not get to fill the ledger.
    """

    def __init__(
        self,
        book: Book,
        wall_ms: Callable[[], int],
        observers: Sequence[Callable[[ExchangeRow], None]],
        on_refusal: Callable[[str, str], None],
    ) -> None:
        self.book = book
        self.wall_ms = wall_ms
        self._observers = tuple(observers)
        self._on_refusal = on_refusal

    def open(self, incoming: Incoming, caller: Caller, watched: Watched) -> Bill:
        """The bill of one exchange."""
        return Bill(self, incoming, caller, watched)

    def turned_away(self, incoming: Incoming, fault: Fault) -> None:
        """A request was refused before its caller was known."""
        self._on_refusal(incoming.format.name, fault.code)

    def settle(self, row: ExchangeRow) -> None:
        """Book a finished exchange and tell the observers."""
        self.book.settle(row)
        for observe in self._observers:
            observe(row)
