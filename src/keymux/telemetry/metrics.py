"""Prometheus metrics.

Counting is a dictionary lookup and an addition; names and labels are put together only when
somebody asks for them.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from keymux import __version__
from keymux.core.records import ExchangeRow

KEYS_NAMED_UP_TO = 200
"""Pools larger than this are counted by state only: a label for each key would be too many."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_FINE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)

Labels = tuple[str, ...]


class Gauges(Struct, frozen=True):
    """The present state of the process, read when metrics are asked for.

    Attributes:
        ready: whether it takes requests.
        running: exchanges in flight.
        leases: on upstream keys.
        tasks: of the event loop.
        outbox: entries the store does not have yet.
        dropped_log_lines: since the start.
        keys: provider and state → how many.
        backup_keys: the same for backup keys.
        key_up: provider and key id → 1 when it is in rotation.
    """

    ready: bool
    running: int
    leases: int
    tasks: int
    outbox: int
    dropped_log_lines: int
    keys: Mapping[Labels, int]
    backup_keys: Mapping[Labels, int]
    key_up: Mapping[Labels, int]
    provider_up: Mapping[Labels, int]


class _Histogram:
    """Counts of values up to each bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        so_far = 0
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        for name, count in zip(names, self.counts, strict=True):
            so_far += count
            found.append((name, float(so_far)))
        return found


class Metrics(Collector):
    """Everything that is counted, and the page that shows it.

    Args:
        gauges: gives the present state.
    """

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self._gauges = gauges
        self._requests: dict[Labels, int] = defaultdict(int)
        self._attempts: dict[Labels, int] = defaultdict(int)
        self._tokens: dict[Labels, int] = defaultdict(int)
        self._cost: dict[Labels, int] = defaultdict(int)
        self._transitions: dict[Labels, int] = defaultdict(int)
        self._turned_away: dict[Labels, int] = defaultdict(int)
        self._latency: dict[Labels, _Histogram] = defaultdict(lambda: _Histogram(_SECONDS))
        self._first: dict[Labels, _Histogram] = defaultdict(lambda: _Histogram(_SECONDS))
        self._overhead = _Histogram(_FINE_SECONDS)
        self._queue = _Histogram(_FINE_SECONDS)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    # -- what is told --------------------------------------------------------------------------
    def exchanges(self, rows: Iterable[ExchangeRow]) -> None:
        """Some exchanges are settled."""
        for row in rows:
            self._exchange(row)

    def _exchange(self, row: ExchangeRow) -> None:
        provider, model = row.provider, row.model
        self._requests[row.operation, row.format, model, provider, row.outcome] += 1
        for attempt in row.attempts:
            self._attempts[attempt.provider, attempt.outcome] += 1
            self._latency[attempt.provider,].observe(attempt.took_ms / 1000)
        if row.first_ms:
            self._first[provider, model].observe(row.first_ms / 1000)
        self._overhead.observe(row.overhead_us / 1_000_000)
        usage = row.usage
        if usage.total:
            tokens = self._tokens
            tokens[provider, model, "input"] += usage.input
            tokens[provider, model, "output"] += usage.output
            tokens[provider, model, "cache_read"] += usage.cache_read
            tokens[provider, model, "cache_write_5m"] += usage.cache_write_5m
            tokens[provider, model, "cache_write_1h"] += usage.cache_write_1h
            tokens[provider, model, "reasoning"] += usage.reasoning
        if row.cost_micros:
            self._cost[provider, model] += row.cost_micros

    def turned_away(self, wire_format: str, code: str) -> None:
        """A request was refused before its caller was known."""
        self._turned_away[wire_format, code] += 1

    def transition(self, provider: str, before: str, after: str, reason: str) -> None:
        """The health of a key or provider has changed."""
        self._transitions[provider, before, after, reason] += 1

    def queued(self, seconds: float) -> None:
        """An exchange waited for a key."""
        self._queue.observe(seconds)

    # -- what is asked -------------------------------------------------------------------------
    def page(self) -> bytes:
        """The text Prometheus reads."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything, with names and labels."""
        yield from self._counters()
        yield from self._histograms()
        yield from self._present()

    def _counters(self) -> Iterator[Metric]:
        yield _counter(
            "keymux_requests",
            "Exchanges by outcome.",
            ("route", "client_format", "model", "provider", "outcome"),
            self._requests,
        )
        yield _counter(
            "keymux_upstream_attempts",
            "Attempts by outcome.",
            ("provider", "outcome"),
            self._attempts,
        )
        yield _counter(
            "keymux_tokens", "Tokens by class.", ("provider", "model", "kind"), self._tokens
        )
        yield _counter(
            "keymux_cost_usd",
            "Cost in US dollars.",
            ("provider", "model"),
            {labels: micros / 1_000_000 for labels, micros in self._cost.items()},
        )
        yield _counter(
            "keymux_key_transitions",
            "Changes of health.",
            ("provider", "from", "to", "reason"),
            self._transitions,
        )
        yield _counter(
            "keymux_turned_away",
            "Requests refused before their caller was known.",
            ("client_format", "code"),
            self._turned_away,
        )

    def _histograms(self) -> Iterator[Metric]:
        yield _histogram(
            "keymux_upstream_latency_seconds",
            "How long attempts took.",
            ("provider",),
            self._latency.items(),
        )
        yield _histogram(
            "keymux_time_to_first_token_seconds",
            "Until the answer began.",
            ("provider", "model"),
            self._first.items(),
        )
        yield _histogram(
            "keymux_overhead_seconds",
            "Time of an exchange in which no attempt ran.",
            (),
            [((), self._overhead)],
        )
        yield _histogram(
            "keymux_queue_wait_seconds", "Waiting for an upstream key.", (), [((), self._queue)]
        )

    def _present(self) -> Iterator[Metric]:
        now = self._gauges()
        yield _gauge("keymux_build_info", "Version.", ("version",), {(__version__,): 1})
        yield _gauge("keymux_ready", "1 when requests are taken.", (), {(): int(now.ready)})
        yield _gauge("keymux_active_exchanges", "In flight.", (), {(): now.running})
        yield _gauge("keymux_leases", "Leases on upstream keys.", (), {(): now.leases})
        yield _gauge("keymux_tasks", "Tasks of the event loop.", (), {(): now.tasks})
        yield _gauge(
            "keymux_usage_outbox_depth",
            "Entries the store does not have yet.",
            (),
            {(): now.outbox},
        )
        yield _counter(
            "keymux_log_lines_dropped",
            "Log lines that nobody read in time.",
            (),
            {(): now.dropped_log_lines},
        )
        yield _gauge("keymux_keys", "Upstream keys.", ("provider", "state"), now.keys)
        yield _gauge("keymux_backup_keys", "Backup keys.", ("provider", "state"), now.backup_keys)
        yield _gauge(
            "keymux_key_up", "1 when the key is in rotation.", ("provider", "key"), now.key_up
        )
        yield _gauge(
            "keymux_provider_up", "1 when the provider is asked.", ("provider",), now.provider_up
        )


def _counter(
    name: str, text: str, names: Labels, values: Mapping[Labels, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=names)
    for labels, value in list(values.items()):
        family.add_metric(labels, value)
    return family


def _gauge(
    name: str, text: str, names: Labels, values: Mapping[Labels, float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=names)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(
    name: str, text: str, names: Labels, values: Iterable[tuple[Labels, _Histogram]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=names)
    for labels, histogram in list(values):
        family.add_metric(labels, histogram.buckets(), histogram.total)
    return family
