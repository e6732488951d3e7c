"""The door to the pools: leases at once, leases after a wait, and refusals."""

import asyncio
import gc
from random import Random

import pytest

from keymux.core.faults import (
    AllThrottled,
    BadGateway,
    KeyRevoked,
    KeySpent,
    KeyThrottled,
    NoneReady,
    PolicyBlocked,
)
from keymux.core.retrying import Step
from keymux.core.vocabulary import Target
from keymux.pools.budget import RetryBudget, Turn
from keymux.pools.leasing import Leasing
from keymux.pools.pool import Lease, Pool
from tests.pools.rig import MODEL, OTHER_MODEL, PROVIDER, Steady, World, run, settle, spawn, step

BACK_UP = "backup"


def _two_providers(world: World) -> Pool:
    """Add a second provider with a key of its own."""
    second = Pool(BACK_UP, RetryBudget(percent=20, floor=30))
    second.add("z", "secret-z")
    world.leasing = Leasing(
        {PROVIDER: world.pool, BACK_UP: second},
        world.effects,
        clock=world.clock,
        luck=Steady(),
        queue_s=2.0,
        queue_length=100,
        waited=world.waits.append,
    )
    return second


def _steps() -> list[Step]:
    return [step(), Step(Target(BACK_UP, MODEL))]


# -- at once -------------------------------------------------------------------------------------
def test_the_first_provider_with_a_ready_key_is_asked() -> None:
    """The order of the route counts; what is down is stepped over without a wait."""
    world = World(["a"])
    _two_providers(world)
    first = world.leasing.lease(_steps(), Turn.FIRST)
    world.hit(BadGateway())
    second = world.leasing.lease(_steps(), Turn.FIRST)

    assert first is not None
    assert second is not None
    assert (first.key.id, second.key.id) == ("a", "z")


def test_steps_that_want_a_pause_are_not_made_at_once() -> None:
    """A retry waits before it asks."""
    world = World(["a"])

    assert world.leasing.lease([step(pause_s=0.1)], Turn.RETRY) is None


def test_an_empty_budget_allows_no_retry_but_any_first_attempt() -> None:
    """Clients are served; our own retries stop."""
    world = World(["a"])
    for _ in range(30):
        world.pool.budget.note(world.clock(), Turn.RETRY)

    assert world.leasing.lease([step()], Turn.RETRY) is None
    assert world.leasing.lease([step()], Turn.FIRST) is not None


def test_every_lease_is_noted_in_the_budget() -> None:
    """A retry uses up one of thirty."""
    world = World(["a"])
    given = [world.leasing.lease([step()], Turn.RETRY) for _ in range(40)]

    assert sum(lease is not None for lease in given) == 30


def test_a_cancelled_attempt_blames_nobody() -> None:
    """C12: a task that is cancelled gives its key back as it was."""
    world = World(["a"])
    world.hit(KeyThrottled(told=5.0))
    world.clock.pass_s(5.0)
    probe = world.must_take()
    world.leasing.give_back(probe, asyncio.CancelledError())

    assert world.changes[1:] == []
    assert world.must_take().is_trial


# -- after a wait --------------------------------------------------------------------------------
def test_a_cooldown_that_ends_soon_is_waited_for() -> None:
    """A second is shorter than the client's own retry."""
    world = World(["a"])
    world.hit(KeyThrottled(told=1.0))
    start = world.clock()
    lease = run(world.wait(), world.clock)

    assert lease.key.id == "a"
    assert world.clock() - start == pytest.approx(1.0, abs=0.01)
    assert world.waits == [pytest.approx(1.0, abs=0.01)]


def test_a_provider_that_is_back_soon_is_waited_for() -> None:
    """A provider's cooldown has no key behind it, and wakes those who wait all the same."""
    world = World(["a"])
    world.hit(BadGateway(told=1.5))
    start = world.clock()
    lease = run(world.wait(), world.clock)

    assert lease.is_trial
    assert world.clock() - start == pytest.approx(1.5, abs=0.01)


def test_the_sooner_of_two_providers_is_waited_for() -> None:
    """Several steps: whichever opens first."""
    world = World(["a"])
    second = _two_providers(world)
    world.hit(KeyThrottled(told=1.8))
    lease = second.take(Step(Target(BACK_UP, MODEL)), world.clock())
    assert lease is not None
    world.fail(lease, KeyThrottled(told=0.9))

    assert run(world.wait(_steps()), world.clock).key.id == "z"


def test_a_cooldown_that_takes_longer_is_not_waited_for() -> None:
    """The client is told at once when to come back."""
    world = World(["a"])
    world.hit(KeyThrottled(told=60.0))
    start = world.clock()
    with pytest.raises(AllThrottled) as refused:
        run(world.wait(), world.clock)

    assert world.clock() == start
    assert refused.value.retry_after == 60.0


def test_nobody_waits_beyond_their_own_deadline() -> None:
    """An exchange that has half a second left does not wait for a whole one."""
    world = World(["a"])
    world.hit(KeyThrottled(told=1.0))
    with pytest.raises(AllThrottled):
        run(world.wait(left_s=0.5), world.clock)

    assert world.waits == []


def test_a_key_that_is_given_back_is_taken_by_who_waits() -> None:
    """The probe is over: the next in line probes."""
    world = World(["a"])
    world.hit(KeyThrottled(told=1.0))
    world.clock.pass_s(1.0)

    async def scenario() -> Lease:
        probe = world.must_take()
        waiting = spawn(world.wait())
        await asyncio.sleep(0.7)
        world.leasing.give_back(probe, None)
        return await waiting

    start = world.clock()

    assert run(scenario(), world.clock).key.id == "a"
    assert world.clock() - start == pytest.approx(0.7, abs=0.01)


def test_a_promoted_key_is_taken_by_who_waits() -> None:
    """The only key died; its successor arrives while the client waits."""
    world = World(["a"])
    world.hit(KeyRevoked())
    world.pool.expecting = 1

    async def scenario() -> Lease:
        waiting = spawn(world.wait())
        await asyncio.sleep(1.2)
        world.pool.add("b", "secret-b")
        return await waiting

    assert run(scenario(), world.clock).key.id == "b"


def test_a_promotion_that_fails_ends_the_wait() -> None:
    """There was no spare after all: the client hears so at once, not after two seconds."""
    world = World(["a"])
    world.hit(KeyRevoked())
    world.pool.expecting = 1

    async def scenario() -> None:
        waiting = spawn(world.wait())
        await asyncio.sleep(0.2)
        world.pool.expecting = 0
        world.pool.announce()
        await waiting

    start = world.clock()
    with pytest.raises(NoneReady) as refused:
        run(scenario(), world.clock)

    assert world.clock() - start == pytest.approx(0.2, abs=0.01)
    assert refused.value.retry_after == 60.0


def test_a_probe_that_fails_ends_the_wait() -> None:
    """The group is away for a minute: the client hears so at once."""
    world = World(["a"])
    world.hit(KeyThrottled(told=1.0))
    world.clock.pass_s(1.0)

    async def scenario() -> None:
        probe = world.must_take()
        waiting = spawn(world.wait())
        await asyncio.sleep(0.3)
        world.fail(probe, KeyThrottled(told=60.0))
        await waiting

    start = world.clock()
    with pytest.raises(AllThrottled) as refused:
        run(scenario(), world.clock)

    assert world.clock() - start == pytest.approx(0.3, abs=0.01)
    assert refused.value.retry_after == 60.0


def test_a_probe_that_takes_too_long_is_not_waited_for() -> None:
    """After two seconds the client is sent away, with a short time to come back."""
    world = World(["a"])
    world.hit(KeyThrottled(told=1.0))
    world.clock.pass_s(1.0)
    world.must_take()
    start = world.clock()
    with pytest.raises(AllThrottled) as refused:
        run(world.wait(), world.clock)

    assert world.clock() - start == pytest.approx(2.0, abs=0.01)
    assert refused.value.retry_after == 1.0


def test_another_key_that_is_due_meanwhile_is_taken() -> None:
    """While a probe is out, the end of another key's cooldown is not slept through."""
    world = World(["a", "b"])
    world.hit(KeyThrottled(told=1.0), key="a")
    world.clock.pass_s(1.0)
    world.hit(KeyThrottled(told=0.5 + 1.0), key="b")
    world.must_take(only_key="a")
    start = world.clock()
    lease = run(world.wait(), world.clock)

    assert lease.key.id == "b"
    assert world.clock() - start == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    ("fault", "kind", "retry_after"),
    [
        pytest.param(KeyThrottled(told=9.0), AllThrottled, 9.0, id="rate limited: 429"),
        pytest.param(KeySpent(told=900.0), NoneReady, 900.0, id="spent: 503"),
        pytest.param(BadGateway(told=9.0), NoneReady, 9.0, id="provider down: 503"),
        pytest.param(KeyRevoked(), NoneReady, 60.0, id="quarantined: 503, no end in sight"),
        pytest.param(PolicyBlocked(), NoneReady, 60.0, id="blocked: 503, no end in sight"),
    ],
)
def test_the_refusal_says_why_and_when(
    fault: KeyThrottled, kind: type[NoneReady], retry_after: float
) -> None:
    """The right fault, and the soonest time at which trying again makes sense."""
    world = World(["a"])
    world.hit(fault)
    with pytest.raises(NoneReady) as refused:
        run(world.wait(), world.clock)

    assert type(refused.value) is kind
    assert refused.value.retry_after == retry_after


def test_clients_are_spread_when_they_come_back() -> None:
    """Retry-After is never shortened, and differs from client to client."""
    world = World(["a"])
    world.hit(KeyThrottled(told=60.0))
    world.leasing._luck = Random(7)  # noqa: S311 -- the same luck every time
    told = set()
    for _ in range(20):
        with pytest.raises(AllThrottled) as refused:
            run(world.wait(), world.clock)
        told.add(refused.value.retry_after)

    assert all(seconds is not None and 60.0 <= seconds <= 66.0 for seconds in told)
    assert len(told) == 20


def test_an_empty_pool_refuses_at_once() -> None:
    """There is nothing to wait for."""
    world = World()
    with pytest.raises(NoneReady):
        run(world.wait(), world.clock)

    assert world.waits == []


# -- the queue -----------------------------------------------------------------------------------
def test_the_queue_is_bounded() -> None:
    """As many wait as may, the next is refused at once, and everybody else still gets a key."""
    world = World(["a"], queue_length=3)
    world.hit(KeyThrottled(told=1.0))

    async def scenario() -> list[Lease | BaseException]:
        waiting = [spawn(world.wait()) for _ in range(5)]
        await asyncio.sleep(0.5)
        refused = [task.done() for task in waiting]
        assert refused == [False, False, False, True, True]
        await asyncio.sleep(0.6)
        for _ in range(10):
            for task in waiting[:3]:
                if task.done():
                    world.succeed(task.result())
            await settle()
            await asyncio.sleep(0.01)
        return await asyncio.gather(*waiting, return_exceptions=True)

    ends = run(scenario(), world.clock)

    assert [type(end) for end in ends] == [Lease] * 3 + [AllThrottled] * 2
    assert world.leasing._waiting == {PROVIDER: 0}


def test_who_leaves_makes_room_in_the_queue() -> None:
    """S21: a client that hangs up leaves the queue, and no key is taken for it."""
    world = World(["a"], queue_length=1)
    world.hit(KeyThrottled(told=1.0))

    async def scenario() -> Lease:
        gone = spawn(world.wait())
        await settle()
        gone.cancel()
        await settle()
        assert gone.cancelled()
        return await world.wait()

    lease = run(scenario(), world.clock)

    assert lease.key.id == "a"
    assert world.pool._listeners == {}


def test_a_hundred_who_wait_make_one_probe() -> None:
    """C04: when the cooldown ends one of those who wait probes, the others go on waiting."""
    world = World(["a"])
    world.hit(KeyThrottled(told=1.0))

    async def scenario() -> list[int]:
        waiting = [spawn(world.wait()) for _ in range(100)]
        counts = []
        for pause in (1.01, 0.1, 0.1, 0.1, 0.1):
            await asyncio.sleep(pause)
            ready = [task for task in waiting if task.done() and not task.exception()]
            counts.append(len(ready))
            for task in ready:
                waiting.remove(task)
                world.leasing.give_back(task.result(), None)
            if ready:
                world.leasing.opened(ready[0].result())
        await asyncio.gather(*waiting, return_exceptions=True)
        return counts

    counts = run(scenario(), world.clock)

    assert counts[:4] == [1, 1, 2, 4]


# -- pauses --------------------------------------------------------------------------------------
def test_a_retry_waits_its_pause_and_then_leases() -> None:
    """The lease is taken after the pause, not held during it."""
    world = World(["a"])

    async def scenario() -> Lease:
        waiting = spawn(world.wait([step(pause_s=0.2)], Turn.RETRY))
        await asyncio.sleep(0.1)
        assert world.pool.keys["a"].gate._in_flight == 0
        return await waiting

    start = world.clock()
    lease = run(scenario(), world.clock)

    assert lease.key.id == "a"
    assert world.clock() - start == pytest.approx(0.2, abs=0.01)


def test_a_key_that_dies_during_the_pause_is_not_leased() -> None:
    """The next step is made instead."""
    world = World(["a"])
    _two_providers(world)

    async def scenario() -> Lease:
        steps = [step(pause_s=0.2), Step(Target(BACK_UP, MODEL), pause_s=0.1)]
        waiting = spawn(world.wait(steps, Turn.RETRY))
        await asyncio.sleep(0.1)
        world.hit(KeyRevoked())
        return await waiting

    assert run(scenario(), world.clock).key.id == "z"


def test_looking_before_a_pause_neither_probes_nor_uses_up_a_turn() -> None:
    """Retries leave the order of keys alone, and the probe to those who make it."""
    world = World(["a", "b"])
    run(world.wait([step(pause_s=0.2, avoid_keys=frozenset({"a"}))], Turn.RETRY), world.clock)

    assert world.serve() == "a"


def test_a_retry_without_budget_is_refused() -> None:
    """An empty budget surfaces the fault; a first attempt would have been made."""
    world = World(["a"])
    for _ in range(30):
        world.pool.budget.note(world.clock(), Turn.RETRY)
    with pytest.raises(NoneReady):
        run(world.wait([step(pause_s=0.1)], Turn.RETRY), world.clock)

    assert run(world.wait([step(pause_s=0.1)]), world.clock).key.id == "a"


def test_leases_leave_nothing_behind() -> None:
    """I7: after a thousand leases of every kind there is no trace of them."""
    world = World(["a", "b"])
    lease = world.must_take()
    world.succeed(lease)
    for number in range(1000):
        lease = world.must_take((MODEL, OTHER_MODEL)[number % 2])
        if number % 10:
            world.succeed(lease)
        else:
            world.fail(lease, KeyThrottled(told=0.5))
            world.clock.pass_s(1.0)
    gc.collect()

    assert world.pool._trials == {}
    assert len(world.pool._alarms) <= 4
    leases = [thing for thing in gc.get_objects() if isinstance(thing, Lease)]
    assert [thing for thing in leases if thing.pool is world.pool] == [lease]
