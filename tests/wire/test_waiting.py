"""How long an upstream asks us to stay away."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.wire.waiting import told_wait

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC).timestamp()
A_YEAR = 366 * 86_400.0


def wait(headers: dict[str, str], body: bytes = b"") -> float | None:
    """What some headers and a body ask for."""
    return told_wait(headers.get, body, NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("7", 7.0, id="seconds"),
        pytest.param("0", 0.0, id="at once"),
        pytest.param("1.5", 1.5, id="parts of a second"),
        pytest.param(" 7 ", 7.0, id="with spaces"),
        pytest.param("7s", 7.0, id="with a unit"),
        pytest.param("1m30s", 90.0, id="minutes and seconds"),
        pytest.param("1h0m0.5s", 3600.5, id="hours"),
        pytest.param("250ms", 0.25, id="milliseconds"),
        pytest.param("Fri, 20 Nov 2026 12:01:00 GMT", 60.0, id="a date"),
        pytest.param("Friday, 20-Nov-26 12:01:00 GMT", 60.0, id="a date of old"),
        pytest.param("Fri Nov 20 12:01:00 2026", 60.0, id="a date of very old"),
        pytest.param("2026-11-20T12:01:00Z", 60.0, id="a date as the Internet writes it"),
        pytest.param("2026-11-20T14:01:00+02:00", 60.0, id="a date elsewhere"),
        pytest.param("Fri, 20 Nov 2026 11:00:00 GMT", 0.0, id="a date that is over"),
        pytest.param("315360000", A_YEAR, id="ten years"),
        pytest.param("1e308", A_YEAR, id="longer than the world"),
        pytest.param("Fri, 20 Nov 9999 12:00:00 GMT", A_YEAR, id="a date far away"),
        pytest.param("-1", None, id="negative"),
        pytest.param("-1s", None, id="negative with a unit"),
        pytest.param("nan", None, id="what is no number"),
        pytest.param("inf", None, id="without end"),
        pytest.param("", None, id="nothing"),
        pytest.param("soon", None, id="a word"),
        pytest.param("5 minutes", None, id="words"),
        pytest.param("9" * 5_000_000, None, id="five megabytes of digits"),
        pytest.param("9" * 64, A_YEAR, id="as many digits as are read"),
        pytest.param("1m30", None, id="half a duration"),
        pytest.param("Fri, 99 Nov 2026 12:01:00 GMT", None, id="a day that is none"),
        pytest.param("Fri, 20 Nov 2026 12:01:00 +99999999", None, id="a zone that is none"),
    ],
)
def test_the_header_that_everybody_knows(value: str, expected: float | None) -> None:
    """Seconds, durations and dates; what makes no sense is not said."""
    assert wait({"retry-after": value}) == expected


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        pytest.param({}, b"", None, id="nothing is said"),
        pytest.param({"retry-after-ms": "2500"}, b"", 2.5, id="milliseconds"),
        pytest.param({"retry-after-ms": "x"}, b"", None, id="milliseconds that are none"),
        pytest.param({"retry-after-ms": "9" * 65}, b"", None, id="too many digits"),
        pytest.param(
            {"retry-after-ms": "2500", "retry-after": "2"}, b"", 2.5, id="the longer of the two"
        ),
        pytest.param(
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"},
            b"",
            360.0,
            id="a limit of requests that is used up",
        ),
        pytest.param(
            {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "6m0s"},
            b"",
            None,
            id="a limit that is not used up",
        ),
        pytest.param(
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"},
            b"",
            0.02,
            id="a limit of tokens",
        ),
        pytest.param(
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-20T12:00:30Z",
            },
            b"",
            30.0,
            id="the other format's limit of requests",
        ),
        pytest.param(
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-11-20T12:00:40Z",
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-20T12:00:50Z",
                "anthropic-ratelimit-output-tokens-remaining": "9",
                "anthropic-ratelimit-output-tokens-reset": "2026-11-20T13:00:00Z",
            },
            b"",
            50.0,
            id="the latest of those that are used up",
        ),
        pytest.param(
            {
                "anthropic-ratelimit-output-tokens-remaining": "0",
                "anthropic-ratelimit-output-tokens-reset": "2026-11-20T12:00:10Z",
                "retry-after": "4",
            },
            b"",
            10.0,
            id="a limit of output",
        ),
        pytest.param(
            {},
            b'{"error":{"details":[{"retryDelay": "36615.7s"}]}}',
            36_615.7,
            id="a delay in the body",
        ),
        pytest.param({}, b'{"retryDelay":"10h17m5.7s"}', 37_025.7, id="a long delay in the body"),
        pytest.param({}, b'{"retryDelay":"hms"}', None, id="a delay that is none"),
        pytest.param({"retry-after": "50"}, b'{"retryDelay":"5s"}', 50.0, id="the longest of all"),
    ],
)
def test_the_longest_wait_that_applies_counts(
    headers: dict[str, str], body: bytes, expected: float | None
) -> None:
    """Whoever comes back too early is sent away again, for longer."""
    assert wait(headers, body) == (None if expected is None else pytest.approx(expected))


values = st.one_of(
    st.text(max_size=70),
    st.from_regex(r"[0-9hms.:TZeE+\- ,A-Za-z]{0,40}", fullmatch=True),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.floats().map(str),
)


@given(values, values, st.binary(max_size=60), st.floats(0, 4e9))
def test_whatever_is_said_the_wait_is_sound(one: str, other: str, noise: bytes, now: float) -> None:
    """Nothing, or seconds from none to a year; no header makes it fail."""
    headers = {
        "retry-after": one,
        "retry-after-ms": other,
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": other,
    }
    found = told_wait(headers.get, b'"retryDelay":"' + noise + b'"', now)

    assert found is None or 0 <= found <= A_YEAR
