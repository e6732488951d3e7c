"""The figures of several workers, shown as those of one."""

import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keymux.telemetry.metrics import Gauges, Metrics, Standing
from keymux.telemetry.siblings import Siblings

WAIT = 0.002


class Numbered(Siblings):
    """The view of a process with a certain number."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(folder)
        self.pid = pid

    def name(self) -> str:
        """See `Siblings.name`."""
        return f"{self.pid}{super().name().removeprefix(str(os.getpid()))}"


def _worker(folder: Path, pid: int, *, ready: bool = True, waits: int = 0) -> Metrics:
    """A worker that has counted something and shown it to the others."""
    gauges = Gauges(
        ready=ready,
        running=3,
        leases=2,
        tasks=11,
        outbox=5,
        dropped_log_lines=1,
        standing=lambda: Standing({("acme", "healthy"): 2}, {}, {}, {}),
    )
    metrics = Metrics(lambda: gauges, Numbered(folder, pid))
    for _ in range(waits):
        metrics.turned_away("openai", "invalid_client_key")
        metrics.transition("acme", "healthy", "error", "500")
        metrics.queued(WAIT)
    metrics.publish()()
    return metrics


def _samples(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def test_what_workers_counted_is_added_up(tmp_path: Path) -> None:
    """Counters, times and what is in flight are sums, whichever worker is asked."""
    pages = [_samples(one) for one in [_worker(tmp_path, pid, waits=pid) for pid in (1, 2, 4)]]

    assert {page["keymux_workers"] for page in pages} == {3}
    assert {page["keymux_turned_away_total"] for page in pages} == {7}
    assert {page["keymux_key_transitions_total"] for page in pages} == {7}
    assert {page["keymux_queue_wait_seconds_count"] for page in pages} == {7}
    assert {page["keymux_queue_wait_seconds_sum"] for page in pages} == {7 * WAIT}
    assert {page["keymux_active_exchanges"] for page in pages} == {9}
    assert {page["keymux_usage_outbox_depth"] for page in pages} == {15}
    assert {page["keymux_log_lines_dropped_total"] for page in pages} == {3}


def test_what_all_know_alike_is_told_once(tmp_path: Path) -> None:
    """Two workers with the same two keys have two keys."""
    first, _ = _worker(tmp_path, 1), _worker(tmp_path, 2)

    assert _samples(first)["keymux_keys"] == 2


@pytest.mark.parametrize(
    ("others_ready", "expected"),
    [pytest.param(True, 1, id="all are"), pytest.param(False, 0, id="one is not")],
)
def test_ready_means_all(tmp_path: Path, others_ready: bool, expected: int) -> None:  # noqa: FBT001 -- a parameter
    """The gauge is 1 when every worker takes requests."""
    first, _ = _worker(tmp_path, 1), _worker(tmp_path, 2, ready=others_ready)

    assert _samples(first)["keymux_ready"] == expected


def test_only_what_was_published_is_shown(tmp_path: Path) -> None:
    """No page is ahead of another, so that no counter seems to go back."""
    first = _worker(tmp_path, 1, waits=1)
    first.turned_away("openai", "invalid_client_key")

    assert _samples(first)["keymux_turned_away_total"] == 1


def test_the_dead_are_remembered(tmp_path: Path) -> None:
    """What a dead worker counted stays; it runs nothing, and is no worker any more."""
    first, _ = _worker(tmp_path, 1, waits=1), _worker(tmp_path, 22, waits=5)
    Siblings(tmp_path).bury(22)
    page = _samples(first)

    assert page["keymux_turned_away_total"] == 6
    assert page["keymux_queue_wait_seconds_count"] == 6
    assert page["keymux_log_lines_dropped_total"] == 2
    assert page["keymux_workers"] == 1
    assert page["keymux_active_exchanges"] == 3


def test_many_dead_are_one_file(tmp_path: Path) -> None:
    """However often workers die, nothing is lost and nothing piles up."""
    first = _worker(tmp_path, 1)
    for pid in range(100, 400):
        _worker(tmp_path, pid, waits=1)
        Siblings(tmp_path).bury(pid)

    assert _samples(first)["keymux_turned_away_total"] == 300
    assert len(list(tmp_path.iterdir())) == 2


def test_the_dead_are_not_counted_twice(tmp_path: Path) -> None:
    """Between the moments at which a dead worker is remembered and its file goes, it is one."""
    first, _ = _worker(tmp_path, 1), _worker(tmp_path, 22, waits=5)
    (file,) = tmp_path.glob("22-*")
    content = file.read_bytes()
    Siblings(tmp_path).bury(22)
    file.write_bytes(content)
    both = _samples(first)["keymux_turned_away_total"]
    Siblings(tmp_path).bury(22)

    assert both == 5
    assert _samples(first)["keymux_turned_away_total"] == 5
    assert not file.exists()


def test_a_number_may_be_used_again(tmp_path: Path) -> None:
    """A new process with the number of a dead one is counted like any other."""
    first, _ = _worker(tmp_path, 1), _worker(tmp_path, 22, waits=5)
    Siblings(tmp_path).bury(22)
    _worker(tmp_path, 22, waits=2)

    assert _samples(first)["keymux_turned_away_total"] == 7
    assert _samples(first)["keymux_workers"] == 2


def test_a_worker_that_never_said_anything_can_die(tmp_path: Path) -> None:
    """There is nothing to remember of one that did not begin."""
    Siblings(tmp_path).bury(7)

    assert not list(tmp_path.iterdir())
