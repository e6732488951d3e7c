"""A pool against a simple model of it: whatever happens in which order, the promises hold."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from keymux.core.faults import (
    BadGateway,
    KeyRejected,
    KeyRevoked,
    KeySpent,
    KeyThrottled,
    ModelNotPermitted,
    NoReply,
    RequestRefused,
    ServerFailed,
    UpstreamFault,
)
from keymux.core.health import Condition, Status
from keymux.core.records import KeyRecord, KeyState
from keymux.pools.gate import Gate
from keymux.pools.persistence import Clocks, put_key
from keymux.pools.pool import Lease
from tests.pools.rig import MODEL, OTHER_MODEL, World, step

MODELS = st.sampled_from([MODEL, OTHER_MODEL])
FAULTS = st.sampled_from(
    [
        KeyThrottled(told=7.0),
        KeyThrottled(),
        KeySpent(told=40.0),
        KeyRejected(),
        KeyRevoked(),
        ModelNotPermitted(),
        ServerFailed(),
        NoReply(),
        BadGateway(told=3.0),
        RequestRefused(),
    ]
)
GROUPS = {"a": "", "b": "", "c": "team", "d": "team", "e": "team"}
LONGEST_COOLDOWN_S = 30_000.0


class PoolMachine(RuleBasedStateMachine):
    """Requests, faults, time and an operator, in any order."""

    leases = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        """Five keys, three of them in one quota group."""
        self.world = World()
        self.deadlines: dict[Gate, tuple[int, float]] = {}
        self.held: dict[Gate, Counter[int]] = {}
        self.lent: set[Lease] = set()
        for key, group in GROUPS.items():
            self.world.pool.add(key, f"secret-{key}", group=group)

    # -- what happens --------------------------------------------------------------------------
    @rule(target=leases, model=MODELS)
    def take(self, model: str) -> object:
        """A request wants a key."""
        promised = self.world.pool.could_take(step(model), self.world.clock())
        lease = self.world.take(model)

        assert promised is (lease is not None)
        if lease is None:
            assert not self._someone_is_ready(model)
            return multiple()
        self._check_lease(lease)
        self.lent.add(lease)
        for gate, generation in lease.passed:
            self.held.setdefault(gate, Counter())[generation] += 1
        return lease

    @rule(lease=consumes(leases))
    def succeed(self, lease: Lease) -> None:
        """An attempt ends well."""
        self._forget(lease)
        self.world.succeed(lease)

    @rule(lease=consumes(leases), fault=FAULTS)
    def fail(self, lease: Lease, fault: UpstreamFault) -> None:
        """An attempt fails."""
        self._forget(lease)
        self.world.fail(lease, fault)

    @rule(lease=consumes(leases))
    def abandon(self, lease: Lease) -> None:
        """A client leaves."""
        self._forget(lease)
        self.world.leasing.give_back(lease, None)

    @rule(seconds=st.sampled_from([0.5, 3.0, 8.0, 45.0, 700.0, LONGEST_COOLDOWN_S]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.world.clock.pass_s(seconds)

    @rule(key=st.sampled_from(sorted(GROUPS)))
    def remove(self, key: str) -> None:
        """An operator removes a key."""
        self.world.pool.remove(key)

    @rule(
        key=st.sampled_from(sorted(GROUPS)),
        status=st.sampled_from([Status.HEALTHY, Status.DISABLED, Status.QUARANTINED]),
    )
    def decide(self, key: str, status: Status) -> None:
        """An operator decides, or adds a key that was removed."""
        clocks = Clocks(self.world.clock, lambda: 0)
        state = KeyState(status=status)
        put_key(self.world.pool, KeyRecord(key, "s", state, group=GROUPS[key]), clocks)

    # -- what must hold ------------------------------------------------------------------------
    def _gates(self, key: str, model: str) -> list[Gate]:
        found = self.world.pool.keys[key]
        narrow = (found.models.get(model), found.group.models.get(model))
        return [self.world.pool.gate, found.gate, *(gate for gate in narrow if gate)]

    def _someone_is_ready(self, model: str) -> bool:
        now = self.world.clock()
        return any(
            all(gate.is_open(now) for gate in self._gates(key, model))
            for key in self.world.pool.keys
        )

    def _check_lease(self, lease: Lease) -> None:
        now = self.world.clock()

        assert lease.key is self.world.pool.keys.get(lease.key.id), "a removed key was leased"
        for gate in self._gates(lease.key.id, lease.target.model):
            condition = gate.condition
            assert condition.is_healthy or condition.is_due(now), "a lease on a closed gate"
            others = self.held.get(gate, Counter())[condition.generation]
            cap = condition.ramp if condition.is_healthy and condition.ramp else None
            cap = cap if condition.is_healthy else 1
            assert cap is None or others < cap, "more than the probe or the ramp allows"

    def _forget(self, lease: Lease) -> None:
        self.lent.remove(lease)
        for gate, generation in lease.passed:
            self.held[gate][generation] -= 1

    @invariant()
    def deadlines_only_move_away(self) -> None:
        """As long as a condition cools, its end never comes nearer."""
        for key in self.world.pool.keys:
            for gate in self._gates(key, MODEL) + self._gates(key, OTHER_MODEL):
                self._check_deadline(gate)

    def _check_deadline(self, gate: Gate) -> None:
        condition: Condition = gate.condition
        known = self.deadlines.get(gate)
        if condition.is_healthy or condition.until is None:
            self.deadlines.pop(gate, None)
            return
        assert known is None or condition.until >= known[1], "a cooldown was shortened"
        self.deadlines[gate] = (condition.generation, condition.until)

    @invariant()
    def alarms_do_not_pile_up(self) -> None:
        """There are not many more alarms than gates."""
        assert len(self.world.pool._alarms) <= 2 * 3 * len(GROUPS) + 64

    def teardown(self) -> None:
        """When all leases and cooldowns are over no key is lost: each that is well has its turn."""
        pool, clock = self.world.pool, self.world.clock
        for held in tuple(self.lent):
            self.abandon(held)
        clock.pass_s(LONGEST_COOLDOWN_S)
        for _ in range(30 * len(GROUPS)):
            lease = self.world.take()
            if lease is not None:
                self.world.succeed(lease)
            clock.pass_s(1.0)
        well = {key for key, found in pool.keys.items() if found.is_usable(clock())}
        used: set[str] = set()
        for _ in range(2 * len(GROUPS)):
            lease = self.world.take()
            if lease is not None:
                self.world.succeed(lease)
                used.add(lease.key.id)

        assert used == well


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestPool = PoolMachine.TestCase
