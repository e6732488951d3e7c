"""One provider's upstream keys in memory, and the leases on them.

`lanes` chooses among the keys and `alarms` knows when cooldowns end; the pool asks the provider's
own gate first, gives the lease, and tells those who wait for one.
"""

from collections.abc import Callable, Iterable
from itertools import count

from msgspec import Struct

from keymux.core.egress import BindingRecord
from keymux.core.health import Status
from keymux.core.retrying import Step
from keymux.core.vocabulary import Target
from keymux.pools.alarms import Alarms
from keymux.pools.budget import RetryBudget
from keymux.pools.egress import Exit, Leaver, WaysOut
from keymux.pools.gate import Gate
from keymux.pools.lanes import Lanes
from keymux.pools.members import Group, UpstreamKey
from keymux.pools.permits import Permits, Scope

_AWAY = frozenset({Status.EXHAUSTED, Status.QUARANTINED, Status.DISABLED})


class Lease:
    """The right to use one upstream key through one egress for one attempt.

    Attributes:
        pool: of the provider.
        target: provider and model.
        key: the upstream key.
        exit: the way out.
        passed: the gates it went through, with the generation each had.
        is_trial: True for a probe or a lease during a ramp.
    """

    __slots__ = ("exit", "is_trial", "key", "passed", "pool", "target")

    def __init__(
        self, pool: "Pool", target: Target, key: UpstreamKey, way: Exit, gates: tuple[Gate, ...]
    ) -> None:
        self.pool = pool
        self.target = target
        self.key = key
        self.exit = way
        self.is_trial = False
        self.passed: list[tuple[Gate, int]] = []
        for gate in gates:
            self.is_trial = self.is_trial or not gate.is_free
            self.passed.append((gate, gate.take()))

    def generation_of(self, gate: Gate) -> int:
        """The generation a gate had when the lease was given, 0 if it was not there yet."""
        for passed, generation in self.passed:
            if passed is gate:
                return generation
        return 0

    def on_trial(self) -> Gate | None:
        """The gate that waits for this very lease to find out how things are, if one does."""
        for gate, generation in self.passed:
            if not gate.is_free and generation == gate.condition.generation:
                return gate
        return None


class Outlook(Struct, frozen=True):
    """What may be hoped for when no key is ready.

    Attributes:
        until: when a cooldown ends that a key waits for; None when none has an end.
        status: what keeps that key.
        is_open: a lease, a promotion or a check under way may bring a key at any time.
        is_way_out: the way out is all that keeps the keys.
    """

    until: float | None
    status: Status | None
    is_open: bool
    is_way_out: bool = False

    def is_hopeful(self, give_up: float) -> bool:
        """Whether a key may become ready before one gives up."""
        return self.is_open or (self.until is not None and self.until <= give_up)

    def look_again(self, now: float, give_up: float) -> float:
        """How long to wait if nothing is announced before."""
        return min(self.until, give_up) if self.until and self.until > now else give_up


class Pool:
    """The keys of one provider.

    Attributes:
        name: of the provider.
        gate: health of the provider as a whole.
        keys: all upstream keys by id, ready or not.
        ways: the exits of the keys.
        groups: by name.
        budget: for retries.
        expecting: promotions under way, each about to bring a fresh key.

    Args:
        name: of the provider.
        budget: for retries.
        permits: asked before a probe; without them this process decides alone.
    """

    def __init__(self, name: str, budget: RetryBudget, permits: Permits | None = None) -> None:
        self.name = name
        self._permits = permits
        self.gate = self.new_gate()
        self.keys: dict[str, UpstreamKey] = {}
        self.groups: dict[str, Group] = {}
        self.budget = budget
        self.expecting = 0
        self._alarms = Alarms()
        self.ways = WaysOut(self._wake_leaver)
        self._lanes = Lanes(self.keys, self._alarms, self.ways, self._ask)
        self._trials: dict[Lease, None] = {}
        self._in_rotation: int | None = None
        self._order = count()
        self._listeners: dict[int, Callable[[], None]] = {}

    def new_gate(self) -> Gate:
        """A gate of this pool, open."""
        return Gate(is_guarded=self._permits is not None)

    # -- members -----------------------------------------------------------------------------
    def add(self, key_id: str, secret: str, *, group: str = "", label: str = "") -> UpstreamKey:
        """Put a key into the pool, or find the one that is there."""
        known = self.keys.get(key_id)
        if known is not None:
            return known
        name = group or f"key:{key_id}"
        home = self.groups.get(name)
        if home is None:
            home = self.groups[name] = Group(name)
        key = UpstreamKey(key_id, secret, home, label, self.new_gate())
        key.exits = self.ways.of_key(key_id)
        home.keys[key_id] = self.keys[key_id] = key
        self.recount()
        self.wake(key)
        return key

    def remove(self, key_id: str) -> None:
        """Take a key out for good; leases on it run on."""
        key = self.keys.pop(key_id, None)
        if key is None:
            return
        key.is_out = True
        self.ways.forget(key)
        del key.group.keys[key_id]
        if not key.group.keys:
            del self.groups[key.group.name]
        self.recount()

    def bind(self, key_id: str, records: Iterable[BindingRecord]) -> None:
        """From now on these are the bindings of a key, in the pool or not; leases on it run on."""
        self.ways.bind(key_id, records)
        key = self.keys.get(key_id)
        if key is not None:
            self.ways.forget(key)
            key.exits = self.ways.of_key(key_id)
            self.wake(key)

    def in_rotation(self) -> int:
        """How many keys requests go to, or would go to after a while."""
        if self._in_rotation is None:
            self._in_rotation = sum(
                not key.is_out and key.gate.condition.status not in _AWAY
                for key in self.keys.values()
            )
        return self._in_rotation

    def recount(self) -> None:
        """A key has come, gone, or changed its status."""
        self._in_rotation = None

    # -- choosing ----------------------------------------------------------------------------
    def take(self, step: Step, now: float) -> Lease | None:
        """Choose a ready key for a step and take it, in turn; None when none is ready."""
        if self._alarms.next <= now:
            self._ring(now)
        if not self.gate.is_open(now) or self.ways.is_shut:
            self._ask_for_itself(now)
            return None
        key = self._lanes.next_key(step, now)
        if key is None:
            return None
        way = key.exits.choose(step.avoid_egresses)
        if way is None:
            return None
        own, group = key.models, key.shared
        gates: tuple[Gate, ...] = (self.gate, key.gate)
        if own or group:
            model = step.target.model
            narrower = [gates_of[model] for gates_of in (own, group) if model in gates_of]
            gates = (*gates, *narrower)
        if way.address is not None:
            gates = (*gates, way.gate)
        lease = Lease(self, step.target, key, way, gates)
        if lease.is_trial:
            self._trials[lease] = None
        return lease

    def could_take(self, step: Step, now: float) -> bool:
        """Whether `take` would give a lease; takes nothing."""
        if self._alarms.next <= now:
            self._ring(now)
        if not self.gate.is_open(now) or self.ways.is_shut:
            self._ask_for_itself(now)
            return False
        return self._lanes.has_key(step, now)

    def give_back(self, lease: Lease) -> None:
        """End a lease."""
        if lease.is_trial:
            self._trials.pop(lease, None)
        for gate, generation in lease.passed:
            if not gate.give_back(generation):
                continue
            if gate is self.gate:
                self.announce()
            elif gate is lease.key.shared.get(lease.target.model):
                self.wake(lease.key.group, lease.target.model)
            else:
                self.wake(lease.key)

    # -- waking ------------------------------------------------------------------------------
    def wake(self, holder: UpstreamKey | Group, model: str = "") -> None:
        """What kept a key, or a group from a model, may be over."""
        if isinstance(holder, Group):
            self._lanes.bring_group_back(holder, model)
        else:
            self._lanes.bring_back(holder)
        self.announce()

    def _wake_leaver(self, key: Leaver) -> None:
        if isinstance(key, UpstreamKey) and not key.is_out:
            self.wake(key)

    def wake_later(self, gate: Gate, holder: UpstreamKey | Group, model: str = "") -> None:
        """Wake what stands behind a gate when its cooldown is over."""
        self._alarms.set(gate, holder, model)
        self.announce()

    def _ring(self, now: float) -> None:
        for holder, model in self._alarms.ring(now):
            self.wake(holder, model)

    # -- probing -----------------------------------------------------------------------------
    def _ask_for_itself(self, now: float) -> None:
        """Ask for the permission to probe the provider, if that is what it waits for."""
        if self._permits is not None and self.gate.wants_permit(now):
            self._permits.ask(self.gate, Scope(self.name, "", self.announce))

    def _ask(self, gate: Gate, holder: UpstreamKey | Group, model: str) -> None:
        """Ask for the permission to probe what stands behind a gate."""
        if self._permits is None:
            return
        kind, name = ("group", holder.name) if isinstance(holder, Group) else ("key", holder.id)
        words = [self.name, kind, name, model]
        scope = "/".join(word for word in words if word)
        self._permits.ask(gate, Scope(scope, model, lambda: self.wake(holder, model)))

    # -- waiting -----------------------------------------------------------------------------
    def outlook(self, step: Step, now: float) -> Outlook:
        """What may be hoped for when no key is ready for a step."""
        if self.ways.is_shut:
            kept = Status.QUARANTINED if self.ways.direct.is_blocked else None
            return Outlook(None, kept, is_open=False, is_way_out=kept is None)
        trial = self._on_trial(step.target.model) or self._asked(step.target.model)
        is_open = bool(self.expecting) or trial is not None
        own, floor = self.gate.condition, now
        if not self.gate.is_open(now):
            if own.until is None or self._lanes.has_key(step, now):
                return Outlook(own.until, own.status, is_open)
            floor = max(floor, own.until)
        found = self._soonest(step)
        if found is None:
            hope = None if trial or is_open else self.ways.hope(now)
            if hope is not None:
                return Outlook(hope.until, None, hope.is_open, is_way_out=True)
            return Outlook(None, trial, is_open)
        until, status = found
        return Outlook(max(until, floor), status, is_open)

    def _soonest(self, step: Step) -> tuple[float, Status] | None:
        if step.only_key is None:
            return self._alarms.soonest(step.target.model)
        key, model = self.keys.get(step.only_key), step.target.model
        gates = (key.gate, key.models.get(model), key.group.models.get(model)) if key else ()
        closed = [gate.condition for gate in gates if gate and not gate.condition.is_healthy]
        ends = [(one.until, one.status) for one in closed if one.until is not None]
        return max(ends) if ends and len(ends) == len(closed) else None

    def _on_trial(self, model: str) -> Status | None:
        """The status of a gate that a lease under way may open for a model."""
        for lease in tuple(self._trials):
            gate = lease.on_trial()
            if gate is None:
                del self._trials[lease]
            elif gate is self.gate or gate is lease.key.gate or lease.target.model == model:
                return gate.condition.status
        return None

    def _asked(self, model: str) -> Status | None:
        """The status of a gate that may soon be permitted to open for a model."""
        return None if self._permits is None else self._permits.asked(model)

    def listen(self, notify: Callable[[], None]) -> Callable[[], None]:
        """Be told whenever a key may have become ready; call the result to stop."""
        token = next(self._order)
        self._listeners[token] = notify
        return lambda: self._listeners.pop(token, None) and None

    def announce(self) -> None:
        """Tell those who wait for a key to look again."""
        for notify in tuple(self._listeners.values()):
            notify()
