"""Prometheus metrics.

Counting is a dictionary lookup and an addition; names and labels are put together only when
somebody asks for them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
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
from keymux.telemetry.siblings import Siblings
from keymux.telemetry.tally import Histogram, Labels, Now, Snapshot, Tally

KEYS_NAMED_UP_TO = 200
"""Pools larger than this are counted by state only: a label for each key would be too many."""

_CPU = "process_cpu_seconds"
_OF_ONE = frozenset({"process_start_time_seconds", "process_max_fds"})


class Standing(Struct, frozen=True):
    """How pools are doing, which all workers know alike.

    Attributes:
        keys: provider and state → how many.
        backup_keys: the same for backup keys.
        key_up: provider and key id → 1 when it is in rotation.
        provider_up: provider → 1 when it is asked.
        proxies: proxy and provider → 1 when keys may leave by it, and the seconds of its last good
            check.
    """

    keys: Mapping[Labels, int]
    backup_keys: Mapping[Labels, int]
    key_up: Mapping[Labels, int]
    provider_up: Mapping[Labels, int]
    proxies: Mapping[Labels, tuple[int, float | None]] = {}


class Gauges(Struct, frozen=True):
    """The present state of the process.

    Attributes:
        ready: whether it takes requests.
        running: exchanges in flight.
        leases: on upstream keys.
        tasks: of the event loop.
        outbox: entries the store does not have yet.
        dropped_log_lines: since the start.
        standing: looks at the pools, which takes longer.
    """

    ready: bool
    running: int
    leases: int
    tasks: int
    outbox: int
    dropped_log_lines: int
    standing: Callable[[], Standing]


class Metrics(Collector):
    """Everything that is counted, and the page that shows it.

    Args:
        gauges: gives the present state, at once.
        siblings: where the workers of this host meet; None for a worker without any.
    """

    def __init__(self, gauges: Callable[[], Gauges], siblings: Siblings | None = None) -> None:
        self._gauges = gauges
        self._siblings = siblings
        self._name = siblings.name() if siblings else ""
        self._tally = Tally()
        self._process = ProcessCollector(registry=None)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    # -- what is told --------------------------------------------------------------------------
    def exchanges(self, rows: Iterable[ExchangeRow]) -> None:
        """Some exchanges are settled."""
        for row in rows:
            self._exchange(row)

    def _exchange(self, row: ExchangeRow) -> None:
        provider, model, tally = row.provider, row.model, self._tally
        tally.requests[row.operation, row.format, model, provider, row.outcome] += 1
        for attempt in row.attempts:
            tally.attempts[attempt.provider, attempt.egress, attempt.outcome] += 1
            tally.latency[attempt.provider,].observe(attempt.took_ms / 1000)
        if row.first_ms:
            tally.first[provider, model].observe(row.first_ms / 1000)
        tally.overhead.observe(row.overhead_us / 1_000_000)
        usage = row.usage
        if usage.total:
            tokens = tally.tokens
            tokens[provider, model, "input"] += usage.input
            tokens[provider, model, "output"] += usage.output
            tokens[provider, model, "cache_read"] += usage.cache_read
            tokens[provider, model, "cache_write_5m"] += usage.cache_write_5m
            tokens[provider, model, "cache_write_1h"] += usage.cache_write_1h
            tokens[provider, model, "reasoning"] += usage.reasoning
        if row.cost_micros:
            tally.cost[provider, model] += row.cost_micros

    def turned_away(self, wire_format: str, code: str) -> None:
        """A request was refused before its caller was known."""
        self._tally.turned_away[wire_format, code] += 1

    def transition(self, provider: str, before: str, after: str, reason: str) -> None:
        """The health of a key or provider has changed."""
        self._tally.transitions[provider, before, after, reason] += 1

    def egress_failed(self, proxy: str, provider: str) -> None:
        """A check of a proxy, or an attempt through it, did not reach the provider."""
        self._tally.egress_failures[proxy, provider] += 1

    def queued(self, seconds: float) -> None:
        """An exchange waited for a key."""
        self._tally.queue.observe(seconds)

    # -- what is shared ------------------------------------------------------------------------
    @property
    def is_shared(self) -> bool:
        """Whether there are other workers."""
        return self._siblings is not None

    def publish(self) -> Callable[[], None]:
        """The figures as they are now; call the result, wherever that may block, to share them."""
        content = msgspec.msgpack.encode(self._snapshot())
        siblings, name = self._siblings, self._name
        return lambda: siblings.publish(name, content) if siblings else None

    def _snapshot(self) -> Snapshot:
        gauges = self._gauges()
        families = list(self._process.collect())
        process = {family.name: family.samples[0].value for family in families if family.samples}
        tally = self._tally
        tally.dropped_log_lines = gauges.dropped_log_lines
        tally.cpu_s = process.pop(_CPU, 0.0)
        now = Now(
            ready=int(gauges.ready),
            running=gauges.running,
            leases=gauges.leases,
            tasks=gauges.tasks,
            outbox=gauges.outbox,
            process=process,
        )
        return Snapshot(tally, now)

    # -- what is asked -------------------------------------------------------------------------
    def page(self) -> bytes:
        """The text Prometheus reads."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything, with names and labels; of all workers of this host, if there are others.

        What all of them know alike, such as the states of keys, is told as this one knows it.
        """
        if self._siblings is None:
            snapshot, workers = self._snapshot(), 1
        else:
            snapshot, workers = self._siblings.all_together()
        yield from _counters(snapshot.tally)
        yield from _histograms(snapshot.tally)
        yield from _present(snapshot.now, workers)
        yield from self._known()
        yield from self._processes(snapshot)

    def _known(self) -> Iterator[Metric]:
        now = self._gauges().standing()
        yield _gauge("keymux_build_info", "Version.", ("version",), {(__version__,): 1})
        yield _gauge("keymux_keys", "Upstream keys.", ("provider", "state"), now.keys)
        yield _gauge("keymux_backup_keys", "Backup keys.", ("provider", "state"), now.backup_keys)
        yield _gauge(
            "keymux_key_up", "1 when the key is in rotation.", ("provider", "key"), now.key_up
        )
        yield _gauge(
            "keymux_provider_up", "1 when the provider is asked.", ("provider",), now.provider_up
        )
        yield _gauge(
            "keymux_proxy_up",
            "1 when keys may leave by the proxy.",
            ("proxy", "provider"),
            {labels: up for labels, (up, _) in now.proxies.items()},
        )
        yield _gauge(
            "keymux_proxy_latency_seconds",
            "Of the last check that reached the provider, until TLS was set up.",
            ("proxy", "provider"),
            {labels: seconds for labels, (_, seconds) in now.proxies.items() if seconds},
        )

    def _processes(self, snapshot: Snapshot) -> Iterator[Metric]:
        """Memory, files and time of the processor, under the names that are usual."""
        for family in self._process.collect():
            if family.name == _CPU:
                yield _counter(_CPU, family.documentation, (), {(): snapshot.tally.cpu_s})
            elif family.name in _OF_ONE:
                yield family
            else:
                value = snapshot.now.process.get(family.name, 0.0)
                yield _gauge(family.name, family.documentation, (), {(): value})


def _counters(tally: Tally) -> Iterator[Metric]:
    yield _counter(
        "keymux_requests",
        "Exchanges by outcome.",
        ("route", "client_format", "model", "provider", "outcome"),
        tally.requests,
    )
    yield _counter(
        "keymux_upstream_attempts",
        "Attempts by outcome.",
        ("provider", "egress", "outcome"),
        tally.attempts,
    )
    yield _counter("keymux_tokens", "Tokens by class.", ("provider", "model", "kind"), tally.tokens)
    yield _counter(
        "keymux_cost_usd",
        "Cost in US dollars.",
        ("provider", "model"),
        {labels: micros / 1_000_000 for labels, micros in tally.cost.items()},
    )
    yield _counter(
        "keymux_key_transitions",
        "Changes of health.",
        ("provider", "from", "to", "reason"),
        tally.transitions,
    )
    yield _counter(
        "keymux_proxy_failures",
        "Checks and attempts that did not get through the proxy.",
        ("proxy", "provider"),
        tally.egress_failures,
    )
    yield _counter(
        "keymux_turned_away",
        "Requests refused before their caller was known.",
        ("client_format", "code"),
        tally.turned_away,
    )
    yield _counter(
        "keymux_log_lines_dropped",
        "Log lines that nobody read in time.",
        (),
        {(): tally.dropped_log_lines},
    )


def _histograms(tally: Tally) -> Iterator[Metric]:
    yield _histogram(
        "keymux_upstream_latency_seconds",
        "How long attempts took.",
        ("provider",),
        tally.latency.items(),
    )
    yield _histogram(
        "keymux_time_to_first_token_seconds",
        "Until the answer began.",
        ("provider", "model"),
        tally.first.items(),
    )
    yield _histogram(
        "keymux_overhead_seconds",
        "Time of an exchange in which no attempt ran.",
        (),
        [((), tally.overhead)],
    )
    yield _histogram(
        "keymux_queue_wait_seconds", "Waiting for an upstream key.", (), [((), tally.queue)]
    )


def _present(now: Now, workers: int) -> Iterator[Metric]:
    is_ready = int(workers == now.ready > 0)
    yield _gauge("keymux_workers", "Processes that serve.", (), {(): workers})
    yield _gauge("keymux_ready", "1 when requests are taken.", (), {(): is_ready})
    yield _gauge("keymux_active_exchanges", "In flight.", (), {(): now.running})
    yield _gauge("keymux_leases", "Leases on upstream keys.", (), {(): now.leases})
    yield _gauge("keymux_tasks", "Tasks of the event loop.", (), {(): now.tasks})
    yield _gauge(
        "keymux_usage_outbox_depth",
        "Entries the store does not have yet.",
        (),
        {(): now.outbox},
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
    name: str, text: str, names: Labels, values: Iterable[tuple[Labels, Histogram]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=names)
    for labels, histogram in list(values):
        family.add_metric(labels, histogram.buckets(), histogram.total)
    return family
