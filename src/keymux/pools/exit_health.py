"""What attempts and checks do to the exits through proxies.

An exit that failed is left alone for a while; then a check, and nothing else, opens it again. One
whose proxy refuses our credentials, or whose provider refuses those who come that way, waits for an
operator.
"""

from collections.abc import Callable
from random import Random

from msgspec import Struct

from keymux.core import health
from keymux.core.faults import UpstreamFault
from keymux.core.health import Backoff, Condition, Event, Status
from keymux.pools.egress import Exit
from keymux.pools.pool import Lease, Pool


class Check(Struct, frozen=True):
    """What a check of an exit has shown.

    Attributes:
        generation: of the exit's gate when the check began.
        problem: in words; empty when all went well.
        is_refusal: the proxy does not accept our credentials.
        latency_s: until the TLS handshake was over.
    """

    generation: int
    problem: str = ""
    is_refusal: bool = False
    latency_s: float | None = None


class ExitChange(Struct, frozen=True):
    """An exit through a proxy is open or closed now.

    Attributes:
        pool: of the provider.
        exit: which.
        before: status before.
        reason: why, in words.
        is_checked: whether a check has shown it; otherwise an attempt did.
    """

    pool: Pool
    exit: Exit
    before: Status
    reason: str
    is_checked: bool


class ExitHealth:
    """Closes and opens exits.

    Args:
        backoff: how long an exit is left alone.
        clock: seconds, never going back.
        luck: random numbers; spreads the checks.
        tell: called with every transition.
        look: called with an exit that is to be checked soon.
        failure: called with an exit by which a provider was not reached.
    """

    def __init__(
        self,
        backoff: Backoff,
        clock: Callable[[], float],
        luck: Random,
        tell: Callable[[ExitChange], None],
        look: Callable[[Pool, Exit], None],
        failure: Callable[[Pool, Exit], None],
    ) -> None:
        self.backoff = backoff
        self._clock = clock
        self._luck = luck
        self._tell = tell
        self._look = look
        self._failure = failure

    # -- what attempts show ----------------------------------------------------------------------
    def failed(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        """The provider was not reached."""
        way = lease.exit
        self._failure(lease.pool, way)
        generation = lease.generation_of(way.gate)
        self._close(lease.pool, way, generation, fault.reason or fault.code, now)

    def refused(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        """The proxy does not accept our credentials."""
        way = lease.exit
        self._failure(lease.pool, way)
        if lease.generation_of(way.gate) == way.gate.condition.generation:
            self._give_up(lease.pool, way, fault.reason or fault.code, now)

    def blocked(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        """The provider refuses those who come this way."""
        after = health.condemn(lease.exit.gate.condition, now=now, reason=fault.reason)
        self._put(lease.pool, lease.exit, after, fault.reason)

    def doubt(self, lease: Lease, fault: UpstreamFault) -> None:
        """Something was lost on the way; a check will show whose fault that was."""
        lease.exit.doubt = (fault, lease.generation_of(lease.pool.gate))
        self._look(lease.pool, lease.exit)

    # -- what checks show ------------------------------------------------------------------------
    def checked(self, pool: Pool, way: Exit, found: Check) -> tuple[UpstreamFault, int] | None:
        """A check is over; gives what was lost on this way and cannot have been its fault."""
        now, known = self._clock(), way.gate.condition
        doubt, way.doubt = way.doubt, None
        if known.generation != found.generation:
            return None  # it was judged anew meanwhile
        if not found.problem:
            way.latency_s = found.latency_s
            if not (known.is_healthy or way.is_blocked):  # that the proxy works was no question
                well = Condition(step=known.step, generation=known.generation + 1, since=now)
                self._put(pool, way, well, "checked", is_checked=True)
            return doubt
        self._failure(pool, way)
        if found.is_refusal:
            self._give_up(pool, way, found.problem, now, is_checked=True)
        else:
            self._close(pool, way, known.generation, found.problem, now, is_checked=True)
        return None

    # -- common ----------------------------------------------------------------------------------
    def _close(
        self,
        pool: Pool,
        way: Exit,
        generation: int,
        reason: str,
        now: float,
        *,
        is_checked: bool = False,
    ) -> None:
        after = health.cool(
            way.gate.condition,
            Event.FAILED,
            self.backoff,
            now=now,
            told=None,
            generation=generation,
            luck=self._luck.random(),
            reason=reason,
        )
        self._put(pool, way, after, reason, is_checked=is_checked)

    def _give_up(
        self, pool: Pool, way: Exit, reason: str, now: float, *, is_checked: bool = False
    ) -> None:
        """Leave an exit alone until an operator acts."""
        if way.is_blocked or way.is_misconfigured:
            return
        generation = way.gate.condition.generation + 1
        after = Condition(Status.ERROR, None, reason=reason, generation=generation, since=now)
        self._put(pool, way, after, reason, is_checked=is_checked)

    def _put(
        self, pool: Pool, way: Exit, after: Condition, reason: str, *, is_checked: bool = False
    ) -> None:
        before = way.gate.condition
        if way.gate.change(after):
            pool.ways.opened(way)
            pool.announce()
            self._tell(ExitChange(pool, way, before.status, reason, is_checked))
