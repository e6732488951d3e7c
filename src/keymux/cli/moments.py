"""Times as operators write and read them; all of them UTC."""

import re
import time
from datetime import UTC, datetime

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_AGO = re.compile(r"(\d{1,6})([mhdw])")
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def moment(stored: int | None) -> datetime | None:
    """A stored time, for tables and JSON."""
    return None if stored is None else datetime.fromtimestamp(stored / 1000, UTC)


def read_moment(text: str, now: int) -> int:
    """A time in milliseconds since 1970, from a date or from a stretch of time before now.

    Raises:
        ValueError: it is neither, with what would be.
    """
    if ago := _AGO.fullmatch(text):
        return max(0, now - int(ago[1]) * _UNITS_MS[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "give a date such as 2026-11-01, a time such as 2026-11-01T08:00, "
            "or a stretch of time such as 90m, 24h, 7d or 4w"
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return max(0, round(found.timestamp() * 1000))


def stretch(seconds: float) -> str:
    """A length of time in its two largest units: ``4m 10s``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in _STEPS:
        amount, left = divmod(left, size)
        if amount or parts:
            parts.append(f"{amount}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0")) or "0s"


def ago(stored: object, now: int) -> str:
    """How long ago a time was, in its largest unit; nothing if it never was."""
    if not isinstance(stored, datetime):
        return ""
    return stretch(now / 1000 - stored.timestamp()).partition(" ")[0] + " ago"


def left(until: object, now: int) -> str:
    """How long it is until a cooldown ends; ``due`` when it is over, nothing if it has no end."""
    if not isinstance(until, datetime):
        return ""
    seconds = until.timestamp() - now / 1000
    return stretch(seconds) if seconds > 0 else "due"
