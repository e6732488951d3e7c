"""What closes an exit and what opens it again."""

import pytest

from keymux.core.faults import (
    EgressFailed,
    EgressRefused,
    FirstEventLate,
    NoReply,
    PolicyBlocked,
    RequestCut,
    ServerFailed,
    StreamStalled,
    Truncated,
    UpstreamFault,
)
from keymux.core.health import Status
from keymux.pools.effects import PROVIDER_ERRORS
from keymux.pools.egress import Exit
from keymux.pools.exit_health import Check
from tests.pools.rig import PROVIDER, World
from tests.pools.test_egress import bound, reopen


def way_of(world: World, name: str = "p") -> Exit:
    """The exit through a proxy."""
    return world.pool.ways.by_proxy[name]


def check(world: World, problem: str = "", *, is_refusal: bool = False) -> bool:
    """A check of the exit ``p``; gives whether something that was lost is the provider's."""
    way = way_of(world)
    found = Check(way.gate.condition.generation, problem, is_refusal, None if problem else 0.02)
    return world.exits.checked(world.pool, way, found) is not None


def told(world: World) -> list[tuple[str, str]]:
    """The statuses that were told, before and now."""
    return [(one.before, one.reason) for one in world.exit_changes]


def test_it_stays_closed_for_longer_each_time_it_fails() -> None:
    """By the backoff, until a check succeeds; time alone opens nothing."""
    world = bound(a=[("p", 1)])
    world.hit(EgressFailed())
    ends = [(way_of(world).gate.condition.until or 0) - world.clock()]
    for _ in range(3):
        world.clock.now = way_of(world).gate.condition.until or 0
        check(world, "refused")
        ends.append((way_of(world).gate.condition.until or 0) - world.clock())
    world.clock.pass_s(3600)

    assert ends == [2.5, 5.0, 10.0, 10.0]
    assert world.take() is None


def test_a_check_that_succeeds_opens_it() -> None:
    """For any number of requests at once: the probe was the check."""
    world = bound(a=[("p", 1)])
    world.hit(EgressFailed(reason="refused"))
    check(world)
    leases = [world.take() for _ in range(10)]

    assert all(leases)
    assert told(world) == [("healthy", "refused"), ("error", "checked")]
    assert way_of(world).latency_s == 0.02


def test_a_burst_of_failures_is_one() -> None:
    """Requests that were under way together are one wave."""
    world = bound(a=[("p", 1)])
    leases = [world.must_take() for _ in range(20)]
    for lease in leases:
        world.fail(lease, EgressFailed())

    assert way_of(world).gate.condition.step == 1
    assert len(world.exit_changes) == 1
    assert len(world.failures) == 20


def test_a_late_failure_does_not_close_what_was_checked_since() -> None:
    """It began before things got well."""
    world = bound(a=[("p", 1)])
    late, refused = world.must_take(), world.must_take()
    world.hit(EgressFailed())
    reopen(world, "p")
    world.fail(late, EgressFailed())
    world.fail(refused, EgressRefused())

    assert way_of(world).is_open


def test_a_check_that_began_before_a_failure_is_worth_nothing() -> None:
    """Whatever it has found."""
    world = bound(a=[("p", 1)])
    generation = way_of(world).gate.condition.generation
    world.hit(EgressFailed())
    world.exits.checked(world.pool, way_of(world), Check(generation, latency_s=0.1))

    assert not way_of(world).is_open


@pytest.mark.parametrize("checked", [True, False], ids=["by a check", "by an attempt"])
def test_refused_credentials_wait_for_an_operator(checked: bool) -> None:  # noqa: FBT001 -- a case
    """No time is told, and no later failure makes it a matter of waiting."""
    world = bound(a=[("p", 1)])
    lease = world.must_take()
    if checked:
        check(world, "refused the credentials", is_refusal=True)
    else:
        world.hit(EgressRefused())
    world.fail(lease, EgressFailed())
    check(world, "refused the credentials", is_refusal=True)

    assert way_of(world).is_misconfigured
    assert len(world.exit_changes) == 1


def test_a_blocked_exit_is_not_opened_by_a_check() -> None:
    """That the proxy works was never in doubt: a check is not even told of it."""
    world = bound(a=[("p", 1)])
    world.hit(PolicyBlocked(reason="403 region"))
    before = way_of(world).gate.condition

    assert (way_of(world).is_blocked, before.status) == (True, Status.QUARANTINED)
    assert told(world) == [("healthy", "403 region")]


# -- what is lost on the way -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault",
    [
        NoReply(),
        FirstEventLate(seconds=1),
        Truncated(),
        StreamStalled(seconds=1),
        RequestCut(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_what_a_proxy_may_have_lost_is_looked_into(fault: UpstreamFault) -> None:
    """Neither the key nor the provider is charged; the proxy is checked."""
    world = bound(a=[("p", 1)])
    for _ in range(2 * PROVIDER_ERRORS):
        world.hit(fault)

    assert world.looks == [way_of(world)] * (2 * PROVIDER_ERRORS)
    assert world.changes == []
    assert world.pool.gate.condition.failures == 0
    assert not world.pool.keys["a"].models


def test_a_proxy_that_lost_something_and_is_down_is_closed() -> None:
    """The provider has nothing to do with it."""
    world = bound(a=[("p", 1)])
    world.hit(NoReply())

    assert not check(world, "connection refused")
    assert not way_of(world).is_open


def test_what_a_good_proxy_has_lost_was_the_providers() -> None:
    """It is charged once for each check, however many requests were lost."""
    world = bound(a=[("p", 1)])
    for _ in range(3):
        world.hit(NoReply())

    assert (check(world), check(world)) == (True, False)


def test_the_provider_goes_away_when_it_keeps_losing_requests() -> None:
    """As it does for keys that go directly."""
    world = bound(a=[("p", 1)])
    for _ in range(PROVIDER_ERRORS):
        generation = world.pool.gate.condition.generation
        world.effects.charge_provider(world.pool, NoReply(), generation, world.clock())

    assert not world.pool.gate.is_open(world.clock())
    assert [(one.pool.name, one.keys) for one in world.changes] == [(PROVIDER, ())]


def test_what_a_provider_says_itself_is_its_own_through_a_proxy_too() -> None:
    """An answer has come through."""
    world = bound(a=[("p", 1)])
    world.hit(ServerFailed())

    assert world.looks == []
    assert world.pool.keys["a"].models
