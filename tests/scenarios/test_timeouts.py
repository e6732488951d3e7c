"""Whatever takes too long ends in time, with the fault that says what was late."""

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping

import pytest
from msgspec import Struct

from keymux.core.records import Outcome
from keymux.core.vocabulary import Quality
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.record import Seen
from tests.scenarios.rig import GatewayProcess, Keys, islands_of
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Response, ask, chat

CONNECT_S, FIRST_EVENT_S, IDLE_S, OVERALL_S, TOLD_S = 0.7, 1.0, 0.8, 4.6, 0.6
HALF_S = 2.5
SLACK_S = 2.0
CLOSED_WITHIN_S = 1.0
TOLD = {"X-Request-Timeout": str(TOLD_S)}
TOLD_MORE = {"X-Request-Timeout": "500"}
POOLS = {
    "silent": ["sk-sandbox-silent-a"],
    "headed": ["sk-sandbox-slow@60@head=early-a"],
    "twice": ["sk-sandbox-silent-b", "sk-sandbox-silent-c"],
    "once": ["sk-sandbox-silent-d", "sk-sandbox-silent-e"],
    "endless": ["sk-sandbox-slow@0@gap_s=0.2-a"],
    "stalling": ["sk-sandbox-stall-a"],
    "unheard": ["sk-sandbox-ok-a"],
}


class Case(Struct):
    """A request that takes too long, and what comes of it.

    Attributes:
        model: and its provider.
        ends_s: when the exchange ends.
        status: that the client gets.
        fault: that the client is told, as code.
        attempts: that are made.
    """

    model: str
    ends_s: float
    status: int
    fault: str
    attempts: int = 1
    stream: bool = True
    headers: Mapping[str, str] = {}


CASES = {
    "no first event": Case("silent", FIRST_EVENT_S, 504, "upstream_timeout"),
    "a head and no first event": Case("headed", FIRST_EVENT_S, 504, "upstream_timeout"),
    "no first event from either key": Case("twice", 2.25, 504, "upstream_timeout", 2),
    "no first event until half the time is gone": Case("once", HALF_S, 504, "upstream_timeout"),
    "silence within a stream": Case("stalling", IDLE_S, 200, "stream_stalled"),
    "a stream without end": Case("endless", OVERALL_S, 200, "deadline_reached"),
    "no plain answer": Case("silent", OVERALL_S, 504, "deadline_reached", stream=False),
    "silence within a plain answer": Case(
        "stalling", OVERALL_S, 504, "deadline_reached", stream=False
    ),
    "a client without patience": Case("silent", TOLD_S, 504, "deadline_reached", headers=TOLD),
    "the same while a stream runs": Case("endless", TOLD_S, 200, "deadline_reached", headers=TOLD),
    "a client with more patience than we have": Case(
        "silent", OVERALL_S, 504, "deadline_reached", stream=False, headers=TOLD_MORE
    ),
    "no connection": Case("unheard", CONNECT_S, 502, "upstream_unreachable"),
}
PATHS = {"OpenAI": OPENAI_PATH, "Anthropic": ANTHROPIC_PATH}
EACH = pytest.mark.parametrize("path", list(PATHS.values()), ids=list(PATHS))
CASE = pytest.mark.parametrize("name", list(CASES), ids=str)
BEGUN = [name for name, case in CASES.items() if case.status == 200]
REFUSED = [name for name, case in CASES.items() if case.status != 200]


class Ended(Struct):
    """An answer, how long it took, and when it ended."""

    response: Response
    took_s: float
    at: float

    @property
    def request_id(self) -> str:
        """The gateway's."""
        return self.response.headers["x-keymux-request-id"]


def _marker(path: str, name: str) -> str:
    return f"marker:{sorted(CASES).index(name)}{path.replace('/', '')}"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture(scope="module")
def unheard() -> Iterator[str]:
    """An address where nobody takes the connection: the queue is full and stays so."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(deaf.getsockname())
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for one in waiting:
            one.close()


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread, unheard: str
) -> Iterator[GatewayProcess]:
    """A gateway with little patience."""
    timeouts = {
        "connect_s": CONNECT_S,
        "first_event_s": FIRST_EVENT_S,
        "idle_s": IDLE_S,
        "overall_s": OVERALL_S,
        "early_commit_s": OVERALL_S,
    }
    config = islands_of(sandbox.url("openhands"), POOLS, timeouts=timeouts)
    config["providers"]["unheard"]["base_url"] = unheard
    next(model for model in config["models"] if model["id"] == "once")["first_event_s"] = HALF_S
    keys = {name: Keys(pool) for name, pool in POOLS.items()}
    with GatewayProcess(tmp_path_factory.mktemp("timeouts"), config, keys) as running:
        yield running


async def _end(port: int, path: str, name: str) -> Ended:
    case, began = CASES[name], time.monotonic()
    said = f"{_marker(path, name)} words:300"
    body = chat(said, stream=case.stream, model=case.model, max_tokens=1000)
    response = await ask(port, path, body, case.headers)
    return Ended(response, time.monotonic() - began, time.monotonic())


@pytest.fixture(scope="module")
def answers(gateway: GatewayProcess) -> dict[tuple[str, str], Ended]:
    """What came of every case in both formats; all of them ran at once."""

    async def all_at_once() -> dict[tuple[str, str], Ended]:
        ways = [(path, name) for name in CASES for path in PATHS.values()]
        ended = await asyncio.gather(*(_end(gateway.port, path, name) for path, name in ways))
        return dict(zip(ways, ended, strict=True))

    return asyncio.run(all_at_once())


Answers = dict[tuple[str, str], Ended]


@CASE
@EACH
def test_it_ends_in_time(answers: Answers, path: str, name: str) -> None:
    """Not before the time that was configured or told, and not long after it."""
    case, ended = CASES[name], answers[path, name]

    assert case.ends_s <= ended.took_s < case.ends_s + SLACK_S
    assert ended.response.complete


@pytest.mark.parametrize("name", REFUSED)
@EACH
def test_what_has_not_begun_is_refused(answers: Answers, path: str, name: str) -> None:
    """The status and the code say what was late, and the client is not asked to pay twice."""
    case, response = CASES[name], answers[path, name].response
    error = response.json()["error"]
    code = error["code"] if path == OPENAI_PATH else error["details"]["error_code"]

    assert (response.status, code) == (case.status, case.fault)
    assert response.headers["x-keymux-attempts"] == str(case.attempts)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("name", BEGUN)
@EACH
def test_what_has_begun_ends_with_an_error_event(answers: Answers, path: str, name: str) -> None:
    """It is the last thing in the stream, and no end marker stands before it."""
    body = answers[path, name].response.body
    last = body.rstrip(b"\n").rpartition(b"\n\n")[2]

    assert answers[path, name].response.status == 200
    assert b'"error":' in last
    assert CASES[name].fault.encode() in last or path == ANTHROPIC_PATH
    assert b"[DONE]" not in body
    assert b"message_stop" not in body


@CASE
@EACH
def test_it_is_booked_as_what_it_was(
    answers: Answers, gateway: GatewayProcess, path: str, name: str
) -> None:
    """The row has the fault, the status and every attempt with what is at stake."""
    case, row = CASES[name], gateway.row(answers[path, name].request_id)
    begun = case.status == 200

    assert (row.fault, row.status) == (case.fault, case.status)
    assert row.outcome is (Outcome.CUT if begun else Outcome.FAILED)
    assert row.quality is (Quality.PARTIAL if begun else Quality.FINAL)
    assert len(row.attempts) == case.attempts
    sent = not begun and case.model != "unheard"
    assert {attempt.billing for attempt in row.attempts} == {"unknown" if sent else ""}


@pytest.mark.parametrize("name", BEGUN)
@EACH
def test_the_upstream_of_a_stream_is_let_go_at_once(
    answers: Answers, sandbox: SandboxThread, path: str, name: str
) -> None:
    """Its connection is closed within a second, so that it can stop working."""
    sandbox.until(lambda: all(seen.peer_left_at for seen in _requests(sandbox, path, name)))
    left = [seen.peer_left_at or 0.0 for seen in _requests(sandbox, path, name)]

    assert len(left) == 1
    assert max(left) - answers[path, name].at < CLOSED_WITHIN_S


def _requests(sandbox: SandboxThread, path: str, name: str) -> list[Seen]:
    marker = f'"{_marker(path, name)} '.encode()
    return [seen for seen in sandbox.seen if marker in seen.body]
