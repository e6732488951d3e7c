"""How a key is doing, as operators see it."""

import pytest

from keymux.cli.standing import Standing, for_model, of_key, of_provider, shared_shades
from keymux.core.health import Status
from keymux.core.records import KeyRecord, KeyState, ProviderState, Shade
from tests.cli.program import key

NOW = 1_795_000_000_000
SHADE = Shade(Status.RATE_LIMITED, NOW + 5, "429 slow")
LONGER = Shade(Status.ERROR, NOW + 9, "500 odd")


def with_state(state: KeyState, **fields: str) -> KeyRecord:
    """A key in some state."""
    return key("sk-standing-12345", state=state, **fields)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(with_state(KeyState()), Standing(Status.HEALTHY), id="a key that is well"),
        pytest.param(
            with_state(KeyState(), last_error="long ago"),
            Standing(Status.HEALTHY),
            id="an old error of a key that is well says nothing",
        ),
        pytest.param(
            with_state(KeyState(Status.EXHAUSTED, NOW, "402 spent")),
            Standing(Status.EXHAUSTED, "402 spent", NOW),
            id="a spent key",
        ),
        pytest.param(
            with_state(KeyState(Status.ERROR), last_error="500"),
            Standing(Status.ERROR, "500"),
            id="the last error stands in for a missing reason",
        ),
        pytest.param(
            with_state(KeyState(shades={"a": SHADE, "b": LONGER})),
            Standing(Status.ERROR, "500 odd", NOW + 9, "b"),
            id="the longest cooldown of a single model",
        ),
        pytest.param(
            with_state(KeyState(Status.EXHAUSTED, NOW, "402"), replaced_by="key_b"),
            Standing(Status.EXHAUSTED, "402; replaced by key_b", None),
            id="a replaced key is not waiting for anything",
        ),
    ],
)
def test_a_key_has_one_status_one_reason_and_one_end(record: KeyRecord, expected: Standing) -> None:
    """Whatever the store knows is brought to one line."""
    assert of_key(record) == expected


@pytest.mark.parametrize(
    ("record", "shared", "expected"),
    [
        pytest.param(
            with_state(KeyState(shades={"b": LONGER})), {}, Standing(Status.HEALTHY), id="well here"
        ),
        pytest.param(
            with_state(KeyState(shades={"a": SHADE})),
            {},
            Standing(Status.RATE_LIMITED, "429 slow", NOW + 5, "a"),
            id="cooling for this model",
        ),
        pytest.param(
            with_state(KeyState()),
            {"a": SHADE},
            Standing(Status.RATE_LIMITED, "429 slow", NOW + 5, "a"),
            id="its whole quota group cools for this model",
        ),
        pytest.param(
            with_state(KeyState(Status.DISABLED)),
            {"a": SHADE},
            Standing(Status.DISABLED),
            id="disabled for every model",
        ),
    ],
)
def test_a_key_may_be_well_for_one_model_only(
    record: KeyRecord, shared: dict[str, Shade], expected: Standing
) -> None:
    """For a model, only what concerns this model counts."""
    assert for_model(record, "a", shared) == expected


def test_what_a_group_shares_is_found_with_any_of_its_keys() -> None:
    """A cooldown of a whole group holds for a key that was added to it later."""
    whole = Shade(Status.RATE_LIMITED, NOW, whole_group=True)
    records = [
        with_state(KeyState(shades={"a": whole, "b": SHADE}), group="g"),
        with_state(KeyState(shades={"c": whole})),
    ]

    assert shared_shades(records) == {"g": {"a": whole}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(Standing(Status.RATE_LIMITED, until=NOW), True, id="its end has come"),
        pytest.param(Standing(Status.RATE_LIMITED, until=NOW + 1), False, id="not yet"),
        pytest.param(Standing(Status.EXHAUSTED), True, id="no end is known"),
        pytest.param(Standing(Status.HEALTHY), False, id="well"),
        pytest.param(Standing(Status.QUARANTINED, until=1), False, id="quarantine has no end"),
        pytest.param(Standing(Status.DISABLED), False, id="neither has disabled"),
    ],
)
def test_a_cooldown_that_is_over_may_be_probed(found: Standing, *, expected: bool) -> None:
    """Cooldowns end by themselves, an operator's word does not."""
    assert found.is_over(NOW) is expected


def test_a_reason_names_the_model_it_is_limited_to() -> None:
    """A reader is not led to think that the whole key is held."""
    assert Standing(Status.ERROR, "500", NOW, "opus").words == "500 (only opus)"


def test_a_provider_is_as_the_store_says() -> None:
    """Status, reason and end of a provider as a whole."""
    state = ProviderState(Status.ERROR, NOW, "refused")

    assert of_provider(state) == Standing(Status.ERROR, "refused", NOW)
