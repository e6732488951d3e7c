"""How long an upstream asks us to stay away, however it says so."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

_DURATION = re.compile(r"(?:(\d{1,9}(?:\.\d+)?)(ms|h|m|s))")
_WHOLE_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d+)?(?:ms|h|m|s))+\Z")
_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"([0-9.hms]{1,40})"')
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_TEXT = 64
_LONGEST_S = 366 * 86_400.0

_RESETS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)

GetHeader = Callable[[str], str | None]


def told_wait(header: GetHeader, body: bytes, now: float) -> float | None:
    """The longest wait that applies, in seconds; None when nothing usable is said.

    Nobody means more than a year: that is where what is said ends.

    Args:
        header: looks a response header up by its lower-case name.
        body: of the response; Google's APIs say it there.
        now: wall clock, seconds since 1970, for dates.
    """
    waits = [wait for wait in _all_waits(header, body, now) if wait is not None]
    return min(max(waits), _LONGEST_S) if waits else None


def _all_waits(header: GetHeader, body: bytes, now: float) -> Iterator[float | None]:
    milliseconds = _number(header("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    yield _moment(header("retry-after"), now)
    for remaining, reset in _RESETS:
        if header(remaining) == "0":
            yield _moment(header(reset), now)
    if delay := _RETRY_DELAY.search(body):
        yield _duration(delay[1].decode())


def _moment(text: str | None, now: float) -> float | None:
    """A number of seconds, a duration such as ``1m30s``, or a date."""
    if not text or len(text) > _LONGEST_TEXT:
        return None
    for read in (_number, _duration):
        seconds = read(text)
        if seconds is not None:
            return seconds
    return _until(text, now)


def _number(text: str | None) -> float | None:
    if not text or len(text) > _LONGEST_TEXT:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) and value >= 0 else None


def _duration(text: str) -> float | None:
    if not _WHOLE_DURATION.match(text):
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION.findall(text))


def _until(text: str, now: float) -> float | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
            if moment.tzinfo is None:  # the oldest form of an HTTP date, always in GMT
                moment = moment.replace(tzinfo=UTC)
            return max(0.0, moment.timestamp() - now)
        except (ValueError, OverflowError, TypeError):
            continue
    return None
