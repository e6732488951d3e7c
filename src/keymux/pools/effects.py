"""What a fault or a success does to the health of the scopes a lease passed through.

Which effect a fault has stands in the decision table; how a condition changes stands in
`keymux.core.health`. Here the two meet the gates of a pool, and whoever listens is told.
"""

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from msgspec import Struct

from keymux.core import health
from keymux.core.faults import UpstreamFault
from keymux.core.health import Backoff, Condition, Event, Status
from keymux.core.retrying import DECISIONS, LOST_ON_THE_WAY, Effect
from keymux.pools.exit_health import ExitHealth
from keymux.pools.gate import Gate
from keymux.pools.members import Group, UpstreamKey
from keymux.pools.outage import OutageWatch, Suspect
from keymux.pools.pool import Lease, Pool


class Regimen(Struct, frozen=True):
    """How long things are left alone, from the settings.

    Attributes:
        throttled: for a quota group that is over its rate.
        failing: for a key that keeps failing.
        provider: for a provider that is down.
        exhausted_s: seconds between the probes of a spent key.
        model_off_s: seconds a key is not used for a model it may not use.
        failure_threshold: failures in a row that make a key cool.
    """

    throttled: Backoff = Backoff((15.0, 30.0, 60.0, 120.0, 300.0))
    failing: Backoff = Backoff((15.0, 30.0, 60.0, 120.0, 300.0))
    provider: Backoff = Backoff((5.0, 10.0, 20.0, 40.0, 60.0))
    exhausted_s: float = 3600.0
    model_off_s: float = 21_600.0
    failure_threshold: int = 3


PROVIDER_BROKEN = Backoff(tuple(30.0 * times for times in range(1, 11)))
"""After errors in a row without a word from the provider: 30 s x n, at most 300 s."""

PROVIDER_ERRORS = 5


class Change(Struct, frozen=True):
    """A transition that somebody may want to store, count or log.

    Attributes:
        pool: of the provider.
        keys: the upstream keys it is about; empty for the provider itself.
        model: the model it is limited to, empty for all.
        whole_group: True when it is the quota group's condition, not that of the key alone.
        before: status before.
        condition: how things are now.
        reason: why.
    """

    pool: Pool
    keys: tuple[UpstreamKey, ...]
    model: str
    whole_group: bool
    before: Status
    condition: Condition
    reason: str


class Effects:
    """Carries faults and successes into the gates.

    Args:
        regimen: cooldown figures.
        clock: seconds, never going back.
        luck: random numbers; spreads the ends of cooldowns.
        tell: called with every transition.
        exits: health of the exits through proxies.
    """

    def __init__(
        self,
        regimen: Regimen,
        clock: Callable[[], float],
        luck: Random,
        tell: Callable[[Change], None],
        exits: ExitHealth,
    ) -> None:
        self.regimen = regimen
        self._clock = clock
        self._luck = luck
        self._tell = tell
        self._exits = exits
        self._outages: dict[str, OutageWatch] = {}
        self._by_effect: Mapping[Effect, Callable[[Lease, UpstreamFault, float], None]] = (
            MappingProxyType(
                {
                    Effect.NONE: self._nothing,
                    Effect.PROVIDER_DOWN: self._provider_down,
                    Effect.PROVIDER_TOLD: self._provider_down,
                    Effect.PROVIDER_ERROR: self._provider_error,
                    Effect.EGRESS_DOWN: exits.failed,
                    Effect.EGRESS_REFUSED: exits.refused,
                    Effect.MODEL_FAILURE: self._model_failure,
                    Effect.GROUP_THROTTLED: self._group_throttled,
                    Effect.GROUP_SLOWED: self._group_throttled,
                    Effect.GROUP_SPENT: self._group_spent,
                    Effect.KEY_SUSPECT: self._key_suspect,
                    Effect.GROUP_QUARANTINED: self._group_quarantined,
                    Effect.PROVIDER_BLOCKED: self._provider_blocked,
                    Effect.MODEL_OFF: self._model_off,
                }
            )
        )

    def opened(self, lease: Lease) -> None:
        """The upstream began to answer: every scope that was passed is well."""
        for gate, generation in lease.passed:
            if gate.is_calm:
                continue
            after = health.heal(gate.condition, now=self._clock(), generation=generation)
            self._settle(lease, gate, after, "answered")

    def failed(self, lease: Lease, fault: UpstreamFault) -> None:
        """An attempt came to nothing, or broke off later.

        What was lost on the way through a proxy is held against nobody before the proxy was looked
        at.
        """
        if lease.exit.address is not None and type(fault) in LOST_ON_THE_WAY:
            self._exits.doubt(lease, fault)
            return
        self._by_effect[DECISIONS[type(fault)].effect](lease, fault, self._clock())

    # -- one method an effect ----------------------------------------------------------------
    def _nothing(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        pass

    def _provider_down(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        gate = lease.pool.gate
        after = self._cooled(lease, gate, Event.FAILED, self.regimen.provider, fault, now)
        self._settle(lease, gate, after, fault.reason or fault.code)

    def _provider_error(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        self.charge_provider(lease.pool, fault, lease.generation_of(lease.pool.gate), now)

    def charge_provider(
        self, pool: Pool, fault: UpstreamFault, generation: int, now: float
    ) -> None:
        """An error that nobody but the provider can have caused; some in a row take it away."""
        gate, before = pool.gate, pool.gate.condition
        counted = health.count_failure(before, generation)
        if counted.failures < PROVIDER_ERRORS and counted.is_healthy:
            gate.change(counted)
            return
        reason = fault.reason or fault.code
        after = health.cool(
            before,
            Event.FAILED,
            PROVIDER_BROKEN,
            now=now,
            told=fault.told,
            generation=generation,
            luck=self._luck.random(),
            reason=reason,
        )
        moved = gate.change(after)
        pool.announce()
        if moved or after.until != before.until:
            self._tell(
                Change(
                    pool,
                    (),
                    "",
                    whole_group=False,
                    before=before.status,
                    condition=after,
                    reason=reason,
                )
            )

    def _model_failure(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        gate = lease.key.model_gate(lease.target.model, lease.pool.new_gate)
        generation = lease.generation_of(gate)
        before = gate.condition
        counted = health.count_failure(before, generation)
        if counted.failures < self.regimen.failure_threshold and counted.is_healthy:
            gate.change(counted)
        else:
            after = self._cooled(lease, gate, Event.FAILED, self.regimen.failing, fault, now)
            self._settle(lease, gate, after, fault.reason or fault.code)
        self._look_for_outage(lease, gate, before, fault, now)

    def _look_for_outage(
        self, lease: Lease, gate: Gate, before: Condition, fault: UpstreamFault, now: float
    ) -> None:
        watch = self._outages.setdefault(lease.pool.name, OutageWatch())
        watch.note(Suspect(lease.key, lease.target.model, gate, before, gate.condition), now)
        if not watch.is_outage(lease.pool.in_rotation()):
            return
        for innocent in watch.rolled_back():
            innocent.gate.change(innocent.restored())
            lease.pool.wake_later(innocent.gate, innocent.key, innocent.model)
            lease.pool.wake(innocent.key)
            self._tell_of(lease, innocent, "outage of the provider")
        self._provider_down(lease, fault, now)

    def _tell_of(self, lease: Lease, innocent: Suspect, reason: str) -> None:
        if innocent.after.status is innocent.before.status:
            return
        self._tell(
            Change(
                pool=lease.pool,
                keys=(innocent.key,),
                model=innocent.model,
                whole_group=False,
                before=innocent.after.status,
                condition=innocent.gate.condition,
                reason=reason,
            )
        )

    def _group_throttled(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        group = lease.key.group
        gate = group.model_gate(lease.target.model, lease.pool.new_gate)
        after = self._cooled(lease, gate, Event.THROTTLED, self.regimen.throttled, fault, now)
        self._settle(lease, gate, after, fault.reason)

    def _group_spent(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        told = self.regimen.exhausted_s if fault.told is None else fault.told
        for key in tuple(lease.key.group.keys.values()):
            after = health.cool(
                key.gate.condition,
                Event.SPENT,
                Backoff((told,)),
                now=now,
                told=told,
                generation=lease.generation_of(key.gate),
                luck=self._luck.random(),
                reason=fault.reason,
            )
            self._settle(lease, key.gate, after, fault.reason, key)

    def _key_suspect(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        gate = lease.key.gate
        after = health.suspect(
            gate.condition, now=now, generation=lease.generation_of(gate), reason=fault.reason
        )
        self._settle(lease, gate, after, fault.reason)

    def _group_quarantined(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        for key in tuple(lease.key.group.keys.values()):
            after = health.condemn(key.gate.condition, now=now, reason=fault.reason)
            self._settle(lease, key.gate, after, fault.reason, key)

    def _provider_blocked(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        if lease.exit.address is not None:
            self._exits.blocked(lease, fault, now)
            return
        gate = lease.exit.gate
        after = health.condemn(gate.condition, now=now, reason=fault.reason)
        self._settle(lease, gate, after, fault.reason)

    def _model_off(self, lease: Lease, fault: UpstreamFault, now: float) -> None:
        gate = lease.key.model_gate(lease.target.model, lease.pool.new_gate)
        wait = self.regimen.model_off_s
        after = health.cool(
            gate.condition,
            Event.FAILED,
            Backoff((wait,)),
            now=now,
            told=wait,
            generation=lease.generation_of(gate),
            luck=self._luck.random(),
            reason=fault.reason,
        )
        self._settle(lease, gate, after, fault.reason)

    # -- common ------------------------------------------------------------------------------
    def _cooled(
        self,
        lease: Lease,
        gate: Gate,
        event: Event,
        backoff: Backoff,
        fault: UpstreamFault,
        now: float,
    ) -> Condition:
        return health.cool(
            gate.condition,
            event,
            backoff,
            now=now,
            told=fault.told,
            generation=lease.generation_of(gate),
            luck=self._luck.random(),
            reason=fault.reason or fault.code,
        )

    def _settle(
        self,
        lease: Lease,
        gate: Gate,
        after: Condition,
        reason: str,
        key: UpstreamKey | None = None,
    ) -> None:
        before, key = gate.condition, key or lease.key
        moved = gate.change(after)
        if after is before:
            return
        pool, scope = lease.pool, _scope(lease, gate, key)
        if scope.holder is None:
            pool.announce()
        elif after.is_healthy:
            pool.wake(scope.holder, scope.model)
        else:
            pool.wake_later(gate, scope.holder, scope.model)
        if gate is key.gate:
            pool.recount()
        if moved or after.until != before.until or bool(after.suspected) != bool(before.suspected):
            keys = _told_of(scope, key, after)
            whole = isinstance(scope.holder, Group)
            self._tell(Change(pool, keys, scope.model, whole, before.status, after, reason))


class _Scope(Struct, frozen=True):
    """What a gate is about.

    Attributes:
        holder: the key or quota group behind it; None for the provider itself.
        model: the only one it is about, empty for all.
    """

    holder: UpstreamKey | Group | None
    model: str = ""


def _scope(lease: Lease, gate: Gate, key: UpstreamKey) -> _Scope:
    model = lease.target.model
    if gate is key.gate:
        return _Scope(key)
    if gate is key.group.models.get(model):
        return _Scope(key.group, model)
    if gate is key.models.get(model):
        return _Scope(key, model)
    return _Scope(None)


def _told_of(scope: _Scope, key: UpstreamKey, after: Condition) -> tuple[UpstreamKey, ...]:
    """The keys whose stored state has to change.

    The cooldown of a quota group is stored with the key that was refused. When it is over, that is
    told of every key it was stored with, whichever of the group's keys found out.
    """
    if scope.holder is None:
        return ()
    if not isinstance(scope.holder, Group):
        return (key,)
    carriers = scope.holder.carriers.setdefault(scope.model, {})
    if not after.is_healthy:
        carriers[key] = None
        return (key,)
    told = tuple(one for one in carriers if one.id in scope.holder.keys) or (key,)
    carriers.clear()
    return told
