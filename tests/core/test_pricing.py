"""What usage costs, in whole micro-dollars."""

import pytest

from keymux.core.pricing import cost_micros
from keymux.core.vocabulary import Price, Usage

SONNET = Price(3.0, 15.0, 0.3, 3.75, 6.0)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(Usage(), 0, id="nothing"),
        pytest.param(Usage(input=1_000_000), 3_000_000, id="a million of input"),
        pytest.param(Usage(output=1_000_000), 15_000_000, id="a million of output"),
        pytest.param(Usage(cache_read=1_000_000), 300_000, id="a million read from the cache"),
        pytest.param(Usage(cache_write_5m=1_000_000), 3_750_000, id="kept for five minutes"),
        pytest.param(Usage(cache_write_1h=1_000_000), 6_000_000, id="kept for an hour"),
        pytest.param(Usage(output=10, reasoning=8), 150, id="thinking is output already"),
        pytest.param(Usage(cache_read=1), 0, id="less than half a micro-dollar"),
        pytest.param(Usage(cache_read=2), 1, id="more than half a micro-dollar"),
        pytest.param(Usage(1, 2, 10, 4, 5), 3 + 30 + 3 + 15 + 30, id="all of it added up"),
    ],
)
def test_every_class_of_tokens_has_its_price(usage: Usage, expected: int) -> None:
    """The sum is rounded once, to a whole micro-dollar."""
    assert cost_micros(usage, SONNET) == expected


def test_without_a_price_the_cost_is_unknown() -> None:
    """Unknown is not free."""
    assert cost_micros(Usage(input=5), None) is None


def test_a_price_of_zero_is_free() -> None:
    """Unlike no price."""
    assert cost_micros(Usage(input=5), Price()) == 0
