"""What is compared with nginx and with LiteLLM in the same run, on the same core."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence

import measure
import payload
import peers
import rigs
from measure import CONNECTIONS, Sample, Spread
from msgspec import Struct
from processes import pause
from report import Line, at_least, at_most, middle, spread
from rigs import Gateway, Subject, Target, Upstream
from stage import Compared, Round, Stage, added, of_floor, of_subject, others, ratio, rounds

PLAIN, HTTP1, HTTP2 = "plain", "tls_http1", "tls_http2"
STREAMS, RAMP_S, EVENTS, GAP_MS = 200, 2.0, 100, 20
CAUGHT_UP_S = 10.0
STORE_RATE = 1_000

Figure = Callable[[Sample], float]


def targets(behind: Upstream) -> dict[str, Target]:
    """The gateway's providers: the upstream without TLS, with TLS, and with HTTP/2 in it."""
    return {
        PLAIN: Target(behind.plain),
        HTTP1: Target(behind.tls, tls=True),
        HTTP2: Target(behind.tls, tls=True, http2=True),
    }


def _keymux(stage: Stage, compared: Compared, model: str, *, stream: bool = False) -> Subject:
    body = payload.written(stage.yard.folder, model, stream=stream)
    name = "keymux" if model == PLAIN else f"keymux {model}"
    return Subject(name, compared.gateway.program, compared.gateway.port, body)


def _nginx(stage: Stage, compared: Compared, port: int, *, stream: bool = False) -> Subject:
    body = payload.written(stage.yard.folder, PLAIN, stream=stream)
    return Subject("nginx", compared.floor.program, port, body)


def _cpu(sample: Sample) -> float:
    return sample.cpu_us


def _rate(sample: Sample) -> float:
    return sample.rate


def _figure(name: str) -> Figure:
    return lambda sample: sample.figures[name]


class Comparison(Struct, frozen=True):
    """A line, and the values that its target may be about."""

    line: Line
    keymux: float
    compared: float


def _divided(what: str, found: Sequence[Round], index: int, figure: Figure) -> Comparison:
    """A figure of a subject and of the floor, and their ratio."""
    form, unit = (".1f", " us") if figure is _cpu else (",.0f", "")
    keymux, nginx = of_subject(found, index, figure), of_floor(found, figure)
    compared = ratio(found, index, figure)
    line = Line(
        what,
        middle(keymux, form, unit),
        middle(nginx, form, unit),
        compared=spread(compared, ".2f", "x"),
        others=others(found),
        figures={"keymux": keymux, "nginx": nginx, "ratio": compared},
    )
    return Comparison(line, keymux.median, compared.median)


def _added(what: str, found: Sequence[Round], index: int, name: str) -> Comparison:
    """A percentile of a subject and of the floor, and their difference."""
    figure = _figure(name)
    keymux, nginx = of_subject(found, index, figure), of_floor(found, figure)
    more = added(found, index, figure)
    line = Line(
        what,
        middle(keymux, ".2f", " ms"),
        middle(nginx, ".2f", " ms"),
        compared=spread(more, "+.2f", " ms"),
        others=others(found),
        figures={"keymux": keymux, "nginx": nginx, "added": more},
    )
    return Comparison(line, keymux.median, more.median)


# -- plain answers -----------------------------------------------------------------------------
def exchanges(stage: Stage, compared: Compared) -> Iterator[Line]:
    """CPU of a plain exchange, requests a second, and whether all of them are in the ledger."""
    keymux = _keymux(stage, compared, PLAIN)
    nginx = _nginx(stage, compared, compared.floor.plain)

    def take(subject: Subject) -> Sample:
        return measure.closed_loop(stage.yard, subject, 2)

    warm = [take(subject) for subject in (nginx, keymux)]
    found = rounds(stage, "plain answers", take, nginx, [keymux])
    cost = _divided("CPU for one exchange", found, 0, _cpu)
    yield at_most(cost.line, cost.compared, 8, "x")
    speed = _divided("requests a second", found, 0, _rate)
    yield speed.line
    stage.capacity = speed.keymux
    answered = warm[1].count + sum(one.subjects[0].count for one in found)
    yield _booked(compared.gateway, answered, most=answered + CONNECTIONS * (len(found) + 1))


def _booked(gateway: Gateway, answered: int, *, most: int) -> Line:
    """Whether the ledger has every answer; the last ones of a load may not be waited for."""
    rows = 0
    for _ in range(round(CAUGHT_UP_S / 0.25)):
        before, rows = rows, _rows(gateway)
        if rows >= answered and rows == before:
            break
        pause(0.25)
    return Line(
        "ledger rows for them",
        f"{rows:,}",
        compared=f"of {answered:,}",
        target="all, once",
        met=answered <= rows <= most,
        figures={"rows": rows, "answered": answered},
    )


def _rows(gateway: Gateway) -> int:
    with sqlite3.connect(f"file:{gateway.database}?mode=ro", uri=True) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM exchanges").fetchone()
    connection.close()
    return int(rows)


# -- streams -----------------------------------------------------------------------------------
def events(stage: Stage, compared: Compared) -> Iterator[Line]:
    """CPU of a relayed event and the time to the first one, without and with TLS upstream."""
    floor, what = compared.floor, f"{STREAMS} streams"
    plain = [_keymux(stage, compared, PLAIN, stream=True)]
    nginx = _nginx(stage, compared, floor.stream, stream=True)

    def take(subject: Subject) -> Sample:
        return measure.streams(stage.yard, subject, count=STREAMS, ramp_s=RAMP_S, seconds=3)

    found = rounds(stage, what, take, nginx, plain)
    cost = _divided("CPU for one event", found, 0, _cpu)
    yield at_most(cost.line, cost.compared, 2.7, "x")
    yield _first_event("first event p99", found, 0)

    secure = [_keymux(stage, compared, model, stream=True) for model in (HTTP1, HTTP2)]
    nginx = _nginx(stage, compared, floor.tls, stream=True)
    found = rounds(stage, f"{what}, TLS", take, nginx, secure)
    for index, kind in enumerate(("HTTP/1.1", "HTTP/2")):
        cost = _divided(f"CPU for one event, TLS {kind}", found, index, _cpu)
        yield at_most(cost.line, cost.keymux, 60, " us")
        yield _first_event(f"first event p99, TLS {kind}", found, index)


def _first_event(what: str, found: Sequence[Round], index: int) -> Line:
    more = _added(what, found, index, "first_p99_ms")
    return at_most(more.line, more.compared, 5, " ms")


# -- latency -----------------------------------------------------------------------------------
def latency(stage: Stage, compared: Compared) -> Iterator[Line]:
    """What is added to an answer's latency at half of keymux's own capacity."""
    keymux = _keymux(stage, compared, PLAIN)
    capacity = stage.capacity or measure.closed_loop(stage.yard, keymux, 2).rate
    rate = capacity / 2

    def take(subject: Subject) -> Sample:
        return measure.paced(stage.yard, subject, rate=rate, seconds=3)

    nginx = _nginx(stage, compared, compared.floor.plain)
    found = rounds(stage, f"{rate:,.0f} requests a second", take, nginx, [keymux])
    for name, limit in (("p50", 1.0), ("p99", 5.0)):
        more = _added(f"latency {name} at {rate:,.0f}/s", found, 0, f"{name}_ms")
        yield at_most(more.line, more.compared, limit, " ms")


# -- MongoDB -----------------------------------------------------------------------------------
def mongodb(stage: Stage, compared: Compared) -> Iterator[Line]:
    """CPU and latency with the ledger in MongoDB against SQLite, in turn, at the same pace."""
    sqlite = _keymux(stage, compared, PLAIN)

    def take(subject: Subject) -> Sample:
        return measure.paced(stage.yard, subject, rate=STORE_RATE, seconds=4)

    with (
        rigs.mongodb(stage.yard) as store,
        rigs.gateway(stage.yard, "on-mongodb", targets(compared.behind), store=store) as gateway,
    ):
        other = Subject("keymux on MongoDB", gateway.program, gateway.port, sqlite.body)
        take(other)  # connections and pools are made
        found = rounds(stage, f"{STORE_RATE:,} requests a second", take, sqlite, [other])
    what = f"CPU for one exchange at {STORE_RATE:,}/s"
    cost = Spread.of([one.subjects[0].cpu_us / one.floor(_cpu) for one in found])
    line = Line(
        f"{what}, on MongoDB",
        middle(of_subject(found, 0, _cpu), ",.1f", " us"),
        compared=spread(cost, ".2f", "x") + " SQLite",
        others=others(found),
        figures={"ratio": cost, "sqlite_us": of_floor(found, _cpu)},
    )
    yield at_most(line, cost.median, 1.05, "x")
    for name in ("p50_ms", "p99_ms"):
        more = added(found, 0, _figure(name))
        line = Line(
            f"latency {name[:3]} at {STORE_RATE:,}/s, on MongoDB",
            middle(of_subject(found, 0, _figure(name)), ".2f", " ms"),
            compared=spread(more, "+.2f", " ms") + " to SQLite",
            others=others(found),
            figures={"added": more},
        )
        yield line


# -- egress ------------------------------------------------------------------------------------
def egress(stage: Stage, compared: Compared) -> Iterator[Line]:
    """CPU and latency through a local SOCKS5 proxy against directly, in turn, to a TLS upstream."""
    direct = _keymux(stage, compared, HTTP1)

    def take(subject: Subject) -> Sample:
        return measure.paced(stage.yard, subject, rate=STORE_RATE, seconds=4)

    with (
        rigs.proxy(stage.yard) as port,
        rigs.gateway(
            stage.yard, "bound", targets(compared.behind), load=rigs.Load(proxies=(port,))
        ) as gateway,
    ):
        bound = Subject("keymux through a proxy", gateway.program, gateway.port, direct.body)
        for subject in (direct, bound):
            take(subject)  # connections and pools are made
        found = rounds(stage, f"{STORE_RATE:,} requests a second", take, direct, [bound])
    cost = Spread.of([one.subjects[0].cpu_us / one.floor(_cpu) for one in found])
    line = Line(
        f"CPU for one exchange at {STORE_RATE:,}/s, through a proxy",
        middle(of_subject(found, 0, _cpu), ",.1f", " us"),
        compared=spread(cost, ".2f", "x") + " direct",
        others=others(found),
        figures={"ratio": cost, "direct_us": of_floor(found, _cpu)},
    )
    yield at_most(line, cost.median, 1.1, "x")


# -- LiteLLM -----------------------------------------------------------------------------------
def litellm(stage: Stage, compared: Compared) -> Iterator[Line]:
    """Requests a second and CPU against LiteLLM, measured in turn."""
    keymux = _keymux(stage, compared, PLAIN)
    stage.say("LiteLLM starts")
    with peers.litellm(stage.yard, compared.behind, keymux.body) as peer:
        pairs = []
        for number in range(1, stage.rounds + 1):
            stage.say(f"against LiteLLM, round {number} of {stage.rounds}")
            theirs = measure.closed_loop(stage.yard, peer, 4)
            ours = measure.closed_loop(stage.yard, keymux, 2)
            pairs.append((ours, theirs))
    yield from _against(pairs)


def _against(pairs: Sequence[tuple[Sample, Sample]]) -> Iterator[Line]:
    disturbed = max(sample.others for pair in pairs for sample in pair)
    more = Spread.of([ours.rate / theirs.rate for ours, theirs in pairs])
    speed = Line(
        "requests a second, beside LiteLLM",
        middle(Spread.of([ours.rate for ours, _ in pairs]), ",.0f"),
        litellm=middle(Spread.of([theirs.rate for _, theirs in pairs]), ",.0f"),
        compared=spread(more, ".0f", "x"),
        others=disturbed,
        figures={"ratio": more},
    )
    yield at_least(speed, more.median, 60, "x")
    share = Spread.of([100 * ours.cpu_us / theirs.cpu_us for ours, theirs in pairs])
    yield Line(
        "CPU for one exchange, beside LiteLLM",
        middle(Spread.of([ours.cpu_us for ours, _ in pairs]), ",.1f", " us"),
        litellm=middle(Spread.of([theirs.cpu_us for _, theirs in pairs]), ",.1f", " us"),
        compared=spread(share, ".1f", " %"),
        others=disturbed,
        figures={"ratio": share},
    )
