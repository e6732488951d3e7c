"""Lanes: whose turn it is, and what finding that out costs."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.core.faults import KeyRevoked, KeyThrottled, ServerFailed
from keymux.core.health import Condition, Status
from keymux.pools.alarms import Alarms
from keymux.pools.gate import Gate
from keymux.pools.lanes import Lanes
from keymux.pools.members import Group, UpstreamKey
from tests.pools.rig import MODEL, OTHER_MODEL, Clock, World, step


class CountingLanes(Lanes):
    """Lanes that count how many keys were looked at."""

    looked_at = 0

    def is_ready(self, key: UpstreamKey, model: str, now: float) -> bool:
        """See `Lanes.is_ready`."""
        self.looked_at += 1
        return super().is_ready(key, model, now)


def counted(world: World) -> CountingLanes:
    """Let a world choose by lanes that count."""
    lanes = CountingLanes(world.pool.keys, world.pool._alarms, world.pool.ways, world.pool._ask)
    world.pool._lanes = lanes
    return lanes


# -- fairness ------------------------------------------------------------------------------------
def test_keys_take_turns() -> None:
    """Three keys serve six requests in the same order twice."""
    world = World(["a", "b", "c"])

    assert [world.serve() for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_models_take_turns_apart() -> None:
    """A request for one model does not use up a key's turn for another."""
    world = World(["a", "b"])

    assert [world.serve(), world.serve(model=OTHER_MODEL), world.serve()] == ["a", "a", "b"]


@given(st.lists(st.sampled_from(["take", "give back oldest", "give back newest"]), max_size=200))
def test_turns_are_fair_in_any_interleaving(moves: list[str]) -> None:
    """However takes and ends are mixed, no key is ever ahead of another by more than one."""
    world = World(["a", "b", "c", "d"])
    used: Counter[str] = Counter(dict.fromkeys("abcd", 0))
    held = []
    for move in moves:
        if move == "take":
            held.append(world.must_take())
            used[held[-1].key.id] += 1
        elif held:
            world.succeed(held.pop(0 if move == "give back oldest" else -1))

        assert max(used.values()) - min(used.values()) <= 1


def test_looking_ahead_uses_up_no_turn() -> None:
    """Asking whether a key is ready leaves the order as it was."""
    world = World(["a", "b"])
    world.serve()
    asked = [world.pool.could_take(step(), world.clock()) for _ in range(3)]

    assert asked == [True] * 3
    assert world.serve() == "b"


def test_a_new_key_gets_its_turn() -> None:
    """A key that is added later joins the end of the lane."""
    world = World(["a", "b"])
    world.serve()
    world.pool.add("c", "secret-c")

    assert [world.serve() for _ in range(3)] == ["b", "a", "c"]


def test_a_removed_key_loses_its_turn() -> None:
    """A key that is gone is not chosen, and nobody else is skipped for it."""
    world = World(["a", "b", "c"])
    world.serve()
    world.pool.remove("b")

    assert [world.serve() for _ in range(3)] == ["c", "a", "c"]


# -- wishes --------------------------------------------------------------------------------------
def test_avoided_keys_are_passed_over() -> None:
    """A retry that needs another key gets one."""
    world = World(["a", "b", "c"])
    lease = world.must_take(avoid_keys=frozenset({"a", "b"}))

    assert lease.key.id == "c"


def test_when_all_are_avoided_there_is_none() -> None:
    """No key fits, so no key is taken."""
    world = World(["a", "b"])

    assert world.take(avoid_keys=frozenset({"a", "b"})) is None


def test_avoided_groups_are_passed_over() -> None:
    """A retry that needs another quota group gets a key of one."""
    world = World()
    for key, group in (("a", "team"), ("b", "team"), ("c", "other")):
        world.pool.add(key, f"secret-{key}", group=group)

    assert world.must_take(avoid_groups=frozenset({"team"})).key.id == "c"


def test_one_certain_key_can_be_asked_for() -> None:
    """A request that belongs to a key gets that key or none."""
    world = World(["a", "b", "c"])

    assert world.must_take(only_key="c").key.id == "c"
    assert world.take(only_key="gone") is None
    assert not world.pool.could_take(step(only_key="gone"), world.clock())


def test_asking_for_a_certain_key_uses_up_no_turn() -> None:
    """The next request in turn gets the key it would have got anyway."""
    world = World(["a", "b", "c"])
    world.serve()
    world.serve(key="c")

    assert world.serve() == "b"


# -- groups with a gate of their own -------------------------------------------------------------
def grouped(world: World, keys: int, name: str = "team") -> None:
    """Add keys that share one allowance."""
    for number in range(keys):
        world.pool.add(f"{name}{number}", f"secret-{name}{number}", group=name)


def test_one_key_of_a_group_probes_for_all() -> None:
    """When a group's cooldown is over one lease passes, whichever key it is on."""
    world = World()
    grouped(world, 5)
    world.hit(KeyThrottled(told=60.0))
    world.clock.pass_s(60.0)
    probe = world.must_take()

    assert world.take() is None
    world.succeed(probe)
    assert world.take() is not None


def test_a_group_that_is_well_again_uses_all_its_keys() -> None:
    """After the ramp every key takes its turn."""
    world = World()
    grouped(world, 5)
    world.hit(KeyThrottled(told=60.0))
    world.take()
    world.clock.pass_s(60.0)
    for _ in range(10):
        world.serve()

    assert {world.serve() for _ in range(5)} == {f"team{number}" for number in range(5)}


def test_a_probing_key_that_dies_leaves_its_place_to_another() -> None:
    """The key that stood for its group is condemned; another one of the group probes."""
    world = World()
    grouped(world, 3)
    world.hit(KeyThrottled(told=60.0))
    world.take()
    world.clock.pass_s(60.0)
    probe = world.must_take()
    probe.key.gate.change(Condition(status=Status.QUARANTINED, generation=9))
    world.pool.give_back(probe)
    next_probe = world.must_take()

    assert next_probe.key.id != probe.key.id


def test_a_removed_key_leaves_its_place_to_another() -> None:
    """The key that stood for its group is removed; another one of the group probes."""
    world = World()
    grouped(world, 3)
    world.hit(KeyThrottled(told=60.0))
    world.take()
    world.clock.pass_s(60.0)
    probe = world.must_take()
    world.pool.remove(probe.key.id)
    world.pool.give_back(probe)

    assert world.must_take().key.id != probe.key.id


def test_a_key_removed_while_it_waits_never_comes_back() -> None:
    """A key that its group's gate keeps out can be removed meanwhile."""
    world = World()
    grouped(world, 3)
    world.hit(KeyThrottled(told=60.0))
    world.take()
    for number in range(2):
        world.pool.remove(f"team{number}")
    world.clock.pass_s(60.0)

    assert {world.serve() for _ in range(8)} == {"team2"}


def test_a_key_that_joins_a_cooling_group_waits_with_it() -> None:
    """It shares the allowance, so it shares the cooldown, and is not lost when that is over."""
    world = World()
    grouped(world, 1)
    world.hit(KeyThrottled(told=60.0))
    world.pool.add("late", "secret-late", group="team")
    before = world.ready()
    world.take()
    world.pool.remove("team0")
    world.clock.pass_s(60.0)

    assert before == set()
    assert world.serve() == "late"


# -- cost ----------------------------------------------------------------------------------------
TAKES = 2000


def _healthy(world: World) -> None:
    pass


def _all_cooling(world: World) -> None:
    for key in world.pool.keys.values():
        key.gate.change(
            Condition(status=Status.RATE_LIMITED, until=world.clock() + 1e6, generation=1)
        )
        world.pool.wake_later(key.gate, key)


def _one_in_ten_well(world: World) -> None:
    for number, key in enumerate(world.pool.keys.values()):
        if number % 10:
            key.gate.change(Condition(status=Status.QUARANTINED, generation=1))


def _all_quarantined(world: World) -> None:
    for key in world.pool.keys.values():
        key.gate.change(Condition(status=Status.QUARANTINED, generation=1))


def _due_one_by_one(world: World) -> None:
    for number, key in enumerate(world.pool.keys.values()):
        until = world.clock() + number * 0.01
        key.gate.change(Condition(status=Status.ERROR, until=until, generation=1))
        world.pool.wake_later(key.gate, key)


def _all_out(world: World) -> None:
    for key in world.pool.keys.values():
        key.is_out = True


@pytest.mark.parametrize(
    "arrange",
    [
        pytest.param(_healthy, id="all healthy"),
        pytest.param(_all_cooling, id="all cooling for long"),
        pytest.param(_one_in_ten_well, id="nine of ten quarantined"),
        pytest.param(_all_quarantined, id="all quarantined"),
        pytest.param(_due_one_by_one, id="coming back one by one"),
        pytest.param(_all_out, id="all replaced"),
    ],
)
@pytest.mark.parametrize("size", [10, 50_000])
def test_a_choice_costs_the_same_in_a_big_pool(arrange: Callable[[World], None], size: int) -> None:
    """After each key was looked at once, a choice looks at two keys at most, on average."""
    world = World(f"key{number}" for number in range(size))
    arrange(world)
    lanes = counted(world)
    for _ in range(TAKES):
        lease = world.take()
        if lease is not None:
            world.succeed(lease)
        world.clock.pass_s(0.01)

    assert lanes.looked_at <= size + 2 * TAKES


@pytest.mark.parametrize("size", [10, 50_000])
def test_a_probed_group_of_any_size_is_cheap(size: int) -> None:
    """All keys share one allowance that keeps running out: each wave looks at each key once."""
    world = World()
    grouped(world, size)
    lanes = counted(world)
    waves = 3
    for _ in range(waves):
        world.hit(KeyThrottled(told=60.0))
        for _ in range(TAKES):
            world.take()
        world.clock.pass_s(60.0)
        for _ in range(TAKES):
            probe = world.must_take()
            refused = world.take()
            if refused is not None:
                world.succeed(refused)
            world.succeed(probe)

    assert lanes.looked_at <= waves * (2 * size + 8 * TAKES)


@pytest.mark.parametrize("size", [10, 50_000])
def test_asking_for_one_key_looks_at_one(size: int) -> None:
    """A request that belongs to a certain key does not search for it."""
    world = World(f"key{number}" for number in range(size))
    lanes = counted(world)
    for _ in range(100):
        world.serve(key=f"key{size - 1}")

    assert lanes.looked_at == 100


def test_a_dying_pool_looks_at_each_key_once() -> None:
    """Fifty thousand keys are revoked one by one while requests go on."""
    world = World(f"key{number}" for number in range(50_000))
    lanes = counted(world)
    dead = 0
    while (lease := world.take()) is not None:
        world.fail(lease, KeyRevoked())
        dead += 1

    assert dead == 50_000
    assert lanes.looked_at <= 2 * 50_000 + 1


def test_many_models_and_failures_leave_no_pile() -> None:
    """A key that fails again and again for hours has no more alarms than gates."""
    world = World(["a"])
    for _ in range(500):
        world.clock.pass_s(400.0)
        for model in (MODEL, OTHER_MODEL):
            world.hit(ServerFailed(), model=model)
        world.take()

    assert len(world.pool._alarms) <= 2


def test_bringing_back_to_a_lane_that_nobody_asked_for_is_harmless() -> None:
    """A group may open for a model before the first request for it."""
    pool, group = World().pool, Group("team")
    lanes = Lanes({}, Alarms(), pool.ways, pool._ask)
    group.model_gate(MODEL, Gate)
    lanes.bring_group_back(group, MODEL)

    assert lanes.next_key(step(), Clock()()) is None
