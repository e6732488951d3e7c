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
        """A place for the exchange, for as long as the context lasts; its bill is reserved.

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
        exchange.bill.reserve(exchange.request, exchange.route)
        return Admitted(self._running, operation)


class Admitted:
    """A place among the running exchanges."""

    __slots__ = ("_operation", "_running")

    def __init__(self, running: dict[Operation, int], operation: Operation) -> None:
        self._running = running
        self._operation = operation

    def __enter__(self) -> None:
        self._running[self._operation] += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running[self._operation] -= 1
