"""What becomes of a stored state, and what operators see of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keymux.core.health import Event, Status
from keymux.core.records import KeyState, Shade
from keymux.stores.states import (
    Seen,
    after_operator,
    after_transition,
    reason_of,
    seen,
    status_of,
    unseen,
)
from tests.contract.records import NOON, cooling, key, shaded, transition

ENDLESS = Shade(Status.ERROR, None, "for ever")
SHADES = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        Shade,
        st.sampled_from([Status.RATE_LIMITED, Status.ERROR]),
        st.none() | st.integers(1, 5),
        st.text(max_size=3),
    ),
)
COOLING = st.builds(
    KeyState, st.sampled_from([Status.RATE_LIMITED, Status.ERROR]), st.integers(6, 9), st.text()
)
RESTING = st.builds(
    KeyState, st.sampled_from([Status.QUARANTINED, Status.DISABLED, Status.EXHAUSTED]), st.none()
)


@given(st.just(KeyState()) | COOLING | RESTING, SHADES)
def test_what_operators_see_hides_nothing(own: KeyState, shades: dict[str, Shade]) -> None:
    """A key's own health can be told again from the fields that they look at."""
    found = unseen(seen(replace(own, shades=shades)), shades)

    assert found == Seen(own.status, own.cooldown_until, own.reason)


SIGHTS = [
    pytest.param(KeyState(reason="answered"), Seen(Status.HEALTHY, None, "answered"), id="well"),
    pytest.param(
        replace(shaded("sonnet", 60), reason="answered"),
        Seen(Status.RATE_LIMITED, NOON + 60_000, "answered"),
        id="its own reason comes first",
    ),
    pytest.param(
        KeyState(shades=shaded("sonnet", 60).shades | {"haiku": ENDLESS}),
        Seen(Status.ERROR, None, "for ever"),
        id="no end is later than any end",
    ),
    pytest.param(
        KeyState(Status.DISABLED, shades={"haiku": ENDLESS}),
        Seen(Status.DISABLED, None, ""),
        id="what holds for the whole key counts more than a model",
    ),
]


@pytest.mark.parametrize(("state", "expected"), SIGHTS)
def test_what_operators_see(state: KeyState, expected: Seen) -> None:
    """The longest of what keeps the key away."""
    assert seen(state) == expected


def test_only_known_words_are_statuses() -> None:
    """Anything else keeps the traffic away until an operator says what was meant."""
    assert [status_of(status) for status in Status] == list(Status)
    assert status_of("Healthy ") is Status.DISABLED


def test_a_disabled_key_keeps_its_deadline_until_it_is_enabled() -> None:
    """Disabling is no cure: what is left of the cooldown is remembered, and enabling ends it."""
    cools = key("k1", state=cooling(60), replaced_by="b1")
    disabled = after_operator(cools, Event.DISABLE, reason="tired", at=NOON + 1)
    enabled = after_operator(disabled, Event.ENABLE, reason="", at=NOON + 2)

    assert disabled.state == KeyState(Status.DISABLED, NOON + 60_000, "tired", generation=2)
    assert (disabled.replaced_by, disabled.updated_at) == ("b1", NOON + 1)
    assert enabled.state == KeyState(generation=3)
    assert enabled.replaced_by == ""


STALE = [
    pytest.param(KeyState(generation=5), cooling(60, 4), id="older news"),
    pytest.param(KeyState(Status.DISABLED), cooling(60, 4), id="a disabled key"),
    pytest.param(KeyState(Status.QUARANTINED), KeyState(generation=9), id="a quarantined key"),
    pytest.param(KeyState(), None, id="news without a state"),
]


@pytest.mark.parametrize(("stored", "told"), STALE)
def test_some_news_change_nothing(stored: KeyState, told: KeyState | None) -> None:
    """What an operator decided, or came later, stands."""
    news = replace(transition("t1", cooling(1)), key_state=told)

    assert after_transition(key("k1", state=stored), news) is None


DEADLINES = [
    pytest.param(cooling(60), cooling(90), 90, id="the later one is news"),
    pytest.param(cooling(90), cooling(60), 90, id="the later one is there"),
    pytest.param(cooling(90, 1), cooling(60, 2), 60, id="a new generation begins anew"),
    pytest.param(KeyState(generation=1), cooling(60), 60, id="there was none"),
]


@pytest.mark.parametrize(("stored", "told", "seconds"), DEADLINES)
def test_of_two_deadlines_the_later_holds(stored: KeyState, told: KeyState, seconds: int) -> None:
    """Within one generation, whoever is first to write."""
    after = after_transition(key("k1", state=stored), transition("t1", told))

    assert after is not None
    assert after.state.cooldown_until == NOON + seconds * 1000


def test_a_recovery_does_not_end_the_cooldown_of_another_process() -> None:
    """Well in one process, cooling in the other, in the same generation: the key cools."""
    after = after_transition(key("k1", state=cooling(60)), transition("t1", KeyState(generation=1)))

    assert after is not None
    assert after.state == cooling(60)


def test_the_audit_names_the_model() -> None:
    """If there is one."""
    assert reason_of(transition("t1", cooling(9))) == "reason of t1"
    assert reason_of(transition("t1", shaded("haiku", 9), "haiku")) == "reason of t1 (haiku)"


MODELS = [
    pytest.param(shaded("sonnet", 90), {"sonnet": 90, "haiku": 30}, id="it cools for longer"),
    pytest.param(shaded("sonnet", 10), {"sonnet": 10, "haiku": 30}, id="it cools anew"),
    pytest.param(KeyState(), {"haiku": 30}, id="it is well"),
    pytest.param(shaded("haiku", 99), {"haiku": 30}, id="what is told of others does not count"),
]


@pytest.mark.parametrize(("told", "expected"), MODELS)
def test_news_of_one_model_are_of_that_model(told: KeyState, expected: dict[str, int]) -> None:
    """The key's own health and its other models stay as they are stored."""
    shades = shaded("sonnet", 60).shades | shaded("haiku", 30).shades
    stored = replace(cooling(60), shades=shades)
    newer = replace(told, generation=2)
    news = replace(transition("t1", cooling(1)), model="sonnet", key_state=newer)
    after = after_transition(key("k1", state=stored), news)

    assert after is not None
    assert replace(after.state, shades={}) == cooling(60)
    assert {name: shade.until for name, shade in after.state.shades.items()} == {
        name: NOON + seconds * 1000 for name, seconds in expected.items()
    }
