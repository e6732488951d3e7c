"""The metrics page: what was counted, in the words of the vocabulary."""

from prometheus_client.parser import text_string_to_metric_families

from keymux.core.records import AttemptRecord, ExchangeRow, Outcome
from keymux.core.vocabulary import Usage
from keymux.telemetry.metrics import Gauges, Metrics, Standing

GAUGES = Gauges(
    ready=True,
    running=3,
    leases=2,
    tasks=11,
    outbox=5,
    dropped_log_lines=1,
    standing=lambda: Standing(
        keys={("acme", "healthy"): 2},
        backup_keys={("acme", "unused"): 4},
        key_up={("acme", "key_1"): 1},
        provider_up={("acme",): 0},
    ),
)


def _row(outcome: Outcome = Outcome.OK, first_ms: int = 40) -> ExchangeRow:
    return ExchangeRow(
        id="req_1",
        at=0,
        caller="client_1",
        format="openai",
        operation="generate",
        asked="m",
        model="m",
        stream=False,
        outcome=outcome,
        provider="acme",
        key="key_1",
        attempts=(
            AttemptRecord("acme", "m", "key_0", outcome="key_throttled", took_ms=20),
            AttemptRecord("acme", "m", "key_1", outcome="ok", took_ms=200),
        ),
        usage=Usage(input=10, output=20, cache_read=30, reasoning=5),
        cost_micros=2_500_000,
        first_ms=first_ms,
        overhead_us=300,
    )


class Page:
    """The page of some metrics, read as Prometheus reads it."""

    def __init__(self, metrics: Metrics) -> None:
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(metrics.page().decode())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """One sample; None when it is not there."""
        return self._samples.get((f"keymux_{name}", frozenset(labels.items())))


def test_exchanges_are_counted_by_outcome() -> None:
    """Requests, attempts, tokens and cost follow from the settled rows."""
    metrics = Metrics(lambda: GAUGES)
    metrics.exchanges([_row(), _row(), _row(Outcome.FAILED, first_ms=0)])

    page = Page(metrics)
    labels = {"route": "generate", "client_format": "openai", "model": "m", "provider": "acme"}

    assert page.value("requests_total", outcome="ok", **labels) == 2
    assert page.value("requests_total", outcome="failed", **labels) == 1
    assert (
        page.value(
            "upstream_attempts_total", provider="acme", egress="direct", outcome="key_throttled"
        )
        == 3
    )
    assert page.value("tokens_total", provider="acme", model="m", kind="input") == 30
    assert page.value("tokens_total", provider="acme", model="m", kind="cache_read") == 90
    assert page.value("cost_usd_total", provider="acme", model="m") == 7.5


def test_times_are_histograms() -> None:
    """Buckets are cumulative, and sums are in seconds."""
    metrics = Metrics(lambda: GAUGES)
    metrics.exchanges([_row()])
    metrics.queued(0.002)

    page = Page(metrics)

    assert page.value("upstream_latency_seconds_bucket", provider="acme", le="0.025") == 1
    assert page.value("upstream_latency_seconds_bucket", provider="acme", le="+Inf") == 2
    assert page.value("upstream_latency_seconds_sum", provider="acme") == 0.22
    assert page.value("time_to_first_token_seconds_count", provider="acme", model="m") == 1
    assert page.value("overhead_seconds_sum") == 0.0003
    assert page.value("queue_wait_seconds_bucket", le="0.0025") == 1


def test_a_failure_has_no_first_token() -> None:
    """What never began is not part of the time to begin."""
    metrics = Metrics(lambda: GAUGES)
    metrics.exchanges([_row(Outcome.FAILED, first_ms=0)])

    count = Page(metrics).value("time_to_first_token_seconds_count", provider="acme", model="m")

    assert count is None


def test_health_and_refusals_are_counted() -> None:
    """Transitions and strangers turned away leave a trace."""
    metrics = Metrics(lambda: GAUGES)
    metrics.transition("acme", "healthy", "rate_limited", "429")
    metrics.turned_away("anthropic", "invalid_client_key")

    page = Page(metrics)
    moved = {"provider": "acme", "from": "healthy", "to": "rate_limited", "reason": "429"}
    away = {"client_format": "anthropic", "code": "invalid_client_key"}

    assert page.value("key_transitions_total", **moved) == 1
    assert page.value("turned_away_total", **away) == 1


def test_the_present_is_asked_for_when_somebody_looks() -> None:
    """Gauges are read at the time of the page."""
    page = Page(Metrics(lambda: GAUGES))

    assert page.value("ready") == 1
    assert page.value("active_exchanges") == 3
    assert page.value("leases") == 2
    assert page.value("tasks") == 11
    assert page.value("usage_outbox_depth") == 5
    assert page.value("log_lines_dropped_total") == 1
    assert page.value("keys", provider="acme", state="healthy") == 2
    assert page.value("backup_keys", provider="acme", state="unused") == 4
    assert page.value("key_up", provider="acme", key="key_1") == 1
    assert page.value("provider_up", provider="acme") == 0
