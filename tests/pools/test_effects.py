"""What a fault or a success does to the health of what a lease passed through."""

from collections.abc import Callable

import pytest

from keymux.core.faults import (
    BadGateway,
    ContentRefused,
    EgressFailed,
    EmptyReply,
    FirstEventLate,
    KeyRejected,
    KeyRevoked,
    KeySpent,
    KeyThrottled,
    ModelNotPermitted,
    NoReply,
    Overloaded,
    PolicyBlocked,
    RequestRefused,
    ServerFailed,
    SlowDown,
    StaleConnection,
    Unreachable,
    UpstreamFault,
)
from keymux.core.health import Status
from keymux.core.retrying import DECISIONS, Effect
from keymux.pools.effects import PROVIDER_ERRORS
from tests.pools.rig import MODEL, OTHER_MODEL, World, step

HOUR = 3600.0


def _state(world: World, key: str = "a") -> tuple[Status, Status, Status, Status]:
    """Provider, key, key and model, group and model."""
    found = world.pool.keys[key]
    gates = (
        world.pool.gate,
        found.gate,
        found.models.get(MODEL),
        found.group.models.get(MODEL),
    )
    provider, own, model, group = (
        gate.condition.status if gate else Status.HEALTHY for gate in gates
    )
    return provider, own, model, group


H, R, E, X, Q = (
    Status.HEALTHY,
    Status.RATE_LIMITED,
    Status.ERROR,
    Status.EXHAUSTED,
    Status.QUARANTINED,
)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(Unreachable, (E, H, H, H), id="no connection: provider"),
        pytest.param(BadGateway, (E, H, H, H), id="502: provider"),
        pytest.param(Overloaded, (E, H, H, H), id="529: provider, U17"),
        pytest.param(KeyThrottled, (H, H, H, R), id="429: group and model"),
        pytest.param(SlowDown, (H, H, H, R), id="429 slow down: group and model"),
        pytest.param(KeySpent, (H, X, H, H), id="spent: key, U05"),
        pytest.param(KeyRejected, (H, H, H, H), id="401: remembered only, U06"),
        pytest.param(KeyRevoked, (H, Q, H, H), id="revoked: quarantine, U08"),
        pytest.param(ModelNotPermitted, (H, H, E, H), id="403 model: key and model"),
        pytest.param(RequestRefused, (H, H, H, H), id="400: nobody"),
        pytest.param(ContentRefused, (H, H, H, H), id="refusal: nobody"),
        pytest.param(StaleConnection, (H, H, H, H), id="stale connection: nobody"),
        pytest.param(EgressFailed, (H, H, H, H), id="egress: not the key"),
        pytest.param(ServerFailed, (H, H, H, H), id="one 500: counted only"),
        pytest.param(NoReply, (H, H, H, H), id="one reset: counted only"),
    ],
)
def test_a_fault_hits_what_it_blames(
    fault: Callable[[], UpstreamFault], expected: tuple[Status, ...]
) -> None:
    """One fault changes one scope, or none."""
    world = World(["a", "b", "c"])
    world.hit(fault())

    assert _state(world) == expected
    assert _state(world, "b")[1:] == (H, H, H)


def test_every_effect_of_the_table_is_carried_out() -> None:
    """The decision table names no effect that is unknown here."""
    world = World(["a"])

    assert set(world.effects._by_effect) == set(Effect)
    assert {row.effect for row in DECISIONS.values()} <= set(world.effects._by_effect)


# -- how long ------------------------------------------------------------------------------------
def _until(world: World, fault: UpstreamFault) -> float:
    key = world.hit(fault)
    found = world.pool.keys[key]
    closed = [
        gate.condition.until or 0.0
        for gate in (
            world.pool.gate,
            found.gate,
            *found.models.values(),
            *found.group.models.values(),
        )
        if not gate.condition.is_healthy
    ]
    return max(closed) - world.clock()


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(KeyThrottled(told=7.0), 7.0, id="as the upstream said, U01"),
        pytest.param(KeyThrottled(), 15.0, id="429 without a word: half a step and luck, U04"),
        pytest.param(Overloaded(told=33.0), 33.0, id="the provider said so, U15"),
        pytest.param(BadGateway(), 5.0, id="the provider said nothing"),
        pytest.param(KeySpent(), HOUR, id="a spent key: a probe an hour, U05"),
        pytest.param(KeySpent(told=120.0), 120.0, id="a spent key that told its reset"),
        pytest.param(ModelNotPermitted(), 6 * HOUR, id="a model that is not permitted, U10"),
        pytest.param(KeyThrottled(told=1e9), 24 * HOUR, id="ten years are a day, U03"),
    ],
)
def test_how_long_things_are_left_alone(fault: UpstreamFault, seconds: float) -> None:
    """The upstream's word counts, else the regimen; luck only adds."""
    assert _until(World(["a", "b", "c"]), fault) == seconds


def test_a_wave_is_one_step() -> None:
    """C05: fifty requests in flight that all get a 429 are one transition, at the latest time."""
    world = World(["a"])
    leases = [world.must_take() for _ in range(50)]
    for number, lease in enumerate(leases):
        world.fail(lease, KeyThrottled(told=10.0 + number))
    condition = leases[0].key.group.models[MODEL].condition

    assert condition.step == 1
    assert condition.until == world.clock() + 59.0


def test_the_next_wave_is_longer() -> None:
    """A probe that fails doubles the wait."""
    world = World(["a"])
    waits = []
    for _ in range(3):
        waits.append(_until(world, KeyThrottled()))
        world.clock.pass_s(waits[-1])

    assert waits == [15.0, 30.0, 60.0]


def test_a_late_success_heals_nothing() -> None:
    """C06: a request from before the fault that ends well says nothing about now."""
    world = World(["a"])
    late = world.must_take()
    world.hit(KeyThrottled(told=60.0))
    world.clock.pass_s(61.0)
    world.succeed(late)

    assert _state(world) == (H, H, H, R)


def test_a_revoked_key_is_never_resurrected() -> None:
    """C06: not by a late success, and not by time."""
    world = World(["a"])
    late = world.must_take()
    world.hit(KeyRevoked())
    world.clock.pass_s(1e7)
    world.succeed(late)

    assert _state(world)[1] is Q


# -- counting ------------------------------------------------------------------------------------
def test_three_failures_in_a_row_cool_a_key_for_that_model() -> None:
    """Two are counted, the third is acted upon."""
    world = World([f"key{number}" for number in range(9)])
    states = []
    for _ in range(3):
        world.hit(ServerFailed(), key="key0")
        states.append(_state(world, "key0")[2])

    assert states == [H, H, E]
    assert world.ready(OTHER_MODEL) == set(world.pool.keys)


def test_a_success_ends_the_counting() -> None:
    """Failures are counted in a row only."""
    world = World([f"key{number}" for number in range(9)])
    for _ in range(5):
        world.hit(ServerFailed(), key="key0")
        world.hit(ServerFailed(), key="key0")
        world.serve(key="key0")

    assert _state(world, "key0") == (H, H, H, H)


def test_a_failing_probe_cools_again_at_once() -> None:
    """After a cooldown one more failure is enough."""
    world = World([f"key{number}" for number in range(9)])
    for _ in range(3):
        world.hit(FirstEventLate(seconds=9), key="key0")
    world.clock.pass_s(15.0)
    world.hit(FirstEventLate(seconds=9), key="key0")

    assert world.pool.keys["key0"].models[MODEL].condition.until == world.clock() + 30.0


def test_five_errors_in_a_row_blame_the_provider() -> None:
    """Errors that belong to nobody in particular are counted against the provider."""
    world = World(["a", "b", "c"])
    states = []
    for _ in range(PROVIDER_ERRORS):
        world.hit(NoReply())
        states.append(world.pool.gate.condition.status)

    assert states == [H, H, H, H, E]


def test_errors_with_answers_in_between_blame_nobody() -> None:
    """Four errors, an answer, four errors."""
    world = World(["a", "b", "c"])
    for _ in range(2):
        for _ in range(PROVIDER_ERRORS - 1):
            world.hit(EmptyReply())
        world.serve()

    assert world.pool.gate.condition.is_healthy


def test_a_provider_whose_probe_fails_is_away_for_longer() -> None:
    """The second wave takes the second step."""
    world = World(["a", "b", "c"])
    for _ in range(PROVIDER_ERRORS):
        world.hit(NoReply())
    first = (world.pool.gate.condition.until or 0.0) - world.clock()
    world.clock.pass_s(first)
    world.hit(NoReply())

    assert first == 15.0
    assert world.pool.gate.condition.until == world.clock() + 30.0


# -- suspicion -----------------------------------------------------------------------------------
def test_the_second_refusal_in_ten_minutes_is_believed() -> None:
    """U06: quarantine, for good."""
    world = World(["a"])
    world.hit(KeyRejected())
    world.clock.pass_s(599.0)
    world.hit(KeyRejected())

    assert _state(world)[1] is Q


def test_two_refusals_far_apart_are_not() -> None:
    """U06: after ten minutes the first is forgotten."""
    world = World(["a"])
    world.hit(KeyRejected())
    world.clock.pass_s(601.0)
    world.hit(KeyRejected())

    assert _state(world)[1] is H


def test_two_refusals_of_one_wave_are_one() -> None:
    """Requests that were in flight together do not prove each other right."""
    world = World(["a"])
    leases = [world.must_take() for _ in range(10)]
    for lease in leases:
        world.fail(lease, KeyRejected())

    assert _state(world)[1] is H


def test_suspicion_and_its_end_are_both_told() -> None:
    """What the store remembers of a suspicion has to be taken back when the key serves."""
    world = World(["a"])
    world.hit(KeyRejected())
    world.serve()
    world.serve()

    assert [bool(change.condition.suspected) for change in world.changes] == [True, False]


# -- probes --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda: KeyThrottled(told=60.0), id="a quota group that was over its rate"),
        pytest.param(lambda: KeySpent(told=60.0), id="a key that was spent"),
        pytest.param(ModelNotPermitted, id="a key and a model"),
        pytest.param(lambda: BadGateway(told=60.0), id="a provider that was down"),
    ],
)
def test_a_hundred_requests_at_the_same_moment_are_one_probe(
    fault: Callable[[], UpstreamFault],
) -> None:
    """C04: when a cooldown ends exactly one passes; then one, two, four, eight, and all."""
    world = World(["a"])
    world.hit(fault())
    world.clock.pass_s(6 * HOUR)
    passed = []
    for _ in range(6):
        leases = [lease for lease in (world.take() for _ in range(100)) if lease]
        passed.append(len(leases))
        for lease in leases:
            world.leasing.give_back(lease, None)
        if leases:
            world.leasing.opened(leases[0])

    assert passed == [1, 1, 2, 4, 8, 100]


def test_a_stream_from_before_does_not_block_the_probe() -> None:
    """It may run for as long as it likes."""
    world = World(["a"])
    old = world.must_take()
    world.leasing.opened(old)
    world.hit(KeyThrottled(told=60.0))
    world.clock.pass_s(60.0)
    probe = world.must_take()
    world.leasing.give_back(old, None)

    assert probe.is_trial
    assert world.take() is None


def test_a_probe_that_learns_nothing_makes_room_for_the_next() -> None:
    """A client that leaves, or asks for nonsense, is no verdict."""
    world = World(["a"])
    world.hit(KeyThrottled(told=60.0))
    world.clock.pass_s(60.0)
    world.leasing.give_back(world.must_take(), None)
    world.fail(world.must_take(), RequestRefused())

    assert world.must_take().is_trial


# -- what is told --------------------------------------------------------------------------------
def test_a_transition_is_told_once_with_everything() -> None:
    """Pool, key, model, before, after, reason."""
    world = World(["a"])
    world.hit(KeyThrottled(told=60.0, reason="429 rate_limit"))
    (change,) = world.changes

    assert (change.pool, [key.id for key in change.keys]) == (world.pool, ["a"])
    assert (change.model, change.whole_group) == (MODEL, True)
    assert (change.before, change.condition.status) == (H, R)
    assert change.reason == "429 rate_limit"


def test_a_provider_is_told_without_keys() -> None:
    """A change of the provider itself names no key."""
    world = World(["a"])
    world.hit(BadGateway())
    world.clock.pass_s(5.0)
    world.serve()

    assert [(change.keys, change.condition.status) for change in world.changes] == [
        ((), E),
        ((), H),
    ]


def test_a_longer_deadline_is_told_and_the_same_is_not() -> None:
    """Late faults of a wave are worth telling only if they change the time."""
    world = World(["a"])
    leases = [world.must_take() for _ in range(3)]
    for lease, told in zip(leases, (10.0, 5.0, 20.0), strict=True):
        world.fail(lease, KeyThrottled(told=told))

    assert [change.condition.until for change in world.changes] == [
        world.clock() + 10.0,
        world.clock() + 20.0,
    ]


def test_a_spent_group_is_told_key_by_key() -> None:
    """Every key has a state of its own in the store."""
    world = World()
    for key in "ab":
        world.pool.add(key, "secret", group="team")
    world.hit(KeySpent(), key="a")

    assert [change.keys[0].id for change in world.changes] == ["a", "b"]


def test_a_group_that_is_well_again_is_told_for_all_who_carry_its_cooldown() -> None:
    """Two keys were refused, a third one finds out: the stored state of the two is taken back."""
    world = World()
    for key in "abc":
        world.pool.add(key, "secret", group="team")
    leases = [world.must_take(only_key=key) for key in "ab"]
    for lease, told in zip(leases, (10.0, 20.0), strict=True):
        world.fail(lease, KeyThrottled(told=told))
    world.clock.pass_s(20.0)
    world.serve(key="c")
    last = world.changes[-1]

    assert last.condition.is_healthy
    assert [key.id for key in last.keys] == ["a", "b"]


def test_a_carrier_that_was_removed_is_told_no_more() -> None:
    """A key that is gone has no stored state."""
    world = World()
    for key in "ab":
        world.pool.add(key, "secret", group="team")
    world.hit(KeyThrottled(told=10.0), key="a")
    world.pool.remove("a")
    world.clock.pass_s(10.0)
    world.serve()

    assert [key.id for key in world.changes[-1].keys] == ["b"]


def test_a_blocked_region_is_told_as_the_providers_state() -> None:
    """U09: nothing but an operator ends it, and no key is blamed."""
    world = World(["a"])
    world.hit(PolicyBlocked(reason="region"))
    (change,) = world.changes

    assert (change.keys, change.condition.status) == ((), Q)
    assert world.pool.gate.condition.is_healthy


def test_a_removed_key_may_still_fail() -> None:
    """C07: the verdict on a key that is gone harms nobody."""
    world = World(["a", "b"])
    lease = world.must_take(only_key="a")
    world.pool.remove("a")
    world.fail(lease, KeyThrottled(told=60.0))

    assert world.ready() == {"b"}


def test_new_figures_count_from_the_next_fault_on() -> None:
    """The regimen can be exchanged while everything runs."""
    world = World(["a"])
    world.effects.regimen = type(world.regimen)(exhausted_s=77.0)

    assert _until(world, KeySpent()) == 77.0
    assert world.pool.outlook(step(), world.clock()).status is X
