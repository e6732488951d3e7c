"""``/livez``, ``/readyz``, ``/health`` and ``/metrics``: pages that need no client key."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

_TEXT = b"text/plain; charset=utf-8"
_METRICS = b"text/plain; version=1.0.0; charset=utf-8; escaping=underscores"

Page = Callable[[], tuple[int, bytes, bytes]]


class Readiness:
    """Whether this process takes requests.

    Attributes:
        is_ready: False before everything is loaded and again once it drains.
    """

    def __init__(self) -> None:
        self.is_ready = False


def pages(readiness: Readiness, metrics: Callable[[], bytes]) -> Mapping[bytes, Page]:
    """The pages by path."""

    def alive() -> tuple[int, bytes, bytes]:
        return 200, _TEXT, b"ok\n"

    def ready() -> tuple[int, bytes, bytes]:
        return (200, _TEXT, b"ready\n") if readiness.is_ready else (503, _TEXT, b"not ready\n")

    def measured() -> tuple[int, bytes, bytes]:
        return 200, _METRICS, metrics()

    return MappingProxyType(
        {b"/livez": alive, b"/readyz": ready, b"/health": ready, b"/metrics": measured}
    )
