"""The retry budget of a provider."""

from hypothesis import given
from hypothesis import strategies as st

from keymux.core.faults import BadGateway
from keymux.pools.budget import RetryBudget, Turn
from tests.pools.rig import World, step


def test_a_few_retries_are_always_allowed() -> None:
    """With hardly any traffic the floor counts, not the share."""
    budget = RetryBudget(percent=20, floor=3)
    allowed = 0
    while budget.allows(100.0):
        budget.note(100.0, Turn.RETRY)
        allowed += 1

    assert allowed == 3


def test_retries_are_a_share_of_the_requests() -> None:
    """A hundred requests allow twenty retries."""
    budget = RetryBudget(percent=20, floor=3)
    for _ in range(100):
        budget.note(50.0, Turn.FIRST)
    allowed = 0
    while budget.allows(55.0):
        budget.note(55.0, Turn.RETRY)
        allowed += 1

    assert allowed == 20


def test_what_the_client_repeats_itself_draws_on_the_budget() -> None:
    """It is never refused for that, but leaves less for our own retries."""
    budget = RetryBudget(percent=0, floor=2)
    budget.note(1.0, Turn.CLIENT_RETRY)
    first = budget.allows(1.0)
    budget.note(1.0, Turn.CLIENT_RETRY)

    assert first
    assert not budget.allows(1.0)


def test_ten_seconds_later_the_budget_is_fresh() -> None:
    """Requests and retries count for ten seconds and not for longer."""
    budget = RetryBudget(percent=20, floor=1)
    budget.note(100.0, Turn.RETRY)
    spent = [budget.allows(100.0 + later) for later in (0, 5, 9, 10, 100_000)]

    assert spent == [False, False, False, True, True]


def test_a_clock_that_stands_still_or_steps_back_is_no_trouble() -> None:
    """Counting goes on in the latest second."""
    budget = RetryBudget(percent=20, floor=1)
    budget.note(100.0, Turn.RETRY)

    assert not budget.allows(42.0)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=300),
    st.integers(0, 5),
)
def test_retries_never_exceed_the_share(events: list[tuple[float, bool]], floor: int) -> None:
    """Whenever a retry is allowed, those of the last ten seconds stay within share and floor."""
    budget = RetryBudget(percent=20, floor=floor)
    now = 1000.0
    retries: list[int] = []
    requests: list[int] = []
    for pause, wants_retry in events:
        now += pause
        if not wants_retry:
            budget.note(now, Turn.FIRST)
            requests.append(int(now))
        elif budget.allows(now):
            budget.note(now, Turn.RETRY)
            retries.append(int(now))
            recent = [sum(at > int(now) - 10 for at in some) for some in (retries, requests)]

            assert recent[0] - 1 < max(floor, 0.2 * recent[1])


def test_an_outage_costs_at_most_a_fifth_more() -> None:
    """C16: 200 requests a second that all fail for a minute, each wanting three attempts."""
    world = World(f"key{number}" for number in range(50))
    firsts = attempts = 0
    for _ in range(60):
        for _ in range(200):
            firsts += 1
            attempts += 1
            world.pool.budget.note(world.clock(), Turn.FIRST)
            for _ in range(2):
                attempts += _retried(world)
            world.clock.pass_s(1 / 200)

    assert attempts <= firsts * 1.2 + 30
    assert attempts > firsts * 1.1


def _retried(world: World) -> bool:
    lease = world.leasing.lease([step()], Turn.RETRY)
    if lease is not None:
        lease.pool.give_back(lease)
    return lease is not None


def test_a_provider_that_is_back_is_asked_again_at_once() -> None:
    """C16: after a minute of outage the probe is the first request after the cooldown."""
    world = World(["a", "b", "c"])
    for _ in range(30):
        while (lease := world.leasing.lease([step()], Turn.FIRST)) is not None:
            world.fail(lease, BadGateway())
        world.clock.pass_s(2.0)
    outlook = world.pool.outlook(step(), world.clock())
    wait = (outlook.until or 0.0) - world.clock()
    world.clock.pass_s(wait)

    assert wait <= 40.0
    assert world.serve() in {"a", "b", "c"}
