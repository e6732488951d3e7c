"""The figures of one process: what was counted since its start, and how it is now."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
FINE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)

Labels = tuple[str, ...]
Counts = dict[Labels, int]


class Histogram(Struct):
    """Counts of values up to each bound.

    Attributes:
        bounds: upper ends, rising.
        counts: one more than bounds; the last is for what is above all of them.
        total: sum of the values.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> "Histogram":
        """An empty one."""
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Histogram") -> None:
        """Add what another process has observed."""
        self.counts = [ours + more for ours, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        so_far = 0
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        for name, count in zip(names, self.counts, strict=True):
            so_far += count
            found.append((name, float(so_far)))
        return found


def _counts() -> Counts:
    return defaultdict(int)


def _histograms() -> dict[Labels, Histogram]:
    return defaultdict(lambda: Histogram.of(SECONDS))


def _histogram() -> Histogram:
    return Histogram.of(FINE_SECONDS)


class Tally(Struct):
    """What was counted; it only ever grows.

    Attributes:
        requests: exchanges by route, client format, model, provider, outcome.
        attempts: by provider, egress and outcome.
        tokens: by provider, model, class.
        cost: in millionths of a dollar by provider and model.
        transitions: by provider, status before and after, reason.
        turned_away: by client format and code.
        egress_failures: by proxy and provider.
        latency: of attempts by provider.
        first: until the answer began, by provider and model.
        overhead: time of an exchange in which no attempt ran.
        queue: waits for an upstream key.
        dropped_log_lines: that nobody read in time.
        cpu_s: time of the processor.
    """

    requests: Counts = field(default_factory=_counts)
    attempts: Counts = field(default_factory=_counts)
    tokens: Counts = field(default_factory=_counts)
    cost: Counts = field(default_factory=_counts)
    transitions: Counts = field(default_factory=_counts)
    turned_away: Counts = field(default_factory=_counts)
    egress_failures: Counts = field(default_factory=_counts)
    latency: dict[Labels, Histogram] = field(default_factory=_histograms)
    first: dict[Labels, Histogram] = field(default_factory=_histograms)
    overhead: Histogram = field(default_factory=_histogram)
    queue: Histogram = field(default_factory=_histogram)
    dropped_log_lines: int = 0
    cpu_s: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add what another process has counted."""
        for name in _COUNTED:
            ours, more = getattr(self, name), getattr(other, name)
            for labels, count in more.items():
                ours[labels] = ours.get(labels, 0) + count
        for ours, more in ((self.latency, other.latency), (self.first, other.first)):
            for labels, histogram in more.items():
                ours.setdefault(labels, Histogram.of(histogram.bounds)).add(histogram)
        self.overhead.add(other.overhead)
        self.queue.add(other.queue)
        self.dropped_log_lines += other.dropped_log_lines
        self.cpu_s += other.cpu_s


_COUNTED = (
    "requests",
    "attempts",
    "tokens",
    "cost",
    "transitions",
    "turned_away",
    "egress_failures",
)


class Now(Struct, frozen=True):
    """How a process is; of several processes everything is added up.

    Attributes:
        ready: how many take requests.
        running: exchanges in flight.
        leases: on upstream keys.
        tasks: of the event loop.
        outbox: entries the store does not have yet.
        process: memory and files by the name of the metric.
    """

    ready: int = 0
    running: int = 0
    leases: int = 0
    tasks: int = 0
    outbox: int = 0
    process: dict[str, float] = {}


class Snapshot(Struct):
    """A process at one moment.

    Attributes:
        tally: what it has counted.
        now: how it is.
    """

    tally: Tally
    now: Now


def added_up(present: Iterable[Now]) -> Now:
    """Several processes as one."""
    all_of_them = list(present)
    process: dict[str, float] = {}
    for one in all_of_them:
        for name, value in one.process.items():
            process[name] = process.get(name, 0.0) + value
    return Now(
        ready=sum(one.ready for one in all_of_them),
        running=sum(one.running for one in all_of_them),
        leases=sum(one.leases for one in all_of_them),
        tasks=sum(one.tasks for one in all_of_them),
        outbox=sum(one.outbox for one in all_of_them),
        process=process,
    )
