"""What holds for every exchange, whatever happens to its attempts."""

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from keymux.core.retrying import (
    DECISIONS,
    LONGEST_PAUSE_S,
    SHORTEST_ATTEMPT_S,
    FailedAttempt,
    Move,
    Patience,
    Situation,
    Step,
    Work,
    first_steps,
    next_steps,
)
from keymux.core.vocabulary import Kind, Route
from tests.core.trouble import THREE, UPSTREAM_FAULTS, made

KEYS = {f"k{number}": f"g{number // 2}" for number in range(12)}
ANOTHER = frozenset({Move.OTHER_KEY, Move.OTHER_KEY_ONCE, Move.OTHER_GROUP})

routes = st.integers(1, 3).map(lambda number: Route("model", THREE.targets[:number]))
told = st.none() | st.floats(0, 4)
upstream_faults = st.builds(made, st.sampled_from(UPSTREAM_FAULTS), told)
situations = st.builds(
    Situation,
    kind=st.sampled_from(Kind),
    left_s=st.floats(0, 600),
    total_s=st.just(600.0),
    cost_micros=st.integers(0, 1_000_000),
    luck=st.floats(0, 1),
)
patience = Patience()


@composite
def exchanges(draw: DrawFn) -> tuple[Route, list[FailedAttempt], list[Situation]]:
    """An exchange led to its end: every attempt is one that the steps before allowed."""
    route = draw(routes)
    kind = draw(st.sampled_from(Kind))
    failed: list[FailedAttempt] = []
    at: list[Situation] = []
    steps = first_steps(route)
    while choices := [(step.target, key) for step in steps for key in KEYS if fits(step, key)]:
        target, key = draw(st.sampled_from(choices))
        failed.append(FailedAttempt(target, key, KEYS[key], draw(upstream_faults)))
        seconds, cost = draw(st.floats(2, 600)), draw(st.sampled_from([0, 600_000]))
        at.append(Situation(kind, seconds, 600.0, cost, draw(st.floats(0, 1))))
        steps = next_steps(route, failed, patience, at[-1])
    return route, failed, at


def fits(step: Step, key: str) -> bool:
    """Whether a key may be used for a step, as a pool reads it."""
    if step.only_key is not None:
        return key == step.only_key
    return key not in step.avoid_keys and KEYS[key] not in step.avoid_groups


def of_kind(failed: list[FailedAttempt], mark: str) -> int:
    """How many of the faults have a mark in their row."""
    return sum(bool(getattr(DECISIONS[type(attempt.fault)], mark)) for attempt in failed)


@given(exchanges())
def test_an_exchange_never_tries_more_than_the_limits(
    exchange: tuple[Route, list[FailedAttempt], list[Situation]],
) -> None:
    """Eight attempts, three that may have been processed, one retry of ambiguous paid work."""
    _, failed, at = exchange
    processed = [one for one in failed if DECISIONS[type(one.fault)].work is not Work.NONE]
    ambiguous = {Kind.GENERATION: 2, Kind.REPEATABLE: 3, Kind.STATEFUL: 1}[at[-1].kind]

    assert of_kind(failed, "counted") <= 8
    assert len(failed) <= 16
    assert len(processed) <= 3
    assert of_kind(failed, "ambiguous") <= ambiguous


@given(exchanges())
def test_an_exchange_stays_on_its_route(
    exchange: tuple[Route, list[FailedAttempt], list[Situation]],
) -> None:
    """No target is invented, and nothing follows a fault whose cell is empty."""
    route, failed, at = exchange

    assert {attempt.target for attempt in failed} <= set(route.targets)
    assert all(DECISIONS[type(one.fault)].moves(at[0].kind) for one in failed[:-1])


@given(exchanges())
def test_no_key_is_asked_twice_where_another_is_demanded(
    exchange: tuple[Route, list[FailedAttempt], list[Situation]],
) -> None:
    """One key comes back only for a fresh connection, or for the same provider after a pause."""
    _, failed, at = exchange
    for earlier, later in pairwise(failed):
        if (earlier.target, earlier.key) == (later.target, later.key):
            moves = set(DECISIONS[type(earlier.fault)].moves(at[0].kind))

            assert moves - ANOTHER - {Move.OTHER_PROVIDER}


@given(exchanges())
def test_a_throttled_group_is_left_alone(
    exchange: tuple[Route, list[FailedAttempt], list[Situation]],
) -> None:
    """Right after a rate limit no key of the same quota group is asked at that provider."""
    _, failed, _ = exchange
    for earlier, later in pairwise(failed):
        if Move.OTHER_GROUP in DECISIONS[type(earlier.fault)].generation:
            assert (earlier.target, earlier.group) != (later.target, later.group)


histories = st.lists(
    st.builds(
        FailedAttempt,
        target=st.sampled_from(THREE.targets),
        key=st.sampled_from(sorted(KEYS)),
        group=st.sampled_from(sorted(set(KEYS.values()))),
        fault=upstream_faults,
    ),
    min_size=1,
    max_size=10,
)


@given(histories, situations)
def test_pauses_are_short_and_leave_time_for_the_attempt(
    failed: list[FailedAttempt], at: Situation
) -> None:
    """No step waits longer than two seconds, or into the last two seconds of the exchange."""
    for step in next_steps(THREE, failed, patience, at):
        assert 0 <= step.pause_s <= LONGEST_PAUSE_S
        assert step.pause_s + SHORTEST_ATTEMPT_S <= at.left_s


@given(histories, situations)
def test_the_decision_depends_on_its_arguments_alone(
    failed: list[FailedAttempt], at: Situation
) -> None:
    """The same history gives the same steps, none of them twice, and is not changed."""
    before = list(failed)
    once, again = (next_steps(THREE, failed, patience, at) for _ in range(2))

    assert once == again
    assert len(set(once)) == len(once)
    assert failed == before


@given(histories, situations)
def test_a_key_that_failed_is_avoided_unless_it_is_demanded(
    failed: list[FailedAttempt], at: Situation
) -> None:
    """Steps that look for another key name all that failed there."""
    moves = set(DECISIONS[type(failed[-1].fault)].moves(at.kind))
    assume(moves <= ANOTHER | {Move.OTHER_PROVIDER})
    for step in next_steps(THREE, failed, patience, at):
        tried = {attempt.key for attempt in failed if attempt.target == step.target}

        assert tried <= step.avoid_keys
