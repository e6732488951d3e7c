"""What holds for every condition, whatever happens to it in whatever order."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from keymux.core.health import (
    AFTER,
    LONGEST_WAIT_S,
    Backoff,
    Condition,
    Event,
    Status,
    by_operator,
    condemn,
    cool,
    count_failure,
    heal,
    suspect,
)

BACKOFF = Backoff((15.0, 30.0, 60.0, 120.0, 300.0))
FAULTS = (Event.THROTTLED, Event.FAILED, Event.SPENT)
OUT = {Status.QUARANTINED, Status.DISABLED}

moments = st.floats(1, 1e7)
lucks = st.floats(0, 1)
anything_told = st.none() | st.floats(allow_nan=True, allow_infinity=True)
conditions = st.builds(
    Condition,
    status=st.sampled_from(Status),
    until=st.none() | moments,
    step=st.integers(0, 20),
    generation=st.integers(0, 50),
    since=moments,
    ramp=st.sampled_from([0, 1, 2, 4, 8]),
    failures=st.integers(0, 5),
    suspected=st.just(0.0) | moments,
)
generations = st.integers(0, 60)

Change = Callable[[Condition, float], Condition]
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        lambda event, told, generation, luck: (
            lambda condition, now: cool(
                condition,
                event,
                BACKOFF,
                now=now,
                told=told,
                generation=generation,
                luck=luck,
                reason="x",
            )
        ),
        st.sampled_from(FAULTS),
        anything_told,
        generations,
        lucks,
    ),
    st.builds(
        lambda generation: lambda condition, now: heal(condition, now=now, generation=generation),
        generations,
    ),
    st.builds(
        lambda generation: (
            lambda condition, now: suspect(condition, now=now, generation=generation, reason="x")
        ),
        generations,
    ),
    st.builds(
        lambda generation: lambda condition, _: count_failure(condition, generation), generations
    ),
    st.just(lambda condition, now: condemn(condition, now=now, reason="x")),
)


@given(conditions, changes, moments)
def test_generations_count_transitions(condition: Condition, change: Change, now: float) -> None:
    """A change of status is one generation further; nothing goes back."""
    after = change(condition, now)

    assert after.generation - condition.generation in {0, 1}
    assert after.status is condition.status or after.generation > condition.generation


@given(conditions, changes, moments)
def test_only_an_operator_brings_back_what_is_out(
    condition: Condition, change: Change, now: float
) -> None:
    """No fault and no success changes a quarantined or disabled key, except that one may follow."""
    after = change(condition, now)

    assert condition.status not in OUT or after.status in OUT
    assert condition.status is not Status.DISABLED or after.status is Status.DISABLED


@given(conditions, st.sampled_from(FAULTS), anything_told, generations, lucks, moments)
def test_a_fault_never_shortens_a_cooldown(
    condition: Condition, event: Event, told: float | None, generation: int, luck: float, now: float
) -> None:
    """The new end is not before the old one, and what has no end gets none."""
    after = cool(
        condition,
        event,
        BACKOFF,
        now=now,
        told=told,
        generation=generation,
        luck=luck,
        reason="x",
    )
    if condition.until is None:
        assert condition.is_healthy or after.until is None
    elif not condition.is_healthy:
        assert after.until is not None
        assert after.until >= condition.until


@given(conditions, st.sampled_from(FAULTS), st.floats(0, 1e9), lucks, moments)
def test_what_was_told_is_obeyed(
    condition: Condition, event: Event, told: float, luck: float, now: float
) -> None:
    """No lease before the told time, or a day where more was told; and not much later either."""
    well = Condition(generation=condition.generation)
    after = cool(
        well, event, BACKOFF, now=now, told=told, generation=well.generation, luck=luck, reason="x"
    )
    wanted = min(told, LONGEST_WAIT_S)

    assert after.until is not None
    assert now + wanted <= after.until <= now + max(1.0, wanted) * 1.25 + 1e-6
    assert not after.is_due(now)


@given(conditions, st.sampled_from(Event), moments)
def test_operators_keep_to_the_table(condition: Condition, event: Event, now: float) -> None:
    """Whatever an operator asks for, the table says what follows."""
    after = by_operator(condition, event, now=now, reason="x")

    assert after.status is AFTER[event][condition.status]


@given(st.lists(changes, max_size=30), st.lists(st.floats(0, 100), min_size=30, max_size=30))
def test_a_condition_stays_sound(steps: list[Change], gaps: list[float]) -> None:
    """After any history: what is well has no end, what ramps is well, waves are not negative."""
    condition, now = Condition(), 1.0
    for change, gap in zip(steps, gaps, strict=False):
        now += gap
        condition = change(condition, now)

    assert not condition.is_healthy or condition.until is None
    assert condition.is_healthy or condition.ramp == 0
    assert condition.step >= 0
    assert not (condition.is_healthy and condition.is_due(now))
