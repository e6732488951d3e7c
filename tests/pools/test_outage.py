"""The outage watch: many keys that fail at once blame the provider."""

import pytest

from keymux.core.faults import FirstEventLate, KeyThrottled, ServerFailed
from keymux.core.health import Status
from tests.pools.rig import MODEL, OTHER_MODEL, World, step


def _world(keys: int) -> World:
    return World(f"key{number}" for number in range(keys))


def _fail_each(world: World, keys: int, times: int = 1, pause_s: float = 0.0) -> None:
    for number in range(keys):
        for _ in range(times):
            world.hit(ServerFailed(reason="500"), key=f"key{number}")
            world.clock.pass_s(pause_s)


def test_more_than_half_of_the_keys_is_an_outage() -> None:
    """Four of seven keys failing within half a minute close the provider."""
    world = _world(7)
    _fail_each(world, 3)
    before = world.pool.gate.condition.status
    _fail_each(world, 4)

    assert before is Status.HEALTHY
    assert world.pool.gate.condition.status is Status.ERROR
    assert world.take() is None


def test_half_of_the_keys_is_none() -> None:
    """Exactly half may be bad luck."""
    world = _world(8)
    _fail_each(world, 4)

    assert world.pool.gate.condition.is_healthy


def test_two_keys_are_too_few_to_tell() -> None:
    """A pool of two cannot blame the provider."""
    world = _world(2)
    _fail_each(world, 2, times=2)

    assert world.pool.gate.condition.is_healthy


def test_failures_far_apart_are_none() -> None:
    """Spread over minutes they belong to the keys."""
    world = _world(3)
    _fail_each(world, 3, pause_s=16.0)

    assert world.pool.gate.condition.is_healthy


def test_what_was_held_against_keys_is_taken_back() -> None:
    """Keys that cooled in that half minute are as they were, and that is told."""
    world = _world(4)
    _fail_each(world, 2, times=3)
    cooled = [change.condition.status for change in world.changes]
    world.hit(ServerFailed(), key="key2")
    told = [(change.keys[0].id, change.before) for change in world.changes if change.keys][2:]

    assert cooled == [Status.ERROR, Status.ERROR]
    assert world.ready() == set()
    world.clock.pass_s(10.0)
    assert all(
        key.models[MODEL].condition.is_healthy for key in world.pool.keys.values() if key.models
    )
    assert sorted(told) == [("key0", Status.ERROR), ("key1", Status.ERROR)]


def test_keys_without_guilt_are_ready_when_the_provider_is() -> None:
    """After the provider's cooldown all keys serve again."""
    world = _world(3)
    _fail_each(world, 2, times=3)
    world.hit(ServerFailed(), key="key2")
    world.clock.pass_s(10.0)
    for _ in range(6):
        world.serve()

    assert {world.serve() for _ in range(3)} == {"key0", "key1", "key2"}


def test_two_models_on_one_key_are_one_key() -> None:
    """Failures are counted by key, and both models are taken back."""
    world = _world(3)
    for model in (MODEL, OTHER_MODEL):
        for _ in range(3):
            world.hit(FirstEventLate(seconds=5), key="key0", model=model)
    one = world.pool.gate.condition.is_healthy
    world.hit(ServerFailed(), key="key1")
    world.hit(ServerFailed(), key="key2")
    models = world.pool.keys["key0"].models

    assert one
    assert not world.pool.gate.condition.is_healthy
    assert [gate.condition.status for gate in models.values()] == [Status.HEALTHY] * 2


def test_a_cooldown_from_before_is_kept() -> None:
    """Only what happened in that half minute is taken back."""
    world = _world(4)
    for _ in range(3):
        world.hit(ServerFailed(), key="key0")
    until = world.pool.keys["key0"].models[MODEL].condition.until
    world.clock.pass_s(29.0)
    lates = [world.must_take(only_key=f"key{number}") for number in (1, 2, 3)]
    world.clock.pass_s(2.0)
    for late in lates:
        world.fail(late, ServerFailed())

    assert not world.pool.gate.condition.is_healthy
    assert world.pool.keys["key0"].models[MODEL].condition.until == until


def test_a_success_in_between_counts() -> None:
    """A key that answered meanwhile is not put back to how it was before that."""
    world = _world(3)
    world.hit(ServerFailed(), key="key0")
    world.serve(key="key0")
    world.hit(ServerFailed(), key="key0")
    world.hit(ServerFailed(), key="key1")
    world.hit(ServerFailed(), key="key2")

    assert world.pool.keys["key0"].models[MODEL].condition.failures == 0


@pytest.mark.parametrize("status", [Status.QUARANTINED, Status.DISABLED, Status.EXHAUSTED])
def test_keys_that_get_no_requests_do_not_hide_an_outage(status: Status) -> None:
    """Ten dead keys in the pool: the share is that of the keys in rotation."""
    world = _world(13)
    for number in range(3, 13):
        condition = world.pool.keys[f"key{number}"].gate.condition
        world.pool.keys[f"key{number}"].gate.change(
            type(condition)(status=status, generation=condition.generation + 1)
        )
    world.pool.recount()
    _fail_each(world, 3)

    assert not world.pool.gate.condition.is_healthy


def test_a_rate_limit_is_never_overridden() -> None:
    """An outage takes back failures; what the upstream told a quota group stays."""
    world = _world(4)
    group_until = _throttle(world)
    for number in (1, 2, 3):
        world.hit(ServerFailed(), key=f"key{number}")
    gate = world.pool.keys["key0"].group.models[MODEL]

    assert not world.pool.gate.condition.is_healthy
    assert gate.condition.until == group_until
    assert world.pool.outlook(step(), world.clock()).status is Status.ERROR


def _throttle(world: World) -> float | None:
    from_key = world.must_take(only_key="key0")
    world.fail(from_key, KeyThrottled(told=300.0))
    return world.pool.keys["key0"].group.models[MODEL].condition.until
