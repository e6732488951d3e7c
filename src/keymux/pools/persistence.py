"""From a condition on the process's own clock to a stored state on the wall clock, and back."""

from collections.abc import Callable

from msgspec import Struct

from keymux.core.health import LONGEST_WAIT_S, Condition, Status
from keymux.core.records import KeyRecord, KeyState, ProviderState, Shade
from keymux.pools.gate import Gate
from keymux.pools.pool import Pool, UpstreamKey


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
        return self.wall_ms() + round((moment - self.monotonic()) * 1000)

    def from_wall(self, stored: int) -> float:
        """A stored moment; never further away than a cooldown can be, whatever the clocks did."""
        left = (stored - self.wall_ms()) / 1000
        return self.monotonic() + min(max(left, 0.0), LONGEST_WAIT_S)


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


def _shades(gates: dict[str, Gate], clocks: Clocks, *, whole_group: bool) -> dict[str, Shade]:
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
    """The health of a provider as it is stored; a blocked egress counts as quarantine."""
    blocked = [gate for gate in pool.egress_gates.values() if not gate.condition.is_healthy]
    condition = (blocked[0] if blocked else pool.gate).condition
    return ProviderState(
        status=condition.status,
        cooldown_until=None if condition.until is None else clocks.to_wall(condition.until),
        reason=condition.reason,
        step=condition.step,
        generation=condition.generation,
    )


def put_key(pool: Pool, record: KeyRecord, clocks: Clocks) -> UpstreamKey:
    """Bring a key of the pool to its stored state, adding it if it is new."""
    key = pool.add(record.id, record.secret, group=record.group, label=record.label)
    state = record.state
    key.replaced = key.is_out = bool(record.replaced_by)
    generation = max(state.generation, key.gate.condition.generation + 1)
    key.gate.change(
        Condition(
            status=state.status,
            until=_until(state.status, state.cooldown_until, clocks, key),
            reason=state.reason,
            step=state.step,
            generation=generation,
            since=clocks.monotonic(),
            suspected=clocks.from_wall(state.suspected_at) if state.suspected_at else 0.0,
        )
    )
    key.models = {}
    for model, shade in state.shades.items():
        home = key.group.models if shade.whole_group else key.models
        gate = home.setdefault(model, Gate())
        gate.change(_shade_condition(shade, gate, clocks))
        pool.wake_later(gate, key.group.keys if shade.whole_group else (key,), model)
    pool.wake_later(key.gate, (key,))
    pool.wake((key,))
    return key


def _shade_condition(shade: Shade, gate: Gate, clocks: Clocks) -> Condition:
    until = None if shade.until is None else clocks.from_wall(shade.until)
    known = gate.condition
    if not known.is_healthy and (known.until or 0.0) > (until or 0.0):
        return known
    return Condition(
        status=shade.status,
        until=until,
        reason=shade.reason,
        step=shade.step,
        generation=known.generation + 1,
        since=clocks.monotonic(),
    )


def _until(status: Status, stored: int | None, clocks: Clocks, key: UpstreamKey) -> float | None:
    if status in {Status.HEALTHY, Status.QUARANTINED, Status.DISABLED} or key.replaced:
        return None
    return clocks.monotonic() if stored is None else clocks.from_wall(stored)


def put_provider(pool: Pool, state: ProviderState, clocks: Clocks) -> None:
    """Bring a provider to its stored state."""
    if state.status is Status.QUARANTINED:
        gate = pool.egress_gates.setdefault("direct", Gate())
    else:
        pool.egress_gates.clear()
        gate = pool.gate
    stored = state.cooldown_until
    gate.change(
        Condition(
            status=state.status,
            until=None if stored is None else clocks.from_wall(stored),
            reason=state.reason,
            step=state.step,
            generation=max(state.generation, gate.condition.generation + 1),
            since=clocks.monotonic(),
        )
    )
    pool.wake_later(gate, ())
    pool.announce()
