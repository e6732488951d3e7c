"""Counting tokens: forwarded where a provider does it, estimated and marked where none does."""

import msgspec
import pytest

from keymux.core import faults
from keymux.core.faults import UpstreamFault
from keymux.core.records import Outcome
from keymux.settings import Limits
from tests.exchange.rig import COUNT_PATH, House, Script, ScriptedAnswer, Visitor, asked

COUNTED = msgspec.json.encode({"input_tokens": 42})


def _count(house: House) -> Visitor:
    return house.visit(Visitor(asked()), path=COUNT_PATH)


def test_the_providers_count_counts() -> None:
    """It is passed on as it came, and is not spend."""
    house = House(ScriptedAnswer(COUNTED))
    visitor = _count(house)
    (row,) = house.book.rows

    assert visitor.body == COUNTED
    assert "x-keymux-estimated" not in visitor.headers
    assert (row.outcome, row.usage.total, row.cost_micros) == (Outcome.OK, 0, 0)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(faults.OperationMissing(), id="the provider does not count"),
        pytest.param(ScriptedAnswer(b'{"input_tokens": 0}'), id="it counts nothing"),
        pytest.param(faults.Unreachable(), id="it cannot be reached"),
        pytest.param(faults.KeyThrottled(told=60.0), id="it is throttled"),
    ],
)
def test_an_estimate_is_better_than_nothing(script: Script) -> None:
    """It says that it is one, is never 0, and costs nothing."""
    house = House(script, keys=("a",))
    visitor = _count(house)

    assert visitor.status == 200
    assert visitor.headers["x-keymux-estimated"] == "true"
    assert visitor.json()["input_tokens"] > 0
    assert house.book.rows[0].outcome is Outcome.OK


@pytest.mark.parametrize("fault", [faults.RequestRefused(), faults.ContextTooLong()])
def test_a_wrong_request_is_refused(fault: UpstreamFault) -> None:
    """An estimate would hide what is wrong with it."""
    visitor = _count(House(fault))

    assert visitor.status == 400
    assert "x-keymux-estimated" not in visitor.headers


def test_who_does_not_count_is_not_asked_again_for_an_hour() -> None:
    """And no key is blamed for it."""
    house = House(faults.OperationMissing(), ScriptedAnswer(COUNTED))
    _count(house)
    _count(house)
    asked_at_first = len(house.upstreams.asked)
    house.clock.pass_s(3601.0)
    later = _count(house)

    assert asked_at_first == 1
    assert later.body == COUNTED
    assert house.world.changes == []


def test_counting_has_its_own_cap() -> None:
    """Counts never take the place of answers; one too many is told to come back."""
    house = House(ScriptedAnswer(1.0, COUNTED), limits=Limits(count_tokens=1))
    first, second = Visitor(asked()), Visitor(asked())
    house.visit(first, second, path=COUNT_PATH)

    assert first.status == 200
    assert second.status == 429
    assert second.json()["error"]["details"]["error_code"] == "too_many_requests"
    assert second.headers["x-should-retry"] == "true"
