"""What is measured of keymux by itself: memory, the start, and the choice of a key."""

import json
import subprocess
from collections.abc import Iterator

import measure
import payload
from measure import Spread
from processes import CannotMeasure, pause, pinned
from report import Line, at_most, middle
from rigs import PYTHON, Gateway, Load, Subject, Target, gateway, upstream
from stage import Stage
from tools import HERE

HELD, GAP_MS, LASTS = 1000, 1000, 60
MANY_KEYS, MANY_PROXIES, FIRST_PORT = 10_000, 1_000, 20_000
CHECKING_S = 5
MODEL = "held"
KIBI = 1024


def memory(stage: Stage) -> Iterator[Line]:
    """Resident memory right after the start, and for each open stream from a TLS upstream."""
    with upstream(stage.yard, "slow", events=LASTS, gap_ms=GAP_MS) as behind:
        for http2, kind in ((False, "HTTP/1.1"), (True, "HTTP/2")):
            target = Target(behind.tls, tls=True, http2=http2)
            name = "held-http2" if http2 else "held-http1"
            with gateway(stage.yard, name, {MODEL: target}) as keymux:
                if not http2:
                    yield _idle(keymux)
                stage.say(f"{HELD:,} open streams, {kind}")
                yield _per_stream(stage, keymux, kind)


def _idle(keymux: Gateway) -> Line:
    sizes = keymux.program.rss_mib()
    line = Line(
        "memory after the start",
        " + ".join(f"{size:.0f}" for size in sizes) + " MiB",
        figures={"largest": max(sizes), "sum": sum(sizes)},
    )
    return at_most(line, max(sizes), 90, " MiB each")


def _per_stream(stage: Stage, keymux: Gateway, kind: str) -> Line:
    body = payload.written(stage.yard.folder, MODEL, stream=True)
    subject = Subject(f"keymux {kind}", keymux.program, keymux.port, body)
    measure.streams(stage.yard, subject, count=1, ramp_s=0.2, seconds=1.5)
    before = sum(keymux.program.rss_mib())
    sizes: list[float] = []

    def look() -> None:
        pause(2)
        sizes.append(sum(keymux.program.rss_mib()))

    measure.held_memory(stage.yard, subject, count=HELD, look=look)
    each = (sizes[0] - before) * KIBI / HELD
    line = Line(f"memory for one stream, TLS {kind}", f"{each:.0f} KiB", figures={"each": each})
    return at_most(line, each, 96, " KiB")


def ready(stage: Stage) -> Iterator[Line]:
    """Time from the start of the program until it takes requests, with many keys."""
    yield from _ready(stage, "ready", Target(1), Load(MANY_KEYS))


def bound(stage: Stage) -> Iterator[Line]:
    """The same with every key bound to one of many proxies, none of which is there."""
    ports = range(FIRST_PORT, FIRST_PORT + MANY_PROXIES)
    yield from _ready(stage, "bound", Target(1, tls=True), Load(MANY_KEYS, ports))


def _ready(stage: Stage, name: str, target: Target, load: Load) -> Iterator[Line]:
    what = f"{load.keys:,} keys"
    if load.proxies:
        what += f", {len(load.proxies):,} proxies"
    times, sizes = [], []
    for number in range(1, stage.rounds + 1):
        stage.say(f"start with {what}, round {number} of {stage.rounds}")
        with gateway(stage.yard, f"{name}-{number}", {MODEL: target}, load=load) as keymux:
            times.append(keymux.ready_s)
            if load.proxies:
                pause(CHECKING_S)
            sizes.append(max(keymux.program.rss_mib()))
    took = Spread.of(times)
    line = Line(
        f"ready with {what}",
        middle(took, ".2f", " s"),
        compared=f"{took.low:.2f}..{took.high:.2f}, then {max(sizes):.0f} MiB",
        figures={"seconds": took, "largest_mib": max(sizes)},
    )
    yield at_most(line, took.median, 3 if load.proxies else 2, " s")


def selection(stage: Stage) -> Iterator[Line]:
    """What a choice costs among few keys and among many."""
    stage.say("choice of a key")
    script = [str(PYTHON), str(HERE / "selection.py"), "15"]
    command = [*pinned(stage.yard.cores.tested), *script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if ended.returncode:
        raise CannotMeasure(f"choice of a key: {ended.stderr[-1000:]}")
    found: dict[str, dict[str, float]] = json.loads(ended.stdout)
    for kind, figures in found.items():
        more = 100 * (figures["growth"] - 1)
        line = Line(
            f"choice among 50,000 keys, {kind}",
            f"{figures['many']:,.0f} ns",
            compared=f"{more:+.0f} % to 10 keys",
            figures={**figures},
        )
        yield at_most(line, more, 10, " %")
