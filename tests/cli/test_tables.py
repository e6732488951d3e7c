"""Rows for people and for pipes."""

from datetime import UTC, datetime

import pytest

from keymux.cli.money import brief_dollars, dollars
from keymux.cli.saying import clean
from keymux.cli.tables import compact, plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, "", id="nothing"),
        pytest.param(True, "yes", id="true"),
        pytest.param(False, "", id="false"),
        pytest.param(1_234_567, "1234567", id="a count in full"),
        pytest.param(["a", "b"], "a, b", id="a list"),
        pytest.param((), "", id="an empty list"),
        pytest.param(datetime(2026, 11, 1, 8, tzinfo=UTC), "2026-11-01T08:00:00Z", id="a time"),
    ],
)
def test_values_in_full(value: object, expected: str) -> None:
    """What pipes and CSV get is exact."""
    assert plain(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(0, "0", id="none"),
        pytest.param(999, "999", id="hundreds"),
        pytest.param(1000, "1k", id="a thousand"),
        pytest.param(1_234, "1.23k", id="thousands"),
        pytest.param(999_600, "1M", id="nearly a million"),
        pytest.param(12_345_678, "12.3M", id="millions"),
        pytest.param(5_000_000_000, "5G", id="milliards"),
        pytest.param(7_000_000_000_000, "7T", id="more"),
    ],
)
def test_counts_in_brief(value: int, expected: str) -> None:
    """What a table shows of a count is short."""
    assert compact(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a\x1b[2Jb", "a\\x1b[2Jb", id="clears the screen"),
        pytest.param("a\r\nb\tc", "a\\r\\nb\\tc", id="begins new lines and columns"),
        pytest.param("a\u202eb", "a\\u202eb", id="turns the reading direction"),
        pytest.param("a\x9bb", "a\\x9bb", id="an old control sequence"),
        pytest.param("Zürich 東京", "Zürich 東京", id="letters of all scripts stay"),
    ],
)
def test_nothing_that_a_terminal_obeys_gets_through(text: str, expected: str) -> None:
    """An upstream's words and an operator's labels cannot write on the terminal."""
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("micros", "exact", "brief"),
    [
        pytest.param(0, "0.000000", "0.0000", id="nothing"),
        pytest.param(1, "0.000001", "0.0000", id="the least"),
        pytest.param(1_234_567, "1.234567", "1.2346", id="a little"),
        pytest.param(123_456_789, "123.456789", "123.46", id="a lot"),
        pytest.param(10**15 + 1, "1000000000.000001", "1000000000.00", id="a fortune"),
    ],
)
def test_dollars(micros: int, exact: str, brief: str) -> None:
    """Money is exact where programs read it and rounded where people do."""
    assert (dollars(micros), brief_dollars(dollars(micros))) == (exact, brief)
