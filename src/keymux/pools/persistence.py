"""From a condition on the process's own clock to a stored state on the wall clock, and back."""

from collections.abc import Callable, Mapping
from math import ceil, inf

from msgspec import Struct
from msgspec.structs import replace

from keymux.core.health import LONGEST_WAIT_S, SUSPICION_S, Condition, Status
from keymux.core.records import KeyRecord, KeyState, ProviderState, Shade
from keymux.pools.gate import Gate
from keymux.pools.members import Group, UpstreamKey
from keymux.pools.pool import Pool

_SEVERITY = {
    Status.HEALTHY: 0,
    Status.RATE_LIMITED: 1,
    Status.ERROR: 1,
    Status.EXHAUSTED: 2,
    Status.QUARANTINED: 3,
    Status.DISABLED: 4,
}
_WAITS_FOR_OPERATOR = frozenset({Status.HEALTHY, Status.QUARANTINED, Status.DISABLED})


class Clocks(Struct, frozen=True):
    """The two clocks of a process.

    Attributes:
        monotonic: seconds, never going back; everything in memory counts by it.
        wall_ms: milliseconds since 1970; everything stored counts by it.
    """

    monotonic: Callable[[], float]
    wall_ms: Callable[[], int]

    def to_wall(self, moment: float) -> int:
        """A moment of the monotonic clock as it is stored."""
        return self.wall_ms() + ceil((moment - self.monotonic()) * 1000)

    def deadline(self, stored: int, written: int) -> float:
        """A stored deadline; never further away than when it was written, whatever the clocks did.

        Args:
            stored: the deadline.
            written: when it was stored, 0 if that is not known.
        """
        longest = (stored - written) / 1000 if written else LONGEST_WAIT_S
        left = min((stored - self.wall_ms()) / 1000, longest, LONGEST_WAIT_S)
        return self.monotonic() + max(left, 0.0)

    def suspected(self, stored: int | None) -> float:
        """When a key was first refused; 0 when that is too long ago to count."""
        age = inf if stored is None else max(0.0, (self.wall_ms() - stored) / 1000)
        return self.monotonic() - age if age <= SUSPICION_S else 0.0


# -- to the store ----------------------------------------------------------------------------------
def key_state(key: UpstreamKey, clocks: Clocks) -> KeyState:
    """The health of a key as it is stored, with the cooldowns of single models."""
    condition = key.gate.condition
    shades = _shades(key.models, clocks, whole_group=False)
    shades |= _shades(key.group.models, clocks, whole_group=True)
    return KeyState(
        status=condition.status,
        cooldown_until=None if condition.until is None else clocks.to_wall(condition.until),
        reason=condition.reason,
        step=condition.step,
        generation=condition.generation,
        failures=condition.failures,
        suspected_at=clocks.to_wall(condition.suspected) if condition.suspected else None,
        shades=shades,
    )


def _shades(gates: Mapping[str, Gate], clocks: Clocks, *, whole_group: bool) -> dict[str, Shade]:
    found: dict[str, Shade] = {}
    for model, gate in gates.items():
        condition = gate.condition
        if condition.is_healthy:
            continue
        found[model] = Shade(
            status=condition.status,
            until=None if condition.until is None else clocks.to_wall(condition.until),
            reason=condition.reason,
            step=condition.step,
            whole_group=whole_group,
        )
    return found


def provider_state(pool: Pool, clocks: Clocks) -> ProviderState:
    """The health of a provider as it is stored; one that refuses this host is quarantined."""
    direct = pool.ways.direct
    condition = (direct if direct.is_blocked else pool).gate.condition
    return ProviderState(
        status=condition.status,
        cooldown_until=None if condition.until is None else clocks.to_wall(condition.until),
        reason=condition.reason,
        step=condition.step,
        generation=_provider_generation(pool),
    )


def _provider_generation(pool: Pool) -> int:
    """Transitions of everything that is stored as the provider's health, so that it only grows."""
    return pool.gate.condition.generation + pool.ways.direct.gate.condition.generation


# -- from the store --------------------------------------------------------------------------------
def put_key(pool: Pool, record: KeyRecord, clocks: Clocks) -> UpstreamKey:
    """Bring a key of the pool to its stored state, adding it if it is new."""
    key = _member(pool, record)
    known = key.gate.condition
    stored = _condition(record, clocks)
    key.gate.change(replace(stored, generation=max(stored.generation, known.generation + 1)))
    for model, gate in key.models.items():
        if model not in record.state.shades:
            make_well(gate, clocks)
    _settle(pool, key, record, clocks)
    return key


def merge_key(pool: Pool, record: KeyRecord, clocks: Clocks) -> UpstreamKey:
    """Take over what another process found out about a key, and forget nothing of one's own.

    The later generation holds. Of two deadlines the later one does, so that what an upstream told
    one process is never shortened by another.
    """
    if record.id not in pool.keys:
        return put_key(pool, record, clocks)
    key = _member(pool, record)
    known = key.gate.condition
    stored = _condition(record, clocks)
    if known.generation <= stored.generation:
        key.gate.change(_merged(known, stored))
    _end_what_is_over(key, record, clocks)
    _settle(pool, key, record, clocks)
    return key


def _merged(known: Condition, stored: Condition) -> Condition:
    """The condition that respects two of which neither is older."""
    later = known if _end(known) > _end(stored) else stored
    if known.generation < stored.generation:
        if stored.is_healthy:
            return _warming_up(known, stored)
        is_cooling = not (known.is_healthy or stored.status in _WAITS_FOR_OPERATOR)
        return replace(stored, until=later.until) if is_cooling else stored
    harm, known_harm = _SEVERITY[stored.status], _SEVERITY[known.status]
    if harm > known_harm:
        return replace(stored, generation=known.generation + 1)
    if harm < known_harm:
        return known
    # a success since the first refusal, wherever it was, ends the suspicion
    suspected = min(known.suspected, stored.suspected)
    return replace(known, until=later.until, suspected=suspected)


def _warming_up(known: Condition, well: Condition) -> Condition:
    """Another process has probed with success: not all the others shall come at once."""
    return replace(well, ramp=known.ramp if known.is_healthy else 1)


def _end_what_is_over(key: UpstreamKey, record: KeyRecord, clocks: Clocks) -> None:
    """Believe the store that a model's cooldown has ended, if it is over here, too."""
    for home in (key, key.group):
        for model, gate in home.models.items():
            if model in record.state.shades or not gate.condition.is_due(clocks.monotonic()):
                continue
            if isinstance(home, Group) and _is_told_by_another(home, model, key):
                continue
            known = gate.condition
            fresh = known.generation + 1
            well = Condition(step=known.step, generation=fresh, since=clocks.monotonic())
            gate.change(_warming_up(known, well))


def _is_told_by_another(group: Group, model: str, key: UpstreamKey) -> bool:
    """Whether the group's cooldown was stored with other keys than this one."""
    carriers = group.carriers.get(model, {})
    carriers.pop(key, None)
    return bool(carriers)


def _end(condition: Condition) -> float:
    if condition.is_healthy:
        return 0.0
    return inf if condition.until is None else condition.until


def _member(pool: Pool, record: KeyRecord) -> UpstreamKey:
    key = pool.add(record.id, record.secret, group=record.group, label=record.label)
    key.replaced = key.is_out = bool(record.replaced_by)
    return key


def _condition(record: KeyRecord, clocks: Clocks) -> Condition:
    state, until = record.state, None
    if state.status not in _WAITS_FOR_OPERATOR and not record.replaced_by:
        stored = state.cooldown_until
        # old databases have cooldowns without an end: such a key is due for its probe
        until = clocks.monotonic() if stored is None else clocks.deadline(stored, record.updated_at)
    return Condition(
        status=state.status,
        until=until,
        reason=state.reason,
        step=state.step,
        generation=state.generation,
        since=clocks.monotonic(),
        suspected=clocks.suspected(state.suspected_at),
    )


def _settle(pool: Pool, key: UpstreamKey, record: KeyRecord, clocks: Clocks) -> None:
    """Put the stored cooldowns of single models in place, and the key into the lanes."""
    for model, shade in record.state.shades.items():
        home = key.group if shade.whole_group else key
        gate = home.model_gate(model, pool.new_gate)
        stored = _shade_condition(shade, record, clocks)
        if _end(stored) > _end(gate.condition):
            gate.change(replace(stored, generation=gate.condition.generation + 1))
        if shade.whole_group:
            key.group.carriers.setdefault(model, {})[key] = None
        pool.wake_later(gate, home, model)
    pool.wake_later(key.gate, key)
    pool.wake(key)
    pool.recount()


def _shade_condition(shade: Shade, record: KeyRecord, clocks: Clocks) -> Condition:
    return Condition(
        status=shade.status,
        until=None if shade.until is None else clocks.deadline(shade.until, record.updated_at),
        reason=shade.reason,
        step=shade.step,
        since=clocks.monotonic(),
    )


def make_well(gate: Gate, clocks: Clocks) -> None:
    """End whatever a gate was closed for, because an operator says so."""
    if not gate.is_calm:
        generation = gate.condition.generation + 1
        gate.change(Condition(generation=generation, since=clocks.monotonic()))


def put_provider(pool: Pool, state: ProviderState, clocks: Clocks) -> None:
    """Bring a provider to its stored state."""
    make_well(pool.ways.direct.gate, clocks)
    pool.ways.opened(pool.ways.direct)
    _put_provider(pool, state, clocks)


def merge_provider(pool: Pool, state: ProviderState, clocks: Clocks) -> None:
    """Take over what another process found out about a provider, unless it is older news."""
    if state.generation <= _provider_generation(pool):
        return
    known = pool.gate.condition
    _put_provider(pool, state, clocks)
    taken = pool.gate.condition
    if taken.is_healthy:
        pool.gate.change(_warming_up(known, taken))
    elif not known.is_healthy and _end(known) > _end(taken):
        pool.gate.change(replace(taken, until=known.until))


def _put_provider(pool: Pool, state: ProviderState, clocks: Clocks) -> None:
    blocked = state.status is Status.QUARANTINED
    gate = (pool.ways.direct if blocked else pool).gate
    until = None
    if state.status not in _WAITS_FOR_OPERATOR:
        stored = state.cooldown_until
        until = clocks.monotonic() if stored is None else clocks.deadline(stored, 0)
    gate.change(
        Condition(
            status=state.status,
            until=until,
            reason=state.reason,
            step=state.step,
            generation=max(state.generation, gate.condition.generation + 1),
            since=clocks.monotonic(),
        )
    )
    pool.announce()
