"""Where an exchange goes on after failed attempts, and what it tells when it does not."""

import pytest

from keymux.core import faults
from keymux.core.faults import Answer, Fault, UpstreamFault
from keymux.core.retrying import (
    DECISIONS,
    LONGEST_PAUSE_S,
    FailedAttempt,
    Patience,
    Situation,
    Step,
    Work,
    first_steps,
    next_steps,
    should_retry,
    speaks_for_itself,
    surfaced,
)
from keymux.core.vocabulary import Kind, Route, Target
from tests.core.trouble import (
    ALONE,
    HERE,
    THERE,
    THREE,
    TWO,
    UPSTREAM_FAULTS,
    YONDER,
    failed,
    made,
    situation,
)


def after(
    *attempts: FailedAttempt,
    route: Route = TWO,
    at: Situation | None = None,
    patience: Patience | None = None,
) -> tuple[Step, ...]:
    """The steps after some attempts."""
    return next_steps(route, attempts, patience or Patience(), at or situation())


def targets(steps: tuple[Step, ...]) -> list[Target]:
    """Where the steps lead."""
    return [step.target for step in steps]


def dead_keys(number: int, target: Target = HERE) -> list[FailedAttempt]:
    """Rejected keys, one after the other."""
    return [failed(faults.KeyRejected, target, f"k{index}") for index in range(number)]


# -- where to go -----------------------------------------------------------------------------------
def test_an_exchange_begins_with_the_targets_in_order() -> None:
    """The first target that has a ready key is asked; nothing is avoided and nobody waits."""
    steps = first_steps(THREE)

    assert steps == (Step(HERE), Step(THERE), Step(YONDER))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        pytest.param(faults.Unreachable, [THERE], id="an unreachable provider is left"),
        pytest.param(faults.Overloaded, [THERE, HERE], id="an overloaded one is left first"),
        pytest.param(faults.NoReply, [HERE, THERE], id="silence may be the key's"),
        pytest.param(faults.KeyThrottled, [HERE, THERE], id="another group has its own rate"),
        pytest.param(faults.RequestRefused, [], id="a wrong request is wrong everywhere"),
        pytest.param(faults.PolicyBlocked, [], id="a block is not routed around"),
        pytest.param(faults.ContentRefused, [], id="a refusal is not shopped around"),
        pytest.param(faults.StreamBroken, [], id="what the client has begun to read is final"),
    ],
)
def test_the_first_fault_decides_the_direction(
    kind: type[UpstreamFault], expected: list[Target]
) -> None:
    """The moves of the row become steps in the same order."""
    assert targets(after(failed(kind))) == expected


def test_another_key_avoids_every_key_that_failed_there() -> None:
    """Keys of another provider may bear the same names and are not meant."""
    tried = [
        failed(faults.ModelNotPermitted, THERE, "k9"),
        failed(faults.ModelNotPermitted, HERE, "k1"),
        failed(faults.ModelNotPermitted, HERE, "k2"),
    ]

    assert after(*tried)[0].avoid_keys == frozenset({"k1", "k2"})


def test_another_group_avoids_keys_and_groups_that_failed_there() -> None:
    """A throttled quota group is throttled with every key it has."""
    step = after(failed(faults.KeyThrottled, group="team"))[0]

    assert step == Step(HERE, frozenset({"k1"}), frozenset({"team"}), pause_s=0.0125)


def test_another_provider_is_one_that_was_not_asked_yet() -> None:
    """Every target that is left is offered, in the order of the route."""
    tried = [failed(faults.BadGateway, HERE), failed(faults.Unreachable, YONDER)]

    assert targets(after(*tried, route=THREE)) == [THERE]


def test_the_same_key_is_tried_again_on_a_fresh_connection() -> None:
    """A connection that was gone before anything was sent says nothing about the key."""
    steps = after(failed(faults.StaleConnection))

    assert steps == (Step(HERE, only_key="k1"),)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param(
            [failed(faults.StaleConnection), failed(faults.StaleConnection)],
            [],
            id="not a third time with one key",
        ),
        pytest.param(
            [
                failed(faults.StaleConnection),
                failed(faults.KeyThrottled),
                failed(faults.StaleConnection, key="k2"),
            ],
            [Step(HERE, only_key="k2")],
            id="but once with each",
        ),
    ],
)
def test_a_stale_connection_is_forgiven_once_a_key(
    attempts: list[FailedAttempt], expected: list[Step]
) -> None:
    """Attempts that are not counted must still come to an end."""
    assert list(after(*attempts)) == expected


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        pytest.param(faults.ServerFailed, [HERE, THERE], [THERE], id="other key once after 500"),
        pytest.param(faults.Forbidden, [HERE, THERE], [THERE], id="other key once after 403"),
        pytest.param(faults.BadGateway, [THERE, HERE], [THERE], id="same provider once after 502"),
    ],
)
def test_once_means_once(
    kind: type[UpstreamFault], first: list[Target], second: list[Target]
) -> None:
    """A move that may be made once is not offered when the fault comes again."""
    one, two = failed(kind), failed(kind, key="k2")

    assert (targets(after(one)), targets(after(one, two))) == (first, second)


def test_another_fault_in_between_does_not_use_up_the_one_time() -> None:
    """Once is counted for each fault by itself."""
    tried = [failed(faults.KeyRejected), failed(faults.ServerFailed, key="k2")]

    assert targets(after(*tried)) == [HERE, THERE]


# -- dead keys -------------------------------------------------------------------------------------
def test_a_pool_with_four_dead_keys_serves_its_first_request() -> None:
    """Rejected keys cost nothing, so the search goes on while attempts are left."""
    for number in range(1, 8):
        steps = after(*dead_keys(number), route=ALONE)

        assert [len(step.avoid_keys) for step in steps] == [number]


def test_the_eighth_attempt_is_the_last() -> None:
    """Whatever came of them."""
    assert after(*dead_keys(8), route=ALONE) == ()


def test_after_two_dead_keys_another_provider_comes_first() -> None:
    """Two may be chance, more look like a provider that does not know its own keys."""
    one, two = after(*dead_keys(1)), after(*dead_keys(2))

    assert (targets(one), targets(two)) == ([HERE, THERE], [THERE, HERE])


def test_when_the_other_provider_has_dead_keys_only_the_first_is_asked_again() -> None:
    """With keys it was not asked with yet."""
    tried = [*dead_keys(2), *dead_keys(2, THERE)]
    steps = after(*tried)

    assert [(step.target, step.avoid_keys) for step in steps] == [
        (THERE, frozenset({"k0", "k1"})),
        (HERE, frozenset({"k0", "k1"})),
    ]


def test_a_provider_that_was_left_for_another_reason_is_not_asked_again() -> None:
    """An unreachable provider has not become reachable because keys elsewhere are bad."""
    tried = [failed(faults.Unreachable), *dead_keys(2, THERE)]

    assert set(targets(after(*tried))) == {THERE}


def test_the_last_attempt_goes_to_a_provider_that_was_not_asked_yet() -> None:
    """Seven keys of one provider failed; the eighth attempt may as well ask another."""
    tried = [failed(faults.ModelNotPermitted, key=f"k{index}") for index in range(7)]
    sixth, seventh = after(*tried[:6]), after(*tried)

    assert (targets(sixth), targets(seventh)) == ([HERE, THERE], [THERE, HERE])


def test_the_last_chance_is_not_taken_where_the_rules_know_of_none() -> None:
    """A fault that may not go to another provider does not, last attempt or not."""
    tried = [*dead_keys(6), failed(faults.StaleConnection, key="k9")]

    assert targets(after(*tried, patience=Patience(attempts=7))) == [HERE]


# -- budgets ---------------------------------------------------------------------------------------
def test_three_attempts_that_may_have_been_processed_are_enough() -> None:
    """However many keys and providers there are."""
    tried = [
        failed(faults.ServerFailed, HERE, "k1"),
        failed(faults.ServerFailed, THERE, "k2"),
        failed(faults.BadGateway, YONDER, "k3"),
    ]
    route = Route("model", (*THREE.targets, Target("beyond", "model")))

    assert (len(after(*tried[:2], route=route)) > 0, after(*tried, route=route)) == (True, ())


def test_an_attempt_that_is_not_counted_leaves_the_limit_alone() -> None:
    """A stale connection is no attempt in the sense of the budget."""
    tried = [*dead_keys(6), failed(faults.StaleConnection, key="k6"), *dead_keys(7)[6:]]

    assert len(after(*tried, route=ALONE)) == 1


@pytest.mark.parametrize(
    ("kind", "retries"),
    [
        pytest.param(Kind.GENERATION, 1, id="paid work once"),
        pytest.param(Kind.REPEATABLE, 2, id="a repeatable request twice"),
        pytest.param(Kind.STATEFUL, 0, id="a stateful request never"),
    ],
)
def test_how_often_ambiguous_work_is_repeated(kind: Kind, retries: int) -> None:
    """Work that may be done and billed already is repeated as seldom as its kind allows."""
    tried: list[FailedAttempt] = []
    at = situation(kind)
    patience = Patience(processed=8)
    while not tried or after(*tried, at=at, patience=patience):
        tried.append(failed(faults.NoReply, key=f"k{len(tried)}"))

    assert len(tried) - 1 == retries


@pytest.mark.parametrize(
    ("cost_micros", "kind", "goes_on"),
    [
        pytest.param(500_000, Kind.GENERATION, True, id="half a dollar"),
        pytest.param(500_001, Kind.GENERATION, False, id="more than half a dollar"),
        pytest.param(9_000_000, Kind.REPEATABLE, True, id="a free request of any size"),
        pytest.param(0, Kind.GENERATION, True, id="a cost nobody knows"),
    ],
)
def test_dear_work_is_not_repeated_when_it_may_be_done(
    cost_micros: int, kind: Kind, *, goes_on: bool
) -> None:
    """Above the guard the client decides whether it pays twice."""
    at = situation(kind, cost_micros=cost_micros)

    assert bool(after(failed(faults.NoReply), at=at)) is goes_on


def test_the_cost_guard_does_not_hold_back_what_was_never_processed() -> None:
    """A refused key costs nothing, however dear the request."""
    assert after(failed(faults.KeyThrottled), at=situation(cost_micros=10**9))


@pytest.mark.parametrize(
    ("left_s", "goes_on"),
    [
        pytest.param(300.0, True, id="half is left"),
        pytest.param(299.9, False, id="less than half is left"),
    ],
)
def test_a_late_first_event_is_retried_in_the_first_half_only(
    left_s: float, *, goes_on: bool
) -> None:
    """A second wait as long as the first would only end at the deadline."""
    at = situation(left_s=left_s)

    assert bool(after(failed(faults.FirstEventLate), at=at)) is goes_on


def test_other_faults_are_retried_in_the_second_half_as_well() -> None:
    """Only slowness needs half of the time."""
    assert after(failed(faults.NoReply), at=situation(left_s=10.0))


@pytest.mark.parametrize(
    ("left_s", "expected"),
    [
        pytest.param(2.0, [HERE], id="two seconds are enough without a pause"),
        pytest.param(1.99, [], id="less is not"),
    ],
)
def test_an_attempt_starts_only_with_two_seconds_left(
    left_s: float, expected: list[Target]
) -> None:
    """An attempt that cannot end in time is not begun."""
    at = situation(left_s=left_s, luck=0.0)

    assert targets(after(failed(faults.StaleConnection), route=ALONE, at=at)) == expected


def test_a_pause_is_part_of_the_time_that_is_left() -> None:
    """A step that would use up the time with waiting is left out, others stay."""
    at = situation(left_s=3.2, luck=0.5)

    assert targets(after(failed(faults.BadGateway), at=at)) == [THERE]


# -- pauses ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "luck", "expected_s"),
    [
        pytest.param(faults.KeyThrottled, 0.0, 0.0, id="another group may be asked at once"),
        pytest.param(faults.KeyThrottled, 1.0, 0.025, id="or after a moment"),
        pytest.param(faults.ServerFailed, 0.0, 0.25, id="a provider that failed gets a rest"),
        pytest.param(faults.ServerFailed, 1.0, 1.0, id="of a second at most"),
        pytest.param(faults.BadGateway, 0.0, 1.0, id="the same provider gets a longer one"),
        pytest.param(faults.BadGateway, 1.0, 2.0, id="of two seconds at most"),
    ],
)
def test_pauses_lie_within_bounds(
    kind: type[UpstreamFault], luck: float, expected_s: float
) -> None:
    """The first step's pause, from the shortest to the longest luck allows."""
    steps = after(failed(kind), route=ALONE, at=situation(luck=luck))

    assert steps[0].pause_s == pytest.approx(expected_s)


def test_the_moment_before_another_key_grows_to_a_quarter_second() -> None:
    """Twice as long after each failure, so that a storm of retries spreads out."""
    pauses = [
        after(*dead_keys(number), route=ALONE, at=situation(luck=1.0))[-1].pause_s
        for number in range(1, 8)
    ]

    assert pauses == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.25, 0.25, 0.25])


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(1.5, [1.5], id="as long as told"),
        pytest.param(0.0, [0.0], id="at once when told so"),
        pytest.param(LONGEST_PAUSE_S, [2.0], id="two seconds still"),
        pytest.param(2.5, [], id="not longer"),
    ],
)
def test_an_overloaded_provider_is_asked_again_only_after_the_told_time(
    told: float, expected: list[float]
) -> None:
    """Beyond two seconds the client's own retry is better than holding its connection."""
    steps = after(failed(faults.Overloaded, told=told), route=ALONE)

    assert [step.pause_s for step in steps] == expected


# -- what the client is told -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(
            faults.KeyThrottled(told=7.0, retry_after=7.0), True, id="a rate limit with a time"
        ),
        pytest.param(faults.KeyThrottled(), False, id="a rate limit without one"),
        pytest.param(faults.Overloaded(retry_after=0.0), False, id="no time to wait is no advice"),
        pytest.param(faults.ServerFailed(retry_after=7.0), False, id="work that may be done"),
        pytest.param(faults.Truncated(retry_after=7.0), False, id="work that is done"),
        pytest.param(faults.RequestRefused(retry_after=7.0), False, id="the client's mistake"),
        pytest.param(faults.BadRequest(problem="x", retry_after=7.0), False, id="here as well"),
        pytest.param(
            faults.TooManyAtOnce(what="x", limit=1, retry_after=1.0), True, id="a cap of ours"
        ),
        pytest.param(faults.NoneReady(model="m", retry_after=3.0), True, id="no key for a while"),
        pytest.param(faults.Internal(request_id="x"), False, id="a defect"),
    ],
)
def test_should_retry(fault: Fault, *, expected: bool) -> None:
    """True only when nothing can have been processed and we know when to come back."""
    assert should_retry(fault) is expected


@pytest.mark.parametrize(
    ("told", "expected_s"),
    [
        pytest.param(7.0, 7.0, id="the told time"),
        pytest.param(None, 15.0, id="a quarter minute when nothing was told"),
        pytest.param(31_622_400.0, 86_400.0, id="a day at most"),
    ],
)
def test_a_client_hears_when_to_come_back(told: float | None, expected_s: float) -> None:
    """A rate limit of ours towards the provider becomes one of ours towards the client."""
    fault = surfaced(made(faults.KeyThrottled, told), "m")

    assert (type(fault), fault.retry_after) == (faults.AllThrottled, expected_s)


@pytest.mark.parametrize("kind", UPSTREAM_FAULTS, ids=lambda kind: str(kind.__name__))
def test_a_client_hears_nothing_of_our_keys(kind: type[UpstreamFault]) -> None:
    """What happened to a key or a quota group becomes a lack of capacity; the rest stays."""
    fault = made(kind)
    said = surfaced(fault, "m")
    ours = {
        faults.KeyThrottled: faults.AllThrottled,
        faults.SlowDown: faults.AllThrottled,
        faults.KeySpent: faults.NoneReady,
        faults.KeyRejected: faults.NoneReady,
        faults.KeyRevoked: faults.NoneReady,
        faults.ModelNotPermitted: faults.NoneReady,
        faults.EgressFailed: faults.EgressDown,
        faults.EgressRefused: faults.EgressDown,
    }

    assert type(said) is ours.get(kind, kind)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(
            faults.RequestRefused(answer=Answer(400, "", b"{}")), True, id="the client's mistake"
        ),
        pytest.param(faults.RequestRefused(), False, id="nothing was said"),
        pytest.param(faults.NoReply(answer=Answer(502, "", b"{}")), False, id="not in their words"),
        pytest.param(faults.Unavailable(answer=Answer(401, "", b"{}")), False, id="about our key"),
        pytest.param(faults.BadRequest(problem="x"), False, id="a fault of ours"),
    ],
)
def test_when_the_upstream_speaks_for_itself(fault: Fault, *, expected: bool) -> None:
    """Its own words help the client, unless they speak of a key the client knows nothing of."""
    assert speaks_for_itself(fault) is expected


def test_work_is_known_for_every_fault() -> None:
    """The ledger writes it down for each attempt."""
    assert {type(row.work) for row in DECISIONS.values()} == {Work}
