"""Pages for monitors."""

from keymux.ingress.operations import Readiness, pages


def test_readiness_changes_and_life_does_not() -> None:
    """A process that starts or drains is alive, but not ready."""
    readiness = Readiness()
    found = pages(readiness, lambda: b"")
    before = [found[path]()[0] for path in (b"/livez", b"/readyz", b"/health")]
    readiness.is_ready = True
    after = [found[path]()[0] for path in (b"/livez", b"/readyz", b"/health")]

    assert before == [200, 503, 503]
    assert after == [200, 200, 200]


def test_metrics_are_made_when_they_are_asked_for() -> None:
    """Not before."""
    asked: list[int] = []

    def page() -> bytes:
        asked.append(1)
        return b"some"

    found = pages(Readiness(), page)
    before = len(asked)
    status, content_type, body = found[b"/metrics"]()

    assert before == 0
    assert (status, body) == (200, b"some")
    assert content_type.startswith(b"text/plain; version=")
