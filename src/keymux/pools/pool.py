"""One provider's upstream keys in memory, and the choice among them.

For every model there is a *lane*: the keys that may be ready for it, in turn. A key that turns out
not to be ready is taken out of the lane when its turn comes, and put back when whatever held it is
over; so a choice costs the same with ten keys and with fifty thousand.
"""

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count

from keymux.core.health import Status
from keymux.core.retrying import Step
from keymux.core.vocabulary import Target
from keymux.pools.budget import RetryBudget
from keymux.pools.gate import Gate


class UpstreamKey:
    """A key of a pool.

    Attributes:
        id: as in the store.
        secret: never shown.
        group: the keys that share its allowance.
        gate: its own health.
        models: gates for single models that this key alone is kept from.
        lanes: the models in whose lane it stands.
        replaced: True once a backup key has taken over.
        is_out: never to be chosen: replaced, or removed from the pool.
    """

    __slots__ = (
        "gate",
        "group",
        "id",
        "is_out",
        "label",
        "lanes",
        "models",
        "replaced",
        "secret",
    )

    def __init__(self, key_id: str, secret: str, group: "Group", label: str = "") -> None:
        self.id = key_id
        self.secret = secret
        self.group = group
        self.label = label
        self.gate = Gate()
        self.models: dict[str, Gate] = {}
        self.lanes: set[str] = set()
        self.replaced = False
        self.is_out = False

    def __repr__(self) -> str:
        return f"<UpstreamKey {self.id} {self.gate.condition.status}>"


class Group:
    """Upstream keys that share one allowance."""

    __slots__ = ("keys", "models", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.keys: list[UpstreamKey] = []
        self.models: dict[str, Gate] = {}


class Lease:
    """The right to use one upstream key through one egress for one attempt.

    Attributes:
        pool: of the provider.
        target: provider and model.
        key: the upstream key.
        egress: name of the way out.
        passed: the gates it went through, with the generation each had.
        is_trial: True for a probe or a lease during a ramp.
    """

    __slots__ = ("egress", "is_trial", "key", "passed", "pool", "target")

    def __init__(
        self, pool: "Pool", target: Target, key: UpstreamKey, gates: tuple[Gate, ...]
    ) -> None:
        self.pool = pool
        self.target = target
        self.key = key
        self.egress = "direct"
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


class Pool:
    """The keys of one provider.

    Attributes:
        name: of the provider.
        gate: health of the provider as a whole.
        keys: all upstream keys by id, ready or not.
        groups: by name.
        budget: for retries.
        expecting: promotions under way, each about to bring a fresh key.
    """

    def __init__(self, name: str, budget: RetryBudget) -> None:
        self.name = name
        self.gate = Gate()
        self.egress_gates: dict[str, Gate] = {}
        self.keys: dict[str, UpstreamKey] = {}
        self.groups: dict[str, Group] = {}
        self.budget = budget
        self.expecting = 0
        self._lanes: dict[str, deque[UpstreamKey]] = {}
        self._wakeups: list[tuple[float, int, Gate, tuple[UpstreamKey, ...], str]] = []
        self._trials = 0
        self._order = count()
        self._listeners: dict[int, Callable[[], None]] = {}

    # -- members -----------------------------------------------------------------------------
    def add(self, key_id: str, secret: str, *, group: str = "", label: str = "") -> UpstreamKey:
        """Put a key into the pool, or find the one that is there."""
        known = self.keys.get(key_id)
        if known is not None:
            return known
        home = self.groups.setdefault(group or f"key:{key_id}", Group(group or f"key:{key_id}"))
        key = UpstreamKey(key_id, secret, home, label)
        home.keys.append(key)
        self.keys[key_id] = key
        self.wake((key,))
        return key

    def remove(self, key_id: str) -> None:
        """Take a key out for good; leases on it run on."""
        key = self.keys.pop(key_id, None)
        if key is None:
            return
        key.is_out = True
        key.group.keys.remove(key)
        if not key.group.keys:
            self.groups.pop(key.group.name, None)

    # -- choosing ----------------------------------------------------------------------------
    def take(self, step: Step, now: float) -> Lease | None:
        """Choose a ready key for a step and take it, in turn; None when none is ready."""
        if self._wakeups and self._wakeups[0][0] <= now:
            self._wake_due(now)
        if not self.gate.is_open(now) or (self.egress_gates and self._egress_is_blocked()):
            return None
        key = self._next_key(step, now)
        if key is None:
            return None
        own, group = key.models, key.group.models
        if not (own or group):
            gates: tuple[Gate, ...] = (self.gate, key.gate)
        else:
            model = step.target.model
            narrower = [gates_of[model] for gates_of in (own, group) if model in gates_of]
            gates = (self.gate, key.gate, *narrower)
        lease = Lease(self, step.target, key, gates)
        self._trials += lease.is_trial
        return lease

    def _egress_is_blocked(self) -> bool:
        gate = self.egress_gates.get("direct")
        return gate is not None and not gate.condition.is_healthy

    def _next_key(self, step: Step, now: float) -> UpstreamKey | None:
        model = step.target.model
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._new_lane(model)
        for _ in range(len(lane)):
            key = lane.popleft()
            if not self.is_ready(key, model, now):
                key.lanes.discard(model)
                continue
            lane.append(key)
            if _fits(key, step):
                return key
        return None

    def is_ready(self, key: UpstreamKey, model: str, now: float) -> bool:
        """Whether a lease on a key for a model could be given."""
        if key.is_out or not key.gate.is_open(now):
            return False
        if key.models and model in key.models and not key.models[model].is_open(now):
            return False
        shared = key.group.models
        return not (shared and model in shared and not shared[model].is_open(now))

    def _new_lane(self, model: str) -> deque[UpstreamKey]:
        lane = self._lanes[model] = deque(self.keys.values())
        for key in self.keys.values():
            key.lanes.add(model)
        return lane

    # -- waking ------------------------------------------------------------------------------
    def wake(self, keys: Iterable[UpstreamKey]) -> None:
        """Put keys back into the lanes, because what held them may be over."""
        for key in keys:
            for model, lane in self._lanes.items():
                if model not in key.lanes:
                    key.lanes.add(model)
                    lane.append(key)
        self.announce()

    def wake_later(self, gate: Gate, keys: Iterable[UpstreamKey], model: str = "") -> None:
        """Put keys back when the cooldown of a gate is over."""
        until = gate.condition.until
        if until is not None and not gate.condition.is_healthy:
            heappush(self._wakeups, (until, next(self._order), gate, tuple(keys), model))

    def _wake_due(self, now: float) -> None:
        while self._wakeups and self._wakeups[0][0] <= now:
            _, _, gate, keys, model = heappop(self._wakeups)
            until = gate.condition.until
            if until is not None and until > now and not gate.condition.is_healthy:
                self.wake_later(gate, keys, model)
            else:
                self.wake(keys)

    def give_back(self, lease: Lease) -> None:
        """End a lease."""
        self._trials -= lease.is_trial
        for gate, generation in lease.passed:
            if not gate.give_back(generation):
                continue
            if gate is self.gate:
                self.announce()
            else:
                self.wake(lease.key.group.keys)

    # -- waiting -----------------------------------------------------------------------------
    def soonest(self, step: Step, now: float) -> tuple[float | None, Status | None]:
        """When a key may become ready for a step, and what holds it until then.

        Returns:
            The present time when that depends on a lease or a promotion under way; None when no
            cooldown has an end.
        """
        if self.expecting or self._trials:
            return now, None
        if self._egress_is_blocked():
            return None, None
        floor = 0.0
        if not self.gate.is_open(now):
            if self.gate.condition.until is None:
                return None, self.gate.condition.status
            floor = self.gate.condition.until
        for until, _, gate, _, model in sorted(self._wakeups[:64]):
            condition = gate.condition
            if gate is self.gate or condition.is_healthy or condition.until is None:
                continue
            if not model or model == step.target.model:
                return max(until, floor, now), condition.status
        return (floor, self.gate.condition.status) if floor else (None, None)

    def listen(self, notify: Callable[[], None]) -> Callable[[], None]:
        """Be told whenever a key may have become ready; call the result to stop."""
        token = next(self._order)
        self._listeners[token] = notify
        return lambda: self._listeners.pop(token, None) and None

    def announce(self) -> None:
        """Tell those who wait for a key to look again."""
        for notify in tuple(self._listeners.values()):
            notify()


def _fits(key: UpstreamKey, step: Step) -> bool:
    if step.only_key is not None:
        return key.id == step.only_key
    return key.id not in step.avoid_keys and key.group.name not in step.avoid_groups
