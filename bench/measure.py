"""One measurement each: send a load to a subject, read what it did and what it cost."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct
from processes import LOG_TAIL, CannotMeasure, Program, pause, pinned, tool
from rigs import Subject, Yard
from tools import HERE, LOAD

CONNECTIONS = 32
TICKS = 100
GRACE_S = 30
CAUGHT_UP_S = 0.6
"""What a subject does behind the answers, such as writing a ledger, is counted as well."""


class Spread(Struct, frozen=True):
    """The middle of the rounds, and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of some values."""
        return cls(median(values), min(values), max(values))


class Sample(Struct, frozen=True):
    """What one measurement found.

    Attributes:
        count: requests or events.
        seconds: how long was counted.
        cpu_s: CPU time the subject took meanwhile.
        others: share of the subject's core that other programs took meanwhile.
        figures: percentiles, as the load wrote them.
    """

    count: int
    seconds: float
    cpu_s: float
    others: float
    figures: Mapping[str, float]

    @property
    def rate(self) -> float:
        """How many a second."""
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time for one, in microseconds."""
        return self.cpu_s / self.count * 1e6


class Window:
    """What a program, and everybody, took of a core between two moments."""

    def __init__(self, program: Program, core: int) -> None:
        self._program = program
        self._core = core
        self._at, self._own, self._all = self._look()
        self.seconds = self.cpu_s = self.others = 0.0

    def _look(self) -> tuple[float, float, float]:
        return time.monotonic(), self._program.cpu_s(), _busy_s(self._core)

    def close(self) -> None:
        """Read again; the attributes say what happened in between."""
        at, own, everybody = self._look()
        self.seconds = at - self._at
        self.cpu_s = own - self._own
        self.others = max(0.0, (everybody - self._all - self.cpu_s) / self.seconds)


def _busy_s(core: int) -> float:
    """How long a core has worked since the machine started, for anybody."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, line.split()[1:])
            return (user + nice + system + irq + softirq + steal) / TICKS
    raise CannotMeasure(f"/proc/stat knows no core {core}")


def closed_loop(yard: Yard, subject: Subject, seconds: float) -> Sample:
    """wrk: as many requests as the subject answers, on 32 connections that stay open."""
    command = [tool("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "10s"]
    command += [
        "-s",
        str(HERE / "post.lua"),
        f"http://127.0.0.1:{subject.port}/v1/chat/completions",
    ]
    window = Window(subject.program, yard.cores.tested)
    with _load(yard, subject, command) as load:
        output, _ = load.communicate(timeout=seconds + GRACE_S)
        pause(CAUGHT_UP_S)
        window.close()
        found = _read((output.splitlines() or [""])[-1])
    return _sample(subject, window, found, counted="requests")


def streams(yard: Yard, subject: Subject, *, count: int, ramp_s: float, seconds: float) -> Sample:
    """Hold streams open and count the events that arrive, and the time to each first one."""
    words = [str(count), f"{ramp_s:g}", f"{seconds:g}"]
    found, window = _own_load(yard, subject, "hold", words, lambda: None)
    if found["open"] != count:
        raise CannotMeasure(f"{subject.name}: {found['open']:.0f} of {count} streams were open")
    return _sample(subject, window, found, counted="events")


def paced(yard: Yard, subject: Subject, *, rate: float, seconds: float) -> Sample:
    """Send requests at a rate, at random moments, and see how long the answers take."""
    words = [f"{rate:.0f}", f"{seconds:g}", "256"]
    found, window = _own_load(yard, subject, "pace", words, lambda: None)
    return _sample(subject, window, found, counted="answers")


def held_memory(yard: Yard, subject: Subject, *, count: int, look: Callable[[], None]) -> None:
    """Hold streams open and look at the subject while all of them are."""
    found, _ = _own_load(yard, subject, "hold", [str(count), "4", "4"], look)
    if found["open"] != count or found["errors"]:
        raise CannotMeasure(
            f"{subject.name}: {found['open']:.0f} of {count} streams, {found['errors']:.0f} errors"
        )


def _own_load(
    yard: Yard, subject: Subject, mode: str, words: list[str], look: Callable[[], None]
) -> tuple[dict[str, float], Window]:
    command = [str(LOAD), mode, str(subject.port), *words, str(subject.body)]
    with _load(yard, subject, command) as load:
        _expect(load, "begin")
        window = Window(subject.program, yard.cores.tested)
        look()
        _expect(load, "end")
        window.close()
        found = _read(_line_of(load))
    return found, window


@contextmanager
def _load(yard: Yard, subject: Subject, command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    log = yard.folder / "load.log"
    with log.open("wb") as messages:
        load = subprocess.Popen(
            [*pinned(yard.cores.load), *command],
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            start_new_session=True,
            env={"CLIENT_KEY": subject.key, "BODY": str(subject.body)},
        )
    try:
        yield load
    except CannotMeasure as problem:
        raise CannotMeasure(f"{subject.name}: {problem}; {log.read_text()[-LOG_TAIL:]}") from None
    finally:
        load.kill()
        load.wait()


def _expect(load: "subprocess.Popen[str]", milestone: str) -> None:
    line = _line_of(load)
    if line != milestone:
        raise CannotMeasure(f"the load said {line!r} and not {milestone!r}")


def _line_of(load: "subprocess.Popen[str]") -> str:
    return load.stdout.readline().strip() if load.stdout else ""


def _read(line: str) -> dict[str, float]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        raise CannotMeasure(f"the load said {line[:200]!r} and no figures") from None
    return {name: float(value) for name, value in found.items()}


def _sample(subject: Subject, window: Window, found: dict[str, float], *, counted: str) -> Sample:
    if found["errors"] or not found[counted]:
        raise CannotMeasure(
            f"{subject.name}: {found['errors']:.0f} errors, {found[counted]:.0f} {counted}"
        )
    return Sample(
        count=round(found[counted]),
        seconds=found["seconds"],
        cpu_s=window.cpu_s,
        others=window.others,
        figures=found,
    )
