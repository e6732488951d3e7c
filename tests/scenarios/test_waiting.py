"""While an upstream takes its time, a stream's client is kept company and no event is disturbed."""

import asyncio
import re
import time
from collections.abc import Iterator
from itertools import pairwise

import anthropic
import h11
import openai
import pytest
from msgspec import Struct

from keymux.core.records import Outcome
from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import CLIENT_KEY, GatewayProcess, Keys, islands_of
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Connection, Response, chat

HELD_S, KEEP_ALIVE_S, FIRST_EVENT_S, LATE_S = 0.6, 0.3, 2.0, 1.6
SLACK_S = 0.9
COMMENT = re.compile(rb"^: [^\n]*\n\n", re.MULTILINE)
END = (b"[DONE]", b'{"type":"message_stop"}')
WAYS = {"openai": OPENAI_PATH, "anthropic": ANTHROPIC_PATH}
LATE = f"sk-sandbox-slow@{LATE_S}@gap_s=0"
POOLS = {
    "late": [LATE],
    "soon": ["sk-sandbox-slow@0.2@gap_s=0"],
    "pausing": ["sk-sandbox-slow@0@gap_s=0.6"],
    "lost": ["sk-sandbox-silent-1"],
    "saved": ["sk-sandbox-silent-2", "sk-sandbox-ok-2"],
    "refused": ["sk-sandbox-silent-3", "sk-sandbox-throttled@9-3"],
}
KEYS = {
    f"{name}_{way}": Keys([f"{key}-{way}" for key in pool])
    for name, pool in POOLS.items()
    for way in WAYS
}
EITHER = pytest.mark.parametrize(
    "way", [pytest.param("openai", id="OpenAI"), pytest.param("anthropic", id="Anthropic")]
)


class Heard(Struct):
    """An answer, and when what of it came.

    Attributes:
        head_s: seconds from the request to the head.
        parts: seconds and bytes of each part of the body.
    """

    head_s: float
    response: Response
    parts: list[tuple[float, bytes]]

    @property
    def events(self) -> bytes:
        """The body without its comments."""
        return COMMENT.sub(b"", self.response.body)

    @property
    def request_id(self) -> str:
        """The gateway's."""
        return self.response.headers["x-keymux-request-id"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread
) -> Iterator[GatewayProcess]:
    """A gateway that speaks up soon, and soon gives up on a first event."""
    timeouts = {
        "early_commit_s": HELD_S,
        "keep_alive_s": KEEP_ALIVE_S,
        "first_event_s": FIRST_EVENT_S,
    }
    config = islands_of(sandbox.url("openhands"), KEYS, timeouts=timeouts)
    with GatewayProcess(tmp_path_factory.mktemp("waiting"), config, KEYS) as running:
        yield running


async def _hear(port: int, model: str, *, stream: bool = True) -> Heard:
    """Ask, and note when what came."""
    usage = {"stream_options": {"include_usage": True}} if stream else {}
    body = chat("Say a word", stream=stream, max_tokens=4, model=model, **usage)
    heard = Heard(0.0, Response(0, {}, b""), [])
    status, headers = 0, {}
    async with await Connection.open(port) as connection:
        asked = time.monotonic()
        await connection.ask(WAYS[model.partition("_")[2]], body)
        async for event in connection.events():
            passed = time.monotonic() - asked
            if isinstance(event, h11.Response):
                heard.head_s, status = passed, event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                heard.parts.append((passed, bytes(event.data)))
    heard.response = Response(status, headers, b"".join(part for _, part in heard.parts))
    return heard


@pytest.fixture(scope="module")
def streams(gateway: GatewayProcess) -> dict[str, Heard]:
    """What those heard who asked for a stream, by model; they all asked at once."""

    async def all_at_once() -> dict[str, Heard]:
        heard = await asyncio.gather(*(_hear(gateway.port, model) for model in KEYS))
        return dict(zip(KEYS, heard, strict=True))

    return asyncio.run(all_at_once())


def _sent(sandbox: SandboxThread, model: str) -> bytes:
    """What the upstream sent first under the key of a model."""
    return next(seen.sent for seen in sandbox.seen if seen.key == KEYS[model].keys[-1])


@EITHER
def test_a_slow_start_is_filled_with_comments(streams: dict[str, Heard], way: str) -> None:
    """The head goes out when it was held back long enough, then comments until the answer."""
    heard = streams[f"late_{way}"]
    comments = [at for at, part in heard.parts if COMMENT.fullmatch(part)]

    assert HELD_S <= heard.head_s < HELD_S + SLACK_S
    assert len(comments) >= 2
    assert all(later - at >= KEEP_ALIVE_S * 0.9 for at, later in pairwise(comments))
    assert max(comments) < LATE_S + SLACK_S


@EITHER
def test_comments_take_nothing_away(
    streams: dict[str, Heard], sandbox: SandboxThread, way: str
) -> None:
    """Without them, the body is what the upstream sent, byte for byte."""
    heard = streams[f"late_{way}"]

    assert heard.events == _sent(sandbox, f"late_{way}")


@EITHER
def test_waiting_is_booked_as_waiting(
    streams: dict[str, Heard], gateway: GatewayProcess, way: str
) -> None:
    """The first event counts, not the head that went before it."""
    row = gateway.row(streams[f"late_{way}"].request_id)

    assert (row.outcome, row.status) == (Outcome.OK, 200)
    assert row.first_ms >= LATE_S * 1000


@EITHER
def test_an_early_head_is_that_of_a_stream(streams: dict[str, Heard], way: str) -> None:
    """It names the type and the request, and keeps intermediaries from buffering."""
    headers = streams[f"late_{way}"].response.headers

    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-keymux-request-id"].startswith("req_")
    assert "content-length" not in headers


@EITHER
def test_a_prompt_answer_has_its_own_head(
    streams: dict[str, Heard], sandbox: SandboxThread, way: str
) -> None:
    """An answer that begins in time has no comment, and its head says who served it."""
    heard = streams[f"soon_{way}"]

    assert 0.2 <= heard.head_s < HELD_S
    assert heard.response.headers["x-keymux-provider"] == f"soon_{way}"
    assert heard.response.headers["x-keymux-attempts"] == "1"
    assert heard.response.body == _sent(sandbox, f"soon_{way}")


@EITHER
def test_pauses_are_filled_between_whole_events(
    streams: dict[str, Heard], sandbox: SandboxThread, way: str
) -> None:
    """A comment never stands inside an event, nor in place of one."""
    heard = streams[f"pausing_{way}"]
    text = b"\n\n" + heard.response.body
    places = [found.start() for found in re.finditer(rb"(?<=\n): ", text)]

    assert len(places) >= 2
    assert all(text[place - 2 : place] == b"\n\n" for place in places)
    assert heard.events == _sent(sandbox, f"pausing_{way}")


@EITHER
def test_another_key_can_save_what_has_begun(
    streams: dict[str, Heard], gateway: GatewayProcess, way: str
) -> None:
    """Comments are no answer: after them the next attempt is still made."""
    heard = streams[f"saved_{way}"]
    row = gateway.row(heard.request_id)

    assert COMMENT.match(heard.response.body)
    assert heard.events.rstrip().endswith(END)
    assert [attempt.outcome for attempt in row.attempts] == ["upstream_timeout", "ok"]
    assert [attempt.billing for attempt in row.attempts] == ["unknown", ""]


@pytest.mark.parametrize(
    ("model", "fault", "words"),
    [
        pytest.param("lost", "upstream_timeout", b"did not start to answer", id="nothing came"),
        pytest.param(
            "refused", "rate_limited", b"is rate-limited; try again in", id="every key is throttled"
        ),
    ],
)
@EITHER
def test_what_fails_after_comments_fails_in_the_stream(
    streams: dict[str, Heard],
    gateway: GatewayProcess,
    way: str,
    model: str,
    fault: str,
    words: bytes,
) -> None:
    """With the head gone there is one error event, no end marker, and a row that says failed."""
    heard = streams[f"{model}_{way}"]
    row = gateway.row(heard.request_id)

    assert heard.response.status == 200
    assert heard.events.count(b'"error":') == 1
    assert words in heard.events
    assert not heard.events.rstrip().endswith(END)
    assert (row.outcome, row.fault, row.status) == (Outcome.FAILED, fault, 200)


@EITHER
def test_a_plain_answer_is_waited_for_in_silence(gateway: GatewayProcess, way: str) -> None:
    """Who asked for no stream gets no byte before the whole answer."""
    heard = asyncio.run(_hear(gateway.port, f"late_{way}", stream=False))

    assert heard.head_s >= LATE_S
    assert heard.response.headers["x-keymux-provider"] == f"late_{way}"
    assert heard.response.json()["model"] == f"late_{way}"


def test_the_openai_sdk_does_not_notice(gateway: GatewayProcess) -> None:
    """It reads a stream that began with comments as any other."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        chunks = client.chat.completions.create(
            model="late_openai",
            messages=[{"role": "user", "content": "Say marker:late"}],
            stream=True,
        )
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert "marker:late" in said


def test_the_anthropic_sdk_does_not_notice(gateway: GatewayProcess) -> None:
    """It reads a stream that began with comments as any other."""
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=CLIENT_KEY, max_retries=0) as client,
        client.messages.stream(
            model="late_anthropic",
            max_tokens=64,
            messages=[{"role": "user", "content": "Say marker:late"}],
        ) as stream,
    ):
        said = stream.get_final_text()

    assert "marker:late" in said
