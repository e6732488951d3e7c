"""Times as operators write and read them."""

from datetime import UTC, datetime

import pytest

from keymux.cli.moments import ago, left, moment, read_moment, stretch

NOW = 1_795_000_000_000
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("90m", NOW - 90 * 60_000, id="minutes ago"),
        pytest.param("24h", NOW - 24 * HOUR, id="hours ago"),
        pytest.param("7d", NOW - 7 * 24 * HOUR, id="days ago"),
        pytest.param("4w", NOW - 28 * 24 * HOUR, id="weeks ago"),
        pytest.param("999999w", 0, id="before time began"),
        pytest.param("2026-11-01", 1_793_491_200_000, id="a date is its beginning in UTC"),
        pytest.param("2026-11-01T08:30", 1_793_521_800_000, id="a time is UTC"),
        pytest.param("2026-11-01T08:30+02:00", 1_793_514_600_000, id="unless it has a zone"),
        pytest.param("2026-11-01T08:30Z", 1_793_521_800_000, id="a time with a Z"),
    ],
)
def test_times_are_read_as_written(text: str, expected: int) -> None:
    """Dates, times and stretches before now all name a moment."""
    assert read_moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "7", "7x", "d", "-7d", "2026-13-01", "7d7d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """The refusal says what would be a time."""
    with pytest.raises(ValueError, match="give a date such as 2026-11-01"):
        read_moment(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(-5, "0s", id="nothing is left of the past"),
        pytest.param(0.9, "0s", id="less than a second"),
        pytest.param(59, "59s", id="seconds"),
        pytest.param(60, "1m", id="a whole minute"),
        pytest.param(250, "4m 10s", id="two units"),
        pytest.param(86_400 + 61, "1d", id="an empty second unit is left out"),
        pytest.param(3_600 * 25 + 61, "1d 1h", id="never more than two units"),
    ],
)
def test_stretches_have_two_units(seconds: float, expected: str) -> None:
    """A length of time is short to read."""
    assert stretch(seconds) == expected


def test_the_past_is_told_in_one_unit() -> None:
    """When a key was used last, roughly."""
    assert ago(moment(NOW - 250_000), NOW) == "4m ago"


def test_what_never_was_is_left_empty() -> None:
    """A key that was never used, and a cooldown without an end."""
    assert (ago(None, NOW), left(None, NOW)) == ("", "")


def test_a_cooldown_shows_what_is_left_of_it() -> None:
    """Until its end, and that it is due afterwards."""
    ends = [moment(NOW + 250_000), moment(NOW)]

    assert [left(end, NOW) for end in ends] == ["4m 10s", "due"]


def test_stored_times_are_utc() -> None:
    """Milliseconds since 1970 become a moment with a zone."""
    assert moment(1_793_491_200_000) == datetime(2026, 11, 1, tzinfo=UTC)
