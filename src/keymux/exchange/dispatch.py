"""Lease, attempt, and move on, until an upstream begins to answer."""

from collections.abc import Sequence
from random import Random
from types import TracebackType

import msgspec
from msgspec import Struct

from keymux.core.faults import (
    Blame,
    Fault,
    FirstEventLate,
    FormatNotServed,
    NoneReady,
    OperationMissing,
    UpstreamFault,
)
from keymux.core.retrying import FailedAttempt, Situation, Step, next_steps, surfaced
from keymux.core.vocabulary import Kind, Metering, Operation, Route, WireFormat
from keymux.exchange.counting import Lacking, estimated, may_be_estimated
from keymux.exchange.peek import Reply, open_stream, read_plain
from keymux.exchange.ports import Ask, ClientRequest, Rules, Upstreams
from keymux.exchange.settle import AttemptNote, Bill
from keymux.exchange.watch import Watched
from keymux.pools.budget import Turn
from keymux.pools.leasing import Leasing
from keymux.pools.pool import Lease
from keymux.upstream.request import UpstreamRequest
from keymux.wire import splice


class Exchange(Struct, frozen=True):
    """One exchange from the moment its route is known.

    Attributes:
        steps: the targets of the route that speak the client's format, in order.
    """

    request: ClientRequest
    route: Route
    steps: tuple[Step, ...]
    bill: Bill
    watched: Watched
    rules: Rules


class Dispatcher:
    """Finds an upstream that answers.

    Args:
        leasing: lends keys.
        upstreams: the way out.
        luck: random numbers.
        lacking: remembers who does not count tokens.
    """

    def __init__(
        self, leasing: Leasing, upstreams: Upstreams, luck: Random, lacking: Lacking
    ) -> None:
        self._leasing = leasing
        self._upstreams = upstreams
        self._luck = luck
        self._lacking = lacking

    def dispatch(self, exchange: Exchange) -> "Dispatch":
        """Hold open, for as long as the context lasts, the first reply that any target gives."""
        if exchange.request.operation is Operation.COUNT_TOKENS:
            return Count(self, exchange, self._lacking)
        return Dispatch(self, exchange)

    async def begin(
        self, exchange: Exchange, steps: Sequence[Step], failed: list[FailedAttempt]
    ) -> "Attempt":
        """One try under one lease; if it fails, it joins the failed ones.

        Raises:
            NoneReady: no key was ready in time.
            UpstreamFault: the attempt came to nothing.
        """
        watched, leasing = exchange.watched, self._leasing
        turn = _turn(exchange.request, failed)
        lease = leasing.lease(steps, turn) or await leasing.lease_later(
            steps, turn, exchange.route.model, watched.left_s()
        )
        attempt = Attempt(leasing, lease, exchange.bill.attempt(lease))
        try:
            await attempt.open(self._upstreams.ask(_errand(exchange, lease)), exchange)
        except BaseException as error:
            fault = watched.named(error)
            await attempt.end(fault)
            if not isinstance(fault, UpstreamFault):
                raise
            failed.append(_failed(lease, fault))
            if fault is error:
                raise
            watched.resume()
            raise fault from None
        return attempt

    def next_steps(self, exchange: Exchange, failed: list[FailedAttempt]) -> tuple[Step, ...]:
        """Where to go on after a failed attempt, if anywhere."""
        watched = exchange.watched
        situation = Situation(
            kind=exchange.request.kind,
            left_s=watched.left_s(),
            total_s=watched.total_s,
            cost_micros=exchange.bill.bound_micros or 0,
            luck=self._luck.random(),
        )
        speaking = {step.target for step in exchange.steps}
        further = next_steps(exchange.route, failed, exchange.rules.patience, situation)
        return tuple(step for step in further if step.target in speaking)


class Dispatch:
    """The way from a request to a reply, attempt by attempt.

    From the moment a reply is handed out the client may have seen part of it, so later faults end
    the exchange. They are never retried.
    """

    __slots__ = ("_attempt", "_dispatcher", "_exchange", "_failed")

    def __init__(self, dispatcher: Dispatcher, exchange: Exchange) -> None:
        self._dispatcher = dispatcher
        self._exchange = exchange
        self._attempt: Attempt | None = None
        self._failed: list[FailedAttempt] = []

    async def __aenter__(self) -> Reply:
        """Try until a target begins to answer.

        Raises:
            FormatNotServed: no target speaks the client's format.
            NoneReady: no key was ready in time.
            UpstreamFault: of the last attempt, when there is nothing left to try.
        """
        dispatcher, exchange = self._dispatcher, self._exchange
        failed = self._failed
        steps = self._first_steps()
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
            await self._attempt.end(self._exchange.watched.named(error))

    def _first_steps(self) -> Sequence[Step]:
        steps, request = self._exchange.steps, self._exchange.request
        if not steps:
            theirs = request.format.name
            other = WireFormat.ANTHROPIC if theirs is WireFormat.OPENAI else WireFormat.OPENAI
            raise FormatNotServed(model=request.model, format=theirs, other=other)
        return steps


class Count(Dispatch):
    """The way to a count of tokens: where it leads nowhere, an estimate is the reply."""

    __slots__ = ("_lacking",)

    def __init__(self, dispatcher: Dispatcher, exchange: Exchange, lacking: Lacking) -> None:
        super().__init__(dispatcher, exchange)
        self._lacking = lacking

    async def __aenter__(self) -> Reply:
        """Try until a target begins to answer, or estimate.

        Raises:
            UpstreamFault: the request itself was refused.
        """
        try:
            return await super().__aenter__()
        except Fault as fault:
            if not may_be_estimated(fault):
                raise
            return estimated(self._exchange.request.body)
        finally:
            for attempt in self._failed:
                self._lacking.note(attempt.target, attempt.fault)

    def _first_steps(self) -> Sequence[Step]:
        steps = self._lacking.without(super()._first_steps())
        if not steps:
            raise OperationMissing
        return steps


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
        exchange.watched.expect(FirstEventLate, _first_event_s(exchange))
        request = exchange.request
        answer = await ask.answer()
        if request.stream:
            limit = exchange.rules.limits.event_bytes
            self.reply = await open_stream(answer, request, ask, event_bytes=limit)
        else:
            self.reply = await read_plain(answer, request, ask)
        self._leasing.opened(self._lease)
        self._note.opened(self.reply, answer.request_id)

    async def end(self, error: BaseException | None) -> None:
        """Close the connection; the bill and the pool learn from the error how it went."""
        try:
            if self._ask is not None and self._ask.is_open:
                await self._ask.close()
        finally:
            self._note.end(error)
            self._leasing.give_back(self._lease, error)


def _errand(exchange: Exchange, lease: Lease) -> UpstreamRequest:
    request, target = exchange.request, lease.target
    return UpstreamRequest(
        target.provider,
        lease.key.secret,
        lease.exit.way,
        request.format.name,
        request.operation,
        request.stream,
        request.headers,
        request.query,
        body_for(request, exchange.route, target.model),
        exchange.watched.left_s(),
        lease.exit.address,
    )


def _failed(lease: Lease, fault: UpstreamFault) -> FailedAttempt:
    key = lease.key
    return FailedAttempt(lease.target, key.id, key.group.name, fault, lease.exit.name)


def _turn(request: ClientRequest, failed: list[FailedAttempt]) -> Turn:
    """What the next attempt is to the retry budget; no provider has seen what an egress lost."""
    if any(attempt.fault.blame is not Blame.EGRESS for attempt in failed):
        return Turn.RETRY
    return Turn.CLIENT_RETRY if request.is_client_retry else Turn.FIRST


def _last_word(failed: list[FailedAttempt], none: NoneReady) -> Fault:
    """What to say when an attempt failed and no key is left for another."""
    if not failed:
        return none
    said = surfaced(failed[-1].fault, str(none.facts["model"]))
    return none if isinstance(said, NoneReady) else said


def _first_event_s(exchange: Exchange) -> float:
    """A stream has to begin in time; a plain answer has the whole exchange for it."""
    timeouts, request = exchange.rules.timeouts, exchange.request
    if request.kind is not Kind.REPEATABLE and not request.stream:
        return timeouts.overall_s
    return exchange.route.first_event_s or timeouts.first_event_s


def body_for(request: ClientRequest, route: Route, model: str) -> bytes:
    """The body an upstream gets: the client's, but for two things.

    The model's name is the one it has there, and a stream that has to be metered asks for usage.
    """
    body = request.body
    if model != request.model or splice.may_repeat(body, "model"):
        body = splice.with_string(body, "model", msgspec.json.encode(model))
    if not request.wants_usage and route.metering is Metering.EXACT:
        body = request.format.asking_for_usage(body)
    return body
