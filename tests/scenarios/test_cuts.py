"""A stream that is cut anywhere never looks finished, and is booked as what it was."""

import asyncio
import json
import re
from collections.abc import Iterator

import anthropic
import httpx2
import openai
import pytest

from keymux.core.records import Outcome
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import Behaviour, Cut, ErrorMidStream, HugeEvent, Ok, Stall
from tests.scenarios.rig import UPSTREAM_MODEL, GatewayProcess, Keys, islands_of
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Connection, Response, chat, post

LANES = ("a", "b", "c", "d", "e", "f")
KEY = "sk-sandbox-cuts-a"
BODY = chat(
    "Say a word",
    model=LANES[0],
    stream=True,
    max_tokens=12,
    stream_options={"include_usage": True},
)
PATHS = [
    pytest.param(OPENAI_PATH, id="OpenAI"),
    pytest.param(ANTHROPIC_PATH, id="Anthropic"),
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread
) -> Iterator[GatewayProcess]:
    """A gateway with one provider and little patience."""
    config = islands_of(
        sandbox.url("openhands"),
        LANES,
        timeouts={"idle_s": 1.0},
        limits={"event_bytes": 100_000},
    )
    folder = tmp_path_factory.mktemp("cuts")
    for model in config["models"]:
        model["route"][0]["model"] = UPSTREAM_MODEL
    keys = {lane: Keys([_key(lane)]) for lane in LANES}
    with GatewayProcess(folder, config, keys) as running:
        yield running


def _key(lane: str) -> str:
    return KEY[:-1] + lane


async def _ask_in_turn(port: int, path: str, times: int, body: bytes = BODY) -> list[Response]:
    """So many requests, one after the other."""
    responses: list[Response] = []
    for _ in range(times):
        async with await Connection.open(port) as connection:
            await connection.ask(path, body)
            responses.append(await connection.answer())
    return responses


def _played(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str, *script: Behaviour
) -> list[Response]:
    """The answers to a script of behaviours, one request each."""
    sandbox.reset()
    sandbox.behave(KEY, *script)
    return asyncio.run(_ask_in_turn(gateway.port, path, len(script)))


def _played_side_by_side(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str, cuts: list[Cut]
) -> list[Response]:
    """The answers to cuts, in order; each lane has a good answer after every cut."""

    async def play() -> list[Response]:
        asking = []
        for number, lane in enumerate(LANES):
            script = [one for cut in cuts[number :: len(LANES)] for one in (cut, Ok())]
            sandbox.behave(_key(lane), *script)
            body = BODY.replace(b'"model": "a"', b'"model": "%s"' % lane.encode())
            asking.append(_ask_in_turn(gateway.port, path, len(script), body))
        found: list[Response] = [Response(0, {}, b"", complete=False)] * len(cuts)
        for number, responses in enumerate(await asyncio.gather(*asking)):
            found[number :: len(LANES)] = responses[::2]
        return found

    sandbox.reset()
    return asyncio.run(play())


def _transport(body: bytes) -> httpx2.MockTransport:
    """Gives the official SDK exactly the bytes that came."""
    headers = {"content-type": "text/event-stream"}
    return httpx2.MockTransport(lambda request: httpx2.Response(200, headers=headers, content=body))


def _openai_sees_an_end(body: bytes) -> bool:
    """Whether the OpenAI SDK reads a stream to its end without an error."""
    client = openai.OpenAI(
        api_key="x",
        base_url="http://x/v1",
        max_retries=0,
        http_client=httpx2.Client(transport=_transport(body)),
    )
    try:
        list(client.chat.completions.create(model="m", messages=[], stream=True))
    except (openai.APIError, json.JSONDecodeError):
        return False
    return True


def _anthropic_sees_an_end(body: bytes) -> bool:
    """Whether the Anthropic SDK reads a stream to its end without an error."""
    client = anthropic.Anthropic(
        api_key="x",
        base_url="http://x",
        max_retries=0,
        http_client=httpx2.Client(transport=_transport(body)),
    )
    try:
        with client.messages.stream(model="m", messages=[], max_tokens=9) as stream:
            message = stream.get_final_message()
    except (anthropic.APIError, AssertionError, json.JSONDecodeError):
        return False
    return message.stop_reason is not None


SEES_AN_END = {OPENAI_PATH: _openai_sees_an_end, ANTHROPIC_PATH: _anthropic_sees_an_end}
END_MARK = {OPENAI_PATH: rb"data: ?\[DONE\]", ANTHROPIC_PATH: rb"event: ?message_stop"}
OWN_TO_EACH = re.compile(rb'"id":"[^"]*"|"created":\d+')
ERROR_MARK = {OPENAI_PATH: rb'data: ?\{"error":', ANTHROPIC_PATH: rb"event: ?error\ndata: "}


def _check_the_break(path: str, response: Response, sent: bytes) -> None:
    """What a client got of a stream that was cut: whole events, then one error, then the end."""
    body = response.body
    error = list(re.finditer(ERROR_MARK[path], body))
    assert len(error) == 1
    passed_on = body[: error[0].start()]
    assert OWN_TO_EACH.sub(b"", sent).startswith(OWN_TO_EACH.sub(b"", passed_on))
    assert passed_on == b"" or passed_on.endswith(b"\n\n")
    assert not re.search(END_MARK[path], body)
    assert body.endswith(b"\n\n")
    assert not SEES_AN_END[path](body)


@pytest.mark.parametrize("path", PATHS)
def test_the_whole_stream_looks_finished(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """The checks below can tell: the uncut stream passes for finished."""
    response = _played(gateway, sandbox, path, Ok())[0]

    assert SEES_AN_END[path](response.body)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", PATHS)
def test_a_cut_at_any_byte_is_seen(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """Cut after each byte: an error status, or whole events and an error event; never an end.

    Every third cut is a reset: what differs is only how the connection ends.
    """
    sent = _played(gateway, sandbox, path, Ok())[0].body
    cuts = [Cut(size, "reset" if size % 3 == 1 else "fin") for size in range(len(sent))]
    responses = _played_side_by_side(gateway, sandbox, path, cuts)
    ids = [response.headers["x-keymux-request-id"] for response in responses]
    for last in ids[-len(LANES) :]:
        gateway.row(last)
    rows = {row.id: row for row in gateway.rows()}

    for request_id, response in zip(ids, responses, strict=True):
        row = rows[request_id]
        if response.status == 200:
            _check_the_break(path, response, sent)
            assert (row.outcome, row.quality) == (Outcome.CUT, "partial")
            assert row.usage.input > 0
        else:
            assert response.status == 502
            assert row.outcome is Outcome.FAILED
            assert row.attempts[0].billing == "unknown"
    assert sum(response.status == 200 for response in responses) > len(sent) / 2


@pytest.mark.parametrize("path", PATHS)
def test_a_stall_ends_in_an_error(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """Silence in the middle of an event is given up after the time an upstream may be silent."""
    sent = _played(gateway, sandbox, path, Ok())[0].body
    response = _played(gateway, sandbox, path, Stall(len(sent) * 2 // 3))[0]

    _check_the_break(path, response, sent)
    assert b"nothing came for 1 s" in response.body
    assert gateway.row(response.headers["x-keymux-request-id"]).fault == "stream_stalled"


@pytest.mark.parametrize("path", PATHS)
def test_an_error_of_the_upstream_is_passed_on_once(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """The upstream's own error event reaches the client as it came, and ends the stream."""
    sandbox.reset()
    sandbox.behave(KEY, ErrorMidStream())
    response = post(gateway.port, path, BODY)
    sent = sandbox.seen[0].sent
    row = gateway.row(response.headers["x-keymux-request-id"])

    assert response.complete
    assert sent.startswith(response.body)
    assert len(re.findall(rb'"error"\s*:\s*\{', response.body)) == 1
    assert not SEES_AN_END[path](response.body)
    assert (row.outcome, row.quality) == (Outcome.CUT, "partial")


@pytest.mark.parametrize("path", PATHS)
def test_an_event_without_end_is_not_waited_for(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """An event over the limit ends the stream instead of filling the memory."""
    response = _played(gateway, sandbox, path, HugeEvent())[0]

    assert b"too large" in response.body
    assert len(response.body) < 100_000
