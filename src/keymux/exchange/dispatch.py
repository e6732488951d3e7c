"""Lease, attempt, and move on, until an upstream begins to answer."""

from random import Random
from types import TracebackType

import msgspec
from msgspec import Struct

from keymux.core.faults import (
    Fault,
    FirstEventLate,
    FormatNotServed,
    NoneReady,
    UpstreamFault,
)
from keymux.core.retrying import (
    FailedAttempt,
    Situation,
    Step,
    first_steps,
    next_steps,
    surfaced,
)
from keymux.core.vocabulary import Kind, Metering, Route, WireFormat
from keymux.exchange.peek import Reply, open_stream, read_plain
from keymux.exchange.ports import Ask, ClientRequest, Rules, Upstreams
from keymux.exchange.settle import AttemptNote, Bill
from keymux.exchange.watch import Watched, Within
from keymux.pools.budget import Turn
from keymux.pools.leasing import Leasing
from keymux.pools.pool import Lease
from keymux.upstream.request import UpstreamRequest
from keymux.wire import splice


class Exchange(Struct, frozen=True):
    """One exchange from the moment its route is known."""

    request: ClientRequest
    route: Route
    bill: Bill
    watched: Watched
    rules: Rules


class Dispatcher:
    """Finds an upstream that answers.

    Args:
        leasing: lends keys.
        upstreams: the way out.
        luck: random numbers.
    """

    def __init__(self, leasing: Leasing, upstreams: Upstreams, luck: Random) -> None:
        self._leasing = leasing
        self._upstreams = upstreams
        self._luck = luck

    def dispatch(self, exchange: Exchange) -> "Dispatch":
        """Hold open, for as long as the context lasts, the first reply that any target gives."""
        return Dispatch(self, exchange)

    async def begin(
        self, exchange: Exchange, steps: tuple[Step, ...], failed: list[FailedAttempt]
    ) -> "Attempt":
        """One try under one lease; if it fails, it joins the failed ones.

        Raises:
            NoneReady: no key was ready in time.
            UpstreamFault: the attempt came to nothing.
        """
        lease = await self._leasing.lease(
            steps,
            model=exchange.route.model,
            left_s=exchange.watched.left_s(),
            turn=_turn(exchange.request, failed),
        )
        attempt = Attempt(self._leasing, lease, exchange.bill.attempt(lease))
        try:
            await attempt.open(self._upstreams.ask(_errand(exchange, lease)), exchange)
        except BaseException as error:
            await attempt.end(error)
            if isinstance(error, UpstreamFault):
                key = lease.key
                failed.append(FailedAttempt(lease.target, key.id, key.group.name, error))
            raise
        return attempt

    def first_steps(self, exchange: Exchange) -> tuple[Step, ...]:
        """The targets that speak the client's format; raises FormatNotServed if none does."""
        request, route = exchange.request, exchange.route
        steps = tuple(
            step
            for step in first_steps(route)
            if self._speaks(step.target.provider, request)
        )
        if not steps:
            raise FormatNotServed(model=request.model, format=request.format.name, other=_other(request))
        return steps

    def next_steps(
        self, exchange: Exchange, failed: list[FailedAttempt]
    ) -> tuple[Step, ...]:
        """Where to go on after a failed attempt, if anywhere."""
        request, watched = exchange.request, exchange.watched
        situation = Situation(
            kind=request.kind,
            left_s=watched.left_s(),
            total_s=watched.deadline - watched.started,
            cost_micros=exchange.bill.bound_micros,
            luck=self._luck.random(),
        )
        steps = next_steps(exchange.route, failed, exchange.rules.patience, situation)
        return tuple(
            step for step in steps if self._speaks(step.target.provider, request)
        )


    def _speaks(self, provider: str, request: ClientRequest) -> bool:
        return self._upstreams.speaks(provider, request.format.name, request.operation)


class Dispatch:
    """The way from a request to a reply, attempt by attempt.

    From the moment a reply is handed out the client may have seen part of it, so later faults end
    the exchange. They are never retried.
    """

    __slots__ = ("_attempt", "_dispatcher", "_exchange")

    def __init__(self, dispatcher: Dispatcher, exchange: Exchange) -> None:
        self._dispatcher = dispatcher
        self._exchange = exchange
        self._attempt: Attempt | None = None

    async def __aenter__(self) -> Reply:
        """Try until a target begins to answer.

        Raises:
            FormatNotServed: no target speaks the client's format.
            NoneReady: no key was ready in time.
            UpstreamFault: of the last attempt, when there is nothing left to try.
        """
        dispatcher, exchange = self._dispatcher, self._exchange
        failed: list[FailedAttempt] = []
        steps = dispatcher.first_steps(exchange)
        while True:
            try:
                self._attempt = await dispatcher.begin(exchange, steps, failed)
            except UpstreamFault as fault:
                steps = dispatcher.next_steps(exchange, failed)
                if not steps:
                    raise surfaced(fault, exchange.route.model) from None
            except NoneReady as none:
                raise _last_word(failed, none) from None
            else:
                return self._attempt.reply

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._attempt is not None:
            await self._attempt.end(error)


class Attempt:
    """One try: holds the lease, the note in the bill and the connection, and ends all three.

    Attributes:
        reply: what the upstream answers, once it is open.
    """

    __slots__ = ("_ask", "_lease", "_leasing", "_note", "reply")

    reply: Reply

    def __init__(self, leasing: Leasing, lease: Lease, note: AttemptNote) -> None:
        self._leasing = leasing
        self._lease = lease
        self._note = note
        self._ask: Ask | None = None

    async def open(self, ask: Ask, exchange: Exchange) -> None:
        """Send the request and read until an answer has begun."""
        self._ask = ask
        with _first_event(exchange):
            self.reply = await _begun(ask, exchange)
        self._leasing.opened(self._lease)
        self._note.opened(self.reply, self.reply.answer.request_id)

    async def end(self, error: BaseException | None) -> None:
        """Close the connection; the bill and the pool learn from the error how it went."""
        try:
            if self._ask is not None:
                await self._ask.close()
        finally:
            self._note.end(error)
            self._leasing.give_back(self._lease, error)


def _errand(exchange: Exchange, lease: Lease) -> UpstreamRequest:
    request = exchange.request
    return UpstreamRequest(
        lease.target.provider,
        lease.key.secret,
        lease.egress,
        request.format.name,
        request.operation,
        request.stream,
        request.headers,
        request.query,
        body_for(request, exchange.route, lease.target.model),
    )


def _turn(request: ClientRequest, failed: list[FailedAttempt]) -> Turn:
    if failed:
        return Turn.RETRY
    return Turn.CLIENT_RETRY if request.is_client_retry else Turn.FIRST


def _last_word(failed: list[FailedAttempt], none: NoneReady) -> Fault:
    """What to say when an attempt failed and no key is left for another."""
    if not failed:
        return none
    said = surfaced(failed[-1].fault, str(none.facts["model"]))
    return none if isinstance(said, NoneReady) else said


def _other(request: ClientRequest) -> str:
    other = {WireFormat.OPENAI: WireFormat.ANTHROPIC, WireFormat.ANTHROPIC: WireFormat.OPENAI}
    return other[request.format.name].value


def _first_event(exchange: Exchange) -> Within:
    """A stream has to begin in time; a plain answer has the whole exchange for it."""
    timeouts, route = exchange.rules.timeouts, exchange.route
    seconds = route.first_event_s or timeouts.first_event_s
    if exchange.request.kind is Kind.GENERATION and not exchange.request.stream:
        seconds = timeouts.overall_s
    return exchange.watched.within(
        seconds, FirstEventLate, seconds=f"{seconds:g}", reason="no first event"
    )


async def _begun(ask: Ask, exchange: Exchange) -> Reply:
    """Send the request and read until an answer has begun."""
    request = exchange.request
    answer = await ask.answer()
    if not request.stream:
        return await read_plain(answer, request, ask.read_error)
    return await open_stream(
        answer, request, ask.read_error, event_bytes=exchange.rules.limits.event_bytes
    )


def body_for(request: ClientRequest, route: Route, model: str) -> bytes:
    """The body an upstream gets: the client's, but for the model's name and, if it has to be
    metered exactly, the wish for usage.
    """
    body = request.body
    if model != request.model:
        body = splice.with_string(body, "model", msgspec.json.encode(model))
    elif body.count(b'"model"') > 1 or b"\\u00" in body:
        body = splice.with_field(body, "model", msgspec.json.encode(model))
    if not request.wants_usage and route.metering is Metering.EXACT:
        body = request.format.asking_for_usage(body)
    return body
