"""A pool: members, leases, what may be hoped for, and who is told."""

import pytest

from keymux.core.faults import (
    BadGateway,
    KeyRevoked,
    KeySpent,
    KeyThrottled,
    ModelNotPermitted,
    PolicyBlocked,
)
from keymux.core.health import Condition, Status
from keymux.pools.members import Group, UpstreamKey
from tests.pools.rig import MODEL, OTHER_MODEL, World, step


# -- members -------------------------------------------------------------------------------------
def test_a_key_is_added_once() -> None:
    """Adding what is there gives what is there."""
    world = World(["a"])
    again = world.pool.add("a", "another secret")

    assert again is world.pool.keys["a"]
    assert again.secret == "secret-a"


def test_a_key_without_a_group_is_a_group_of_its_own() -> None:
    """What one key is told does not concern another."""
    world = World(["a", "b"])
    world.hit(KeyThrottled(told=60.0))

    assert world.ready() == {"b"}


def test_a_group_goes_with_its_last_key() -> None:
    """Groups do not outlive their keys."""
    world = World()
    for key in "ab":
        world.pool.add(key, "secret", group="team")
    world.pool.remove("a")
    one_left = list(world.pool.groups)
    world.pool.remove("b")

    assert one_left == ["team"]
    assert world.pool.groups == {}


def test_removing_a_stranger_does_nothing() -> None:
    """A key may be removed twice."""
    world = World(["a"])
    world.pool.remove("b")

    assert list(world.pool.keys) == ["a"]


def test_a_key_shows_no_secret() -> None:
    """What is printed by accident is its id."""
    key = UpstreamKey("key_1", "sk-very-secret", Group("g"))

    assert repr(key) == "<UpstreamKey key_1 healthy>"


def test_a_removed_key_ends_its_leases_in_peace() -> None:
    """C07: what is in flight finishes, and nothing new starts."""
    world = World(["a"])
    lease = world.must_take()
    world.pool.remove("a")
    after = world.take()
    world.succeed(lease)

    assert after is None


def test_a_disabled_key_ends_its_leases_in_peace() -> None:
    """C07: an operator's word holds against the success of what was in flight."""
    world = World(["a"])
    lease = world.must_take()
    lease.key.gate.change(Condition(status=Status.DISABLED, generation=1))
    world.succeed(lease)

    assert world.take() is None
    assert lease.key.gate.condition.status is Status.DISABLED


# -- who is ready --------------------------------------------------------------------------------
def test_a_rate_limit_is_for_one_model() -> None:
    """A 429 leaves the other models of the key usable."""
    world = World(["a"])
    world.hit(KeyThrottled(told=60.0))

    assert world.ready() == set()
    assert world.ready(OTHER_MODEL) == {"a"}


def test_a_rate_limit_is_for_the_whole_group() -> None:
    """Keys that share an allowance are throttled together."""
    world = World(["c"])
    for key in "ab":
        world.pool.add(key, "secret", group="team")
    world.hit(KeyThrottled(told=60.0), key="a")

    assert world.ready() == {"c"}


def test_a_spent_group_is_out_for_every_model() -> None:
    """An exhausted allowance concerns all keys of the group and all models."""
    world = World(["c"])
    for key in "ab":
        world.pool.add(key, "secret", group="team")
    world.hit(KeySpent(), key="a")

    assert world.ready() == {"c"}
    assert world.ready(OTHER_MODEL) == {"c"}


def test_a_revoked_key_takes_its_group_along() -> None:
    """U08: other keys of that account are not tried."""
    world = World(["c"])
    for key in "ab":
        world.pool.add(key, "secret", group="team")
    world.hit(KeyRevoked(), key="a")
    world.clock.pass_s(1e7)

    assert world.ready() == {"c"}


def test_a_model_that_is_not_permitted_is_off_for_that_key() -> None:
    """U10: six hours for this key and model, nothing else."""
    world = World(["a", "b"])
    world.hit(ModelNotPermitted(), key="a")
    here, there = world.ready(), world.ready(OTHER_MODEL)
    world.clock.pass_s(21_600.0)

    assert (here, there) == ({"b"}, {"a", "b"})
    assert world.ready() == {"a", "b"}


def test_a_blocked_region_stops_the_provider() -> None:
    """U09: no key is tried, until an operator says so."""
    world = World(["a", "b"])
    world.hit(PolicyBlocked())
    world.clock.pass_s(1e7)

    assert world.ready() == set()
    assert world.take() is None


def test_a_provider_that_is_down_stops_all_keys_at_once() -> None:
    """U15: keys are not cooled one by one."""
    world = World(["a", "b"])
    world.hit(BadGateway())

    assert world.ready() == set()
    assert all(key.gate.condition.is_healthy for key in world.pool.keys.values())


# -- what may be hoped for -----------------------------------------------------------------------
def test_the_soonest_end_of_a_cooldown_is_told() -> None:
    """Of several keys that cool the first one counts."""
    world = World(["a", "b"])
    world.hit(KeyThrottled(told=60.0), key="a")
    world.hit(KeyThrottled(told=20.0), key="b")
    outlook = world.pool.outlook(step(), world.clock())

    assert (outlook.until, outlook.status) == (world.clock() + 20.0, Status.RATE_LIMITED)
    assert not outlook.is_open


def test_without_an_end_nothing_is_promised() -> None:
    """A pool of quarantined keys has no time to tell."""
    world = World(["a"])
    world.hit(KeyRevoked())
    outlook = world.pool.outlook(step(), world.clock())

    assert (outlook.until, outlook.is_open) == (None, False)


def test_a_blocked_egress_promises_nothing() -> None:
    """Only an operator can help."""
    world = World(["a"])
    world.hit(PolicyBlocked())
    outlook = world.pool.outlook(step(), world.clock())

    assert (outlook.until, outlook.status, outlook.is_open) == (None, Status.QUARANTINED, False)


def test_a_provider_that_is_down_hides_a_longer_cooldown_of_one_key() -> None:
    """One key is well, another cools for an hour: the provider's end counts."""
    world = World(["a", "b"])
    world.hit(KeySpent(), key="a")
    world.hit(BadGateway(), key="b")
    outlook = world.pool.outlook(step(), world.clock())

    assert outlook.until == world.pool.gate.condition.until
    assert outlook.status is Status.ERROR


def test_a_provider_that_is_down_longer_than_its_keys_counts() -> None:
    """All keys cool for less than the provider does."""
    world = World(["a"])
    lease = world.must_take()
    world.hit(KeyThrottled(told=5.0))
    world.fail(lease, BadGateway(told=50.0))
    outlook = world.pool.outlook(step(), world.clock())

    assert outlook.until == world.clock() + 50.0


def test_a_key_that_cools_longer_than_the_provider_counts() -> None:
    """All keys cool for longer than the provider does."""
    world = World(["a"])
    lease = world.must_take()
    world.hit(KeyThrottled(told=50.0))
    world.fail(lease, BadGateway(told=5.0))
    outlook = world.pool.outlook(step(), world.clock())

    assert outlook.until == world.clock() + 50.0


def test_a_provider_with_no_end_promises_nothing() -> None:
    """A provider that an operator has to look at is not waited for."""
    world = World(["a"])
    world.pool.gate.change(Condition(status=Status.DISABLED, generation=1))
    outlook = world.pool.outlook(step(), world.clock())

    assert (outlook.until, outlook.status) == (None, Status.DISABLED)


def test_a_probe_under_way_may_help_at_any_time() -> None:
    """While a probe is out nobody knows how things are."""
    world = World(["a"])
    world.hit(KeyThrottled(told=60.0))
    world.clock.pass_s(60.0)
    world.must_take()
    outlook = world.pool.outlook(step(), world.clock())

    assert outlook.is_open
    assert outlook.status is Status.RATE_LIMITED


def test_a_probe_of_another_model_does_not_help() -> None:
    """A request for this model learns nothing from it."""
    world = World(["a"])
    for model in (MODEL, OTHER_MODEL):
        world.hit(KeyThrottled(told=60.0), model=model)
    world.clock.pass_s(60.0)
    world.must_take(OTHER_MODEL)
    world.hit(KeyThrottled(told=600.0))

    assert not world.pool.outlook(step(), world.clock()).is_open


def test_a_probe_that_was_answered_is_waited_for_no_more() -> None:
    """Its stream may run for minutes, but the gate has been opened by its first event."""
    world = World(["a"])
    world.hit(KeyThrottled(told=60.0))
    world.clock.pass_s(60.0)
    probe = world.must_take()
    world.leasing.opened(probe)
    world.hit(KeyRevoked())

    assert not world.pool.outlook(step(), world.clock()).is_open


def test_a_promotion_under_way_may_help_at_any_time() -> None:
    """A fresh key is about to come."""
    world = World(["a"])
    world.hit(KeyRevoked())
    world.pool.expecting = 1

    assert world.pool.outlook(step(), world.clock()).is_open


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param((), None, id="it is well"),
        pytest.param((30.0,), 30.0, id="one gate cools"),
        pytest.param((30.0, 50.0), 50.0, id="the longer of two counts"),
        pytest.param((30.0, None), None, id="an operator has to act"),
    ],
)
def test_the_outlook_for_a_certain_key_is_its_own(
    seconds: tuple[float | None, ...], expected: float | None
) -> None:
    """A request that belongs to one key is not told of another."""
    world = World(["a", "b"])
    world.hit(KeyThrottled(told=1.0), key="b")
    key = world.pool.keys["a"]
    world.hit(ModelNotPermitted(), key="a")
    for gate, wait in zip((key.models[MODEL], key.gate), (*seconds, 0, 0), strict=False):
        status = Status.QUARANTINED if wait is None else Status.ERROR
        until = None if wait is None else world.clock() + wait
        gate.change(
            Condition(status=status, until=until, generation=5) if wait != 0 else Condition()
        )
    outlook = world.pool.outlook(step(only_key="a"), world.clock())

    assert outlook.until == (None if expected is None else world.clock() + expected)


def test_the_outlook_for_a_key_that_is_gone_is_bleak() -> None:
    """Nothing is promised for a key that was removed."""
    world = World(["a"])

    assert world.pool.outlook(step(only_key="gone"), world.clock()).until is None


# -- who is told ---------------------------------------------------------------------------------
def test_those_who_wait_are_told_until_they_stop() -> None:
    """Each listener hears of every chance, and of none after it has left."""
    world = World(["a"])
    heard: list[str] = []
    stop_first = world.pool.listen(lambda: heard.append("first"))
    stop_second = world.pool.listen(lambda: heard.append("second"))
    world.pool.announce()
    stop_first()
    world.pool.announce()
    stop_second()
    stop_second()
    world.pool.announce()

    assert heard == ["first", "second", "second"]


@pytest.mark.parametrize("gate", ["provider", "key", "group"])
def test_giving_back_a_probe_wakes_those_who_wait(gate: str) -> None:
    """Whatever the probe was for, its end is a chance for the next."""
    world = World(["a"])
    faults = {
        "provider": BadGateway(told=9.0),
        "group": KeyThrottled(told=9.0),
        "key": KeySpent(told=9.0),
    }
    world.hit(faults[gate])
    world.clock.pass_s(9.0)
    probe = world.must_take()
    heard: list[int] = []
    world.pool.listen(lambda: heard.append(1))
    world.pool.give_back(probe)

    assert heard


def test_a_new_key_wakes_those_who_wait() -> None:
    """An operator adds a key: whoever waits looks again."""
    world = World()
    heard: list[int] = []
    world.pool.listen(lambda: heard.append(1))
    world.pool.add("a", "secret")

    assert heard


def test_the_rotation_is_counted_anew_when_it_changes() -> None:
    """Keys in rotation: those that requests go to, now or after a cooldown."""
    world = World(["a", "b", "c", "d"])
    counts = [world.pool.in_rotation()]
    world.hit(KeyRevoked(), key="a")
    counts.append(world.pool.in_rotation())
    world.hit(KeyThrottled(told=60.0), key="b")
    counts.append(world.pool.in_rotation())
    world.pool.remove("c")
    counts.append(world.pool.in_rotation())
    world.pool.add("e", "secret")
    counts.append(world.pool.in_rotation())

    assert counts == [4, 3, 3, 2, 3]
