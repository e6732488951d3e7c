"""Where a request for a model would go, told from what the store knows."""

import pytest

from keymux.cli.outlook import Stock, TargetOutlook, first_provider, target_outlook
from keymux.core.health import Status
from keymux.core.records import KeyRecord, KeyState, ProviderState, Shade
from keymux.core.vocabulary import Target
from keymux.settings import ProviderSettings
from tests.cli.program import id_of, key

NOW = 1_795_000_000_000
ONE, TWO = "sk-one-0123456789", "sk-two-0123456789"


def outlook(*keys: KeyRecord, state: ProviderState | None = None) -> TargetOutlook:
    """The outlook of a target with some keys."""
    stock = Stock(state or ProviderState(), keys, spare=0)
    settings = ProviderSettings(kind="openhands")
    return target_outlook(Target("alpha", "opus"), settings, stock, NOW)


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        pytest.param(KeyState(), True, id="well"),
        pytest.param(KeyState(Status.RATE_LIMITED, NOW + 1), False, id="cooling"),
        pytest.param(KeyState(Status.RATE_LIMITED, NOW), True, id="due for its probe"),
        pytest.param(KeyState(Status.EXHAUSTED), True, id="spent without a known end"),
        pytest.param(KeyState(Status.QUARANTINED), False, id="quarantined"),
        pytest.param(KeyState(Status.DISABLED), False, id="disabled"),
        pytest.param(
            KeyState(shades={"opus": Shade(Status.ERROR, NOW + 1)}), False, id="cooling for this"
        ),
        pytest.param(
            KeyState(shades={"haiku": Shade(Status.ERROR, NOW + 1)}), True, id="cooling for another"
        ),
    ],
)
def test_a_key_is_ready_or_held(state: KeyState, *, ready: bool) -> None:
    """As the pool would say: well, or due for one probe."""
    found = outlook(key(ONE, state=state))

    assert (found.ready, found.keys[0].ready) == (int(ready), ready)


def test_a_replaced_key_is_out() -> None:
    """Whatever its health, a key that was replaced is not leased."""
    found = outlook(key(ONE, replaced_by="key_x"))

    assert found.ready == 0


def test_a_cooldown_of_the_group_holds_all_its_keys() -> None:
    """A key that joined its group later is held as well."""
    shade = Shade(Status.RATE_LIMITED, NOW + 1, "429", whole_group=True)
    found = outlook(
        key(ONE, group="g", state=KeyState(shades={"opus": shade})), key(TWO, group="g")
    )

    assert found.ready == 0


@pytest.mark.parametrize(
    ("first_used", "second_used", "expected"),
    [
        pytest.param(5, 3, TWO, id="the one that was used longest ago"),
        pytest.param(5, None, TWO, id="one that was never used"),
        pytest.param(None, None, ONE, id="the oldest when none was used"),
    ],
)
def test_keys_take_turns(first_used: int | None, second_used: int | None, expected: str) -> None:
    """The next key is the one whose turn it is."""
    found = outlook(
        key(ONE, created_at=1, last_used_at=first_used),
        key(TWO, created_at=2, last_used_at=second_used),
    )

    assert found.next_key == id_of(expected)


@pytest.mark.parametrize(
    ("state", "is_open"),
    [
        pytest.param(ProviderState(), True, id="well"),
        pytest.param(ProviderState(Status.ERROR, NOW + 1), False, id="away"),
        pytest.param(ProviderState(Status.ERROR, NOW), True, id="due for its probe"),
        pytest.param(ProviderState(Status.QUARANTINED), False, id="blocked"),
    ],
)
def test_a_provider_that_is_away_is_not_asked(state: ProviderState, *, is_open: bool) -> None:
    """Its keys may be well, but no one has a turn."""
    found = outlook(key(ONE), state=state)

    assert (found.is_open, bool(found.next_key)) == (is_open, is_open)


def test_the_first_that_can_be_asked_is_asked_first() -> None:
    """Targets without a ready key, or whose provider is away, are passed over."""
    away = outlook(key(ONE), state=ProviderState(Status.QUARANTINED))
    empty = outlook()
    ready = outlook(key(ONE))

    assert first_provider([away, empty]) == ""
    assert first_provider([away, empty, ready]) == "alpha"


def test_ready_keys_come_first() -> None:
    """Readers see what can serve before what cannot."""
    found = outlook(key(ONE, state=KeyState(Status.DISABLED)), key(TWO))

    assert [one.id for one in found.keys] == [id_of(TWO), id_of(ONE)]
