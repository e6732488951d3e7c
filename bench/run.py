"""``make bench``: measure keymux against nginx and LiteLLM in one run, and print a table."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType

import alone
import comparing
import peers
import report
import tools
from processes import CannotMeasure, Cores, two_cores
from report import Line, Report
from rich.console import Console
from rigs import floor, gateway, upstream, yard_in
from stage import Compared, Stage

LONGEST_S = 900
WIDTH = 140
RESULT = tools.BUILD / "result.json"

AGAINST: Mapping[str, Callable[[Stage, Compared], Iterator[Line]]] = {
    "exchanges": comparing.exchanges,
    "latency": comparing.latency,
    "events": comparing.events,
    "mongodb": comparing.mongodb,
    "egress": comparing.egress,
    "litellm": comparing.litellm,
}
ALONE: Mapping[str, Callable[[Stage], Iterator[Line]]] = {
    "memory": alone.memory,
    "ready": alone.ready,
    "bound": alone.bound,
    "selection": alone.selection,
}


class Run:
    """The parts of a run, one after the other; one that fails does not stop the others.

    Args:
        chosen: names of the parts.
        console: where progress is shown.
    """

    def __init__(self, chosen: set[str], console: Console) -> None:
        self.lines: list[Line] = []
        self.problems: list[str] = []
        self._chosen = chosen
        self._console = console
        self._status = console.status("starting")

    def say(self, words: str) -> None:
        """Show what is measured now."""
        self._status.update(words)

    def carry_out(self, stage: Stage) -> None:
        """Measure everything that was chosen."""
        with self._status:
            if self._chosen & set(AGAINST):
                with self._caught("nginx and keymux"), _side_by_side(stage) as compared:
                    for name, part in AGAINST.items():
                        self._take(name, partial(part, stage, compared))
            for name, lonely in ALONE.items():
                self._take(name, partial(lonely, stage))

    def _take(self, name: str, part: Callable[[], Iterable[Line]]) -> None:
        if name not in self._chosen:
            return
        begin = monotonic()
        with self._caught(name):
            for line in part():
                self.lines.append(line)
                self._console.print(f"[dim]{line.what}: {line.keymux}[/dim]", highlight=False)
        self._console.print(f"{name}: {monotonic() - begin:.0f} s", highlight=False)

    @contextmanager
    def _caught(self, name: str) -> Iterator[None]:
        try:
            yield
        except (CannotMeasure, OSError, subprocess.SubprocessError) as problem:
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            self.problems.append(f"{name}: " + " ... ".join(dict.fromkeys((lines[0], lines[-1]))))
            self._console.print(f"{name}: {problem}", style="red", highlight=False, markup=False)


@contextmanager
def _side_by_side(stage: Stage) -> Iterator[Compared]:
    """Both nginx and keymux in front of the same upstream."""
    events, gap_ms = comparing.EVENTS, comparing.GAP_MS
    with (
        upstream(stage.yard, "upstream", events=events, gap_ms=gap_ms) as behind,
        floor(stage.yard, behind) as nginx,
        gateway(stage.yard, "compared", comparing.targets(behind)) as keymux,
    ):
        yield Compared(behind, nginx, keymux)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for everything a run writes; it goes with the run."""
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=tools.BUILD))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _machine() -> str:
    """The class of this machine, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"a machine with {os.cpu_count()} cores and {memory:.0f} GiB"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = [*AGAINST, *ALONE]
    parser.add_argument("--no-peers", action="store_true", help="leave LiteLLM out")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="only these parts")
    parser.add_argument("--install", action="store_true", help="install missing Debian packages")
    return parser.parse_args()


def _provide_tools(console: Console, *, install: bool) -> None:
    packages = tools.missing()
    if packages and install and tools.can_install():
        console.print(f"installing {' '.join(packages)}")
        tools.install(packages)
        packages = tools.missing()
    if packages:
        offer = ", or add --install" if tools.can_install() else ""
        names = " ".join(packages)
        raise CannotMeasure(f"something is missing; on Debian: apt-get install {names}{offer}")
    tools.build()


def _chosen(given: argparse.Namespace, console: Console) -> set[str]:
    chosen = set(given.only)
    if given.no_peers:
        chosen.discard("litellm")
    elif "litellm" in chosen and not peers.is_installed():
        with console.status(f"installing LiteLLM {peers.LITELLM} into {peers.PEERS.name}, once"):
            peers.install()
    return chosen


def _end(signal_number: int, _frame: FrameType | None) -> None:
    """End now; everything that was started is stopped on the way out."""
    what = signal.Signals(signal_number)
    raise KeyboardInterrupt(f"{LONGEST_S} s are over" if what is signal.SIGALRM else what.name)


def _measure(given: argparse.Namespace, console: Console) -> Report:
    _provide_tools(console, install=given.install)
    cores: Cores = two_cores()
    run = Run(_chosen(given, console), console)
    os.sched_setaffinity(0, {cores.load})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _end)
    signal.alarm(LONGEST_S)
    with _folder() as folder:
        stage = Stage(yard_in(folder, cores), given.rounds, run.say)
        run.carry_out(stage)
    signal.alarm(0)
    if "litellm" in given.only and given.no_peers:
        run.lines.append(Line("against LiteLLM", "not measured", target=">= 60x"))
    return Report(_machine(), run.lines, run.problems)


def main() -> int:
    """Measure, show, write down; 1 when something could not be measured."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    begin = monotonic()
    try:
        found = _measure(_arguments(), console)
    except CannotMeasure as problem:
        console.print(str(problem), style="red", highlight=False, markup=False)
        return 1
    except KeyboardInterrupt as reason:
        console.print(f"ended before its time: {reason}", highlight=False)
        return 130
    report.show(found, console)
    report.write(found, RESULT)
    console.print(f"took {monotonic() - begin:.0f} s; as JSON in {RESULT.relative_to(Path.cwd())}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
