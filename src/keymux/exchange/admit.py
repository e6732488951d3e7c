"""Whether one more exchange may run now. Limits and budgets of callers belong here, too."""

from types import TracebackType

from keymux.core.faults import Draining, Overburdened, TooManyAtOnce
from keymux.core.vocabulary import Operation
from keymux.exchange.dispatch import Exchange

_COME_BACK_S = 1.0


class Admission:
    """Counts what runs, and refuses what is too much.

    Attributes:
        is_draining: the process is about to stop; nothing more is admitted.
    """

    def __init__(self) -> None:
        self._running = dict.fromkeys(Operation, 0)
        self.is_draining = False

    @property
    def running(self) -> int:
        """Exchanges in flight."""
        return sum(self._running.values())

    def admit(self, exchange: Exchange) -> "Admitted":
        """A place for the exchange, to be entered."""
        return Admitted(self, self._running, exchange)

    def check(self, exchange: Exchange) -> None:
        """Refuse what is too much.

        Raises:
            Draining: the process is about to stop.
            Overburdened: no place is left.
            TooManyAtOnce: no place is left for this operation.
        """
        if self.is_draining:
            raise Draining(retry_after=_COME_BACK_S)
        limits, operation = exchange.rules.limits, exchange.request.operation
        running = self._running[operation]
        if operation is Operation.GENERATE:
            if running >= limits.exchanges:
                raise Overburdened(retry_after=_COME_BACK_S)
        elif running >= limits.count_tokens:
            raise TooManyAtOnce(
                what="token counts", limit=limits.count_tokens, retry_after=_COME_BACK_S
            )


class Admitted:
    """A place among the running exchanges; entering it reserves the bill."""

    __slots__ = ("_admission", "_exchange", "_running")

    def __init__(
        self, admission: Admission, running: dict[Operation, int], exchange: Exchange
    ) -> None:
        self._admission = admission
        self._running = running
        self._exchange = exchange

    async def __aenter__(self) -> None:
        exchange = self._exchange
        self._admission.check(exchange)
        exchange.bill.reserve(exchange.request, exchange.route)
        self._running[exchange.request.operation] += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running[self._exchange.request.operation] -= 1
