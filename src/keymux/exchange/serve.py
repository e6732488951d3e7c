"""One exchange from the client's first byte to a settled bill. Start reading here."""

import traceback
from collections.abc import Callable, Mapping

from msgspec import Struct

from keymux.core.faults import Fault, Internal
from keymux.core.retrying import Step
from keymux.core.routing import Routes
from keymux.core.vocabulary import Operation, WireFormat
from keymux.exchange.admit import Admission
from keymux.exchange.authenticate import authenticate
from keymux.exchange.deliver import Delivery
from keymux.exchange.dispatch import Dispatcher, Exchange
from keymux.exchange.ports import Callers, Client, Incoming, Rules
from keymux.exchange.refuse import refuse
from keymux.exchange.settle import Bill, Ledger
from keymux.exchange.watch import Watch


class Terms(Struct, frozen=True):
    """What the config says about exchanges; swapped whole when it is read again.

    Attributes:
        routes: models by name.
        steps: for each model, format and operation, the targets that serve it, in order.
        rules: the figures.
    """

    routes: Routes
    steps: Mapping[tuple[str, WireFormat, Operation], tuple[Step, ...]]
    rules: Rules


class Parts(Struct, frozen=True):
    """The stages of an exchange, as the application put them together.

    Attributes:
        terms: gives the present terms; an exchange keeps those it began with.
        callers: knows client keys.
        watch: ends what takes too long.
        ledger: opens bills.
        admission: knows how much runs.
        dispatcher: finds an upstream that answers.
        report: told of defects: request id and traceback.
    """

    terms: Callable[[], Terms]
    callers: Callers
    watch: Watch
    ledger: Ledger
    admission: Admission
    dispatcher: Dispatcher
    report: Callable[[str, str], None]


class Gateway:
    """Carries exchanges."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def serve(self, incoming: Incoming, client: Client) -> None:
        """Carry one request from the client's first byte to a settled bill.

        Each context gives back what it took: a reply closes its connection, a lease returns its
        key, a bill is settled -- also when the client hangs up halfway.
        """
        parts, bill = self._parts, None
        try:
            caller = authenticate(incoming.client_keys, parts.callers)
            terms = parts.terms()
            with (
                parts.watch.over(client, _seconds(incoming, terms.rules)) as watched,
                parts.ledger.open(incoming, caller, watched) as bill,
            ):
                request = await incoming.read(watched, terms.rules)
                route = terms.routes.resolve(request.model, caller)
                steps = terms.steps[route.model, request.format.name, request.operation]
                exchange = Exchange(request, route, steps, bill, watched, terms.rules)
                delivery = Delivery(client, exchange)
                with parts.admission.admit(exchange):
                    async with parts.dispatcher.dispatch(exchange) as reply:
                        await delivery.deliver(reply)
        except Fault as fault:
            await self._refuse(fault, incoming, client, bill)
        except Exception:  # noqa: BLE001 -- the one place where a defect becomes an answer
            parts.report(incoming.id, traceback.format_exc())
            await self._refuse(Internal(request_id=incoming.id), incoming, client, bill)

    async def _refuse(
        self, fault: Fault, incoming: Incoming, client: Client, bill: Bill | None
    ) -> None:
        if bill is None:
            self._parts.ledger.turned_away(incoming, fault)
        await refuse(fault, incoming, client, bill.tries if bill else 0)


def _seconds(incoming: Incoming, rules: Rules) -> float:
    """How long the exchange may take: as long as the client will wait, but no longer than we do."""
    overall = rules.timeouts.overall_s
    return overall if incoming.timeout_s is None else min(incoming.timeout_s, overall)
