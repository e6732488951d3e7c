"""How a condition passes from one status to another."""

from typing import Any

import pytest

from keymux.core.health import (
    AFTER,
    LONGEST_WAIT_S,
    SUSPICION_S,
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

NOW = 1000.0
BACKOFF = Backoff((10.0, 20.0, 40.0))

# A row per event, a column per status it finds: what follows.
STATUSES = "healthy      rate_limited error        exhausted    quarantined  disabled"
TRANSITIONS = """
throttled | rate_limited rate_limited rate_limited exhausted    quarantined  disabled
failed    | error        rate_limited error        exhausted    quarantined  disabled
spent     | exhausted    exhausted    exhausted    exhausted    quarantined  disabled
condemned | quarantined  quarantined  quarantined  quarantined  quarantined  disabled
succeeded | healthy      healthy      healthy      healthy      quarantined  disabled
disable   | disabled     disabled     disabled     disabled     disabled     disabled
enable    | healthy      rate_limited error        exhausted    quarantined  healthy
reset     | healthy      healthy      healthy      healthy      quarantined  disabled
restore   | healthy      healthy      healthy      healthy      healthy      disabled
"""
CELLS = [
    pytest.param(
        Event(event.strip()), Status(before), Status(after), id=f"{event.strip()} when {before}"
    )
    for event, _, row in (line.partition("|") for line in TRANSITIONS.strip().splitlines())
    for before, after in zip(STATUSES.split(), row.split(), strict=True)
]
OPERATOR = {Event.DISABLE, Event.ENABLE, Event.RESET, Event.RESTORE}
FAULTS = (Event.THROTTLED, Event.FAILED, Event.SPENT)


def ill(
    status: Status = Status.RATE_LIMITED, until: float | None = NOW + 60, **more: Any
) -> Condition:
    """A condition that is not well."""
    return Condition(
        status=status, until=until, **{"step": 1, "generation": 5, "since": NOW - 60, **more}
    )


def cooled(condition: Condition, event: Event = Event.THROTTLED, **more: Any) -> Condition:
    """What `cool` makes of a condition, with a lease of the present generation."""
    arguments = {
        "now": NOW,
        "told": None,
        "generation": condition.generation,
        "luck": 0.0,
        "reason": "said so",
        **more,
    }
    return cool(condition, event, BACKOFF, **arguments)


# -- transitions -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("event", "before", "after"), CELLS)
def test_the_table_of_transitions(event: Event, before: Status, after: Status) -> None:
    """Every event has an outcome for every status."""
    assert AFTER[event][before] is after


@pytest.mark.parametrize(("event", "before", "after"), CELLS)
def test_the_functions_keep_to_the_table(event: Event, before: Status, after: Status) -> None:
    """Whatever happens, the status that follows is the one of the table."""
    is_over = before in {Status.RATE_LIMITED, Status.ERROR, Status.EXHAUSTED}
    condition = Condition(status=before, until=NOW - 1 if is_over else None, generation=3)
    if event in FAULTS:
        changed = cooled(condition, event)
    elif event is Event.CONDEMNED:
        changed = condemn(condition, now=NOW, reason="banned")
    elif event is Event.SUCCEEDED:
        changed = heal(condition, now=NOW, generation=3)
    else:
        changed = by_operator(condition, event, now=NOW, reason="asked")

    assert changed.status is after


def test_a_new_condition_is_well() -> None:
    """Nothing is held against anybody before the first fault."""
    condition = Condition()

    assert (condition.is_healthy, condition.is_due(NOW)) == (True, False)


# -- cooling ---------------------------------------------------------------------------------------
def test_a_cooldown_tells_all_about_itself() -> None:
    """Status, end, reason, wave, generation and beginning."""
    condition = cooled(Condition(generation=4), luck=0.5)

    assert condition == Condition(
        status=Status.RATE_LIMITED,
        until=NOW + 7.5,
        reason="said so",
        step=1,
        generation=5,
        since=NOW,
    )


@pytest.mark.parametrize(
    ("luck", "expected_s"), [pytest.param(0.0, 5.0, id="half"), pytest.param(1.0, 10.0, id="whole")]
)
def test_an_own_backoff_is_half_fixed_and_half_luck(luck: float, expected_s: float) -> None:
    """Never nothing, never more than the step."""
    assert cooled(Condition(), luck=luck).until == NOW + expected_s


@pytest.mark.parametrize(
    ("luck", "expected_s"),
    [pytest.param(0.0, 8.0, id="exactly"), pytest.param(1.0, 10.0, id="a quarter more")],
)
def test_what_was_told_is_only_ever_lengthened(luck: float, expected_s: float) -> None:
    """By up to a quarter, so that many gateways do not come back at once."""
    assert cooled(Condition(), told=8.0, luck=luck).until == NOW + expected_s


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(-1.0, id="negative"),
        pytest.param(float("nan"), id="not a number"),
        pytest.param(float("inf"), id="endless"),
    ],
)
def test_a_senseless_time_counts_as_none(told: float) -> None:
    """The own backoff applies then."""
    assert cooled(Condition(), told=told).until == NOW + 5.0


def test_told_to_come_back_at_once_still_means_a_second() -> None:
    """Otherwise a rate limit would be hammered."""
    assert cooled(Condition(), told=0.0).until == NOW + 1.0


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(LONGEST_WAIT_S, Status.RATE_LIMITED, id="a day is a rate limit"),
        pytest.param(LONGEST_WAIT_S + 1, Status.EXHAUSTED, id="more is the end of an allowance"),
        pytest.param(1e300, Status.EXHAUSTED, id="for ever as well"),
    ],
)
def test_more_than_a_day_is_clamped(told: float, expected: Status) -> None:
    """A key is never lost for ever because of a number, and somebody is told."""
    condition = cooled(Condition(), told=told)

    assert (condition.status, condition.until) == (expected, NOW + LONGEST_WAIT_S)


def test_waves_in_a_row_wait_longer_up_to_the_last_step() -> None:
    """Each wave after a failed probe takes the next step; the last one repeats."""
    condition, waits = Condition(), []
    for _ in range(5):
        condition = cooled(condition, now=NOW, luck=1.0)
        waits.append((condition.until or 0.0) - NOW)
        condition = Condition(status=condition.status, until=NOW, step=condition.step)

    assert waits == [10.0, 20.0, 40.0, 40.0, 40.0]


@pytest.mark.parametrize(
    ("minutes", "expected_step"),
    [
        pytest.param(0, 4, id="at once"),
        pytest.param(1, 3, id="a minute later"),
        pytest.param(2.9, 2, id="two whole minutes later"),
        pytest.param(60, 1, id="an hour later"),
        pytest.param(-10, 4, id="a clock that went back changes nothing"),
    ],
)
def test_a_wave_is_forgiven_for_each_minute_in_good_health(
    minutes: float, expected_step: int
) -> None:
    """The next wave starts from what is left."""
    condition = Condition(step=3, since=NOW - 60 * minutes)

    assert cooled(condition).step == expected_step


def test_waves_are_not_forgiven_while_ill() -> None:
    """A probe that fails after a long cooldown is the next wave."""
    assert cooled(ill(step=2, since=NOW - 6000, until=NOW)).step == 3


@pytest.mark.parametrize("event", FAULTS)
def test_a_deadline_is_never_moved_forward(event: Event) -> None:
    """The later of the two times counts."""
    assert cooled(ill(until=NOW + 500), event).until == NOW + 500


@pytest.mark.parametrize("event", FAULTS)
def test_a_cooldown_without_an_end_waits_for_an_operator(event: Event) -> None:
    """No fault gives it an end."""
    condition = ill(until=None)
    changed = cooled(condition, event, told=5.0)

    assert (changed.until, changed.is_due(NOW + 1e9)) == (None, False)


# -- waves -----------------------------------------------------------------------------------------
def test_fifty_failures_of_one_wave_are_one_step() -> None:
    """Requests that were leased before the first of them failed do not escalate anything."""
    condition = Condition()
    for _ in range(50):
        condition = cooled(condition, generation=0, luck=1.0)

    assert (condition.step, condition.generation, condition.until) == (1, 1, NOW + 10.0)


def test_a_late_answer_can_lengthen_a_cooldown_as_told() -> None:
    """Every rate limit of the wave may name another time; the longest counts."""
    condition = ill()
    later = cooled(condition, generation=4, told=100.0, luck=1.0)

    assert later == ill(until=NOW + 125.0)


@pytest.mark.parametrize(
    "told", [pytest.param(None, id="no time"), pytest.param(5.0, id="less than is left")]
)
def test_a_late_answer_shortens_nothing(told: float | None) -> None:
    """The condition stays the very same."""
    condition = ill()

    assert cooled(condition, generation=4, told=told) is condition


def test_a_late_answer_gives_no_end_to_what_has_none() -> None:
    """An operator has to act, whatever arrives."""
    condition = ill(until=None)

    assert cooled(condition, generation=4, told=500.0) is condition


def test_late_news_of_another_kind_is_news() -> None:
    """A key that cools for its rate and turns out to be spent is spent, as part of the wave."""
    condition = cooled(ill(step=2), Event.SPENT, generation=4, told=3600.0)

    assert (condition.status, condition.step, condition.generation) == (Status.EXHAUSTED, 2, 6)


def test_a_late_failure_says_nothing_about_what_is_well_again() -> None:
    """The request began before the recovery."""
    condition = Condition(generation=5, step=2, since=NOW)

    assert cooled(condition, Event.FAILED, generation=3) is condition


@pytest.mark.parametrize(
    ("event", "told"),
    [
        pytest.param(Event.THROTTLED, None, id="a rate limit"),
        pytest.param(Event.FAILED, 7.0, id="a failure with a time"),
    ],
)
def test_a_late_answer_that_holds_now_cools_without_escalating(
    event: Event, told: float | None
) -> None:
    """It is obeyed, with the step of the wave it belongs to."""
    condition = Condition(generation=5, step=2, since=NOW)
    changed = cooled(condition, event, generation=3, told=told)

    assert (changed.is_healthy, changed.step) == (False, 2)


# -- suspicion and quarantine ----------------------------------------------------------------------
def test_the_first_refusal_is_only_remembered() -> None:
    """One 401 may be the provider's mistake; the key stays in use."""
    condition = suspect(Condition(), now=NOW, generation=0, reason="401")

    assert condition == Condition(suspected=NOW, generation=1)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(SUSPICION_S, Status.QUARANTINED, id="within ten minutes"),
        pytest.param(SUSPICION_S + 1, Status.HEALTHY, id="later"),
    ],
)
def test_the_second_refusal_condemns_a_key(seconds: float, expected: Status) -> None:
    """If it comes soon after the first, of a request that began after it."""
    once = suspect(Condition(), now=NOW, generation=0, reason="401")
    twice = suspect(once, now=NOW + seconds, generation=1, reason="401 again")

    assert (twice.status, twice.suspected) == (
        expected,
        NOW + seconds if expected is Status.HEALTHY else 0.0,
    )


def test_two_refusals_of_one_wave_are_one() -> None:
    """Requests that were under way when the first was refused prove nothing more."""
    once = suspect(Condition(), now=NOW, generation=0, reason="401")

    assert suspect(once, now=NOW + 1, generation=0, reason="401") is once


@pytest.mark.parametrize("status", [Status.QUARANTINED, Status.DISABLED])
def test_what_is_out_for_good_is_not_suspected(status: Status) -> None:
    """Its reason stays the one it has."""
    condition = Condition(status=status, reason="leaked", generation=2)

    assert suspect(condition, now=NOW, generation=2, reason="401") is condition


def test_a_condemned_key_keeps_its_first_reason() -> None:
    """The operator sees what it was condemned for, not what followed."""
    once = condemn(Condition(), now=NOW, reason="leaked")

    assert once == Condition(status=Status.QUARANTINED, reason="leaked", generation=1, since=NOW)
    assert condemn(once, now=NOW + 5, reason="banned") is once


@pytest.mark.parametrize("status", [Status.QUARANTINED, Status.DISABLED])
def test_what_waits_for_an_operator_is_never_due(status: Status) -> None:
    """Not even when a database says that it has an end."""
    condition = Condition(status=status, until=NOW - 1)

    assert condition.is_due(NOW) is False


def test_a_success_does_not_end_a_quarantine() -> None:
    """Only an operator does."""
    condition = Condition(status=Status.QUARANTINED, reason="leaked", generation=1)

    assert heal(condition, now=NOW, generation=1) is condition


# -- healing ---------------------------------------------------------------------------------------
def test_a_cooldown_is_due_when_its_time_is_over() -> None:
    """Not a moment earlier."""
    condition = ill(until=NOW)

    assert (condition.is_due(NOW - 0.001), condition.is_due(NOW)) == (False, True)


def test_a_probe_that_succeeds_heals_and_begins_a_ramp() -> None:
    """With the waves remembered, should it be too early."""
    condition = heal(ill(until=NOW, step=3), now=NOW, generation=5)

    assert condition == Condition(step=3, generation=6, since=NOW, ramp=1)


def test_the_ramp_doubles_until_it_is_over() -> None:
    """One, two, four, eight at once, then as many as come."""
    condition, ramps = heal(ill(until=NOW), now=NOW, generation=5), []
    while condition.ramp:
        ramps.append(condition.ramp)
        condition = heal(condition, now=NOW, generation=6)

    assert ramps == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param(ill(until=NOW + 1), id="a cooldown that is not over"),
        pytest.param(ill(until=None), id="a cooldown without an end"),
        pytest.param(Condition(generation=5), id="good health"),
    ],
)
def test_a_success_changes_nothing_about(condition: Condition) -> None:
    """The condition stays the very same."""
    assert heal(condition, now=NOW, generation=5) is condition


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param(ill(until=NOW), id="a cooldown that is over"),
        pytest.param(Condition(generation=5, ramp=2), id="a ramp"),
        pytest.param(Condition(generation=5, suspected=NOW), id="a suspicion"),
    ],
)
def test_a_success_from_before_heals_nothing(condition: Condition) -> None:
    """The request was leased before what there is now to be healed."""
    assert heal(condition, now=NOW, generation=4) is condition


def test_a_success_clears_suspicion_and_failures() -> None:
    """Failures in a row are in a row no more."""
    condition = Condition(failures=2, suspected=NOW, generation=5)

    assert heal(condition, now=NOW, generation=5) == Condition(generation=5)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        pytest.param(5, 3, id="of the present generation"),
        pytest.param(4, 2, id="but not of one before"),
    ],
)
def test_failures_in_a_row_are_counted(generation: int, expected: int) -> None:
    """The caller compares them with its threshold."""
    condition = Condition(failures=2, generation=5)

    assert count_failure(condition, generation).failures == expected


# -- operators -------------------------------------------------------------------------------------
@pytest.mark.parametrize("event", sorted(OPERATOR))
def test_an_operator_leaves_a_clean_sheet(event: Event) -> None:
    """What changes starts anew: no waves, no suspicion, no end, and leases from before are old."""
    before = {
        Event.DISABLE: Condition(step=3, suspected=NOW, generation=5),
        Event.ENABLE: Condition(status=Status.DISABLED, step=3, generation=5),
        Event.RESET: ill(step=3),
        Event.RESTORE: Condition(status=Status.QUARANTINED, step=3, generation=5),
    }[event]
    after = by_operator(before, event, now=NOW, reason="asked")

    assert after == Condition(
        status=AFTER[event][before.status], reason="asked", generation=6, since=NOW
    )


@pytest.mark.parametrize(
    ("event", "condition"),
    [
        pytest.param(Event.DISABLE, Condition(status=Status.DISABLED), id="disable twice"),
        pytest.param(Event.ENABLE, ill(), id="enable what is not disabled"),
        pytest.param(Event.RESET, Condition(status=Status.QUARANTINED), id="reset a quarantine"),
        pytest.param(Event.RESTORE, Condition(step=2), id="restore what is well"),
    ],
)
def test_an_operator_who_asks_in_vain(event: Event, condition: Condition) -> None:
    """The condition stays the very same."""
    assert by_operator(condition, event, now=NOW, reason="asked") is condition


def test_a_reset_forgets_the_waves_of_what_is_well() -> None:
    """It is the one thing an operator can do about good health."""
    condition = by_operator(Condition(step=3), Event.RESET, now=NOW, reason="asked")

    assert (condition.step, condition.generation) == (0, 1)
