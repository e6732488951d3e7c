"""The upstream gets the client's bytes, and the client gets the upstream's."""

import asyncio
import json
import re
from collections.abc import Iterator
from hashlib import sha256

import pytest

from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import (
    ContextTooLong,
    Crlf,
    Drip,
    LeaksKey,
    NoUsage,
    Ok,
    Refused,
    ServerError,
)
from keymux.sandbox.record import Seen
from tests.scenarios.rig import MODEL, UPSTREAM_MODEL, GatewayProcess, Keys, config_of
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Response, ask, chat

KEY = "sk-sandbox-fidelity"
PATHS = [
    pytest.param(OPENAI_PATH, id="OpenAI"),
    pytest.param(ANTHROPIC_PATH, id="Anthropic"),
]

ODD_BODY = (
    '\r\n {\t"messages" : [ {"role":"user",\n "content":[{"type":"text","text":"h\u00e4 \u2028 '
    '\U0001f600 \\u00e9 \\ud800"}]} ] ,"tools":[{"type":"function","name":"t","function":'
    '{"name":"t","parameters":{"model":"claude-sonnet-4-5","type":"object"}},"input_schema":'
    '{"type":"object","model":"claude-sonnet-4-5"}}] , "max_tokens":2000 ,"model"  :  '
    '"claude-sonnet-4-5" ,"x_unknown":{"big":12345678901234567890,"float":1.10,"e":1e-7,'
    '"model":"m"},"x_unknown":[1,1],"temperature":1.0,"top_p":1 }\n\n'
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread
) -> Iterator[GatewayProcess]:
    """A gateway with one provider."""
    config = config_of({"openhands": sandbox.url("openhands")}, limits={"chunked_requests": True})
    folder = tmp_path_factory.mktemp("fidelity")
    with GatewayProcess(folder, config, {"openhands": Keys([KEY])}) as running:
        yield running


STREAMS = [
    pytest.param("", id="no word about streams"),
    pytest.param('"stream" : false ,', id="no stream"),
    pytest.param('"stream":true,"stream_options":{"include_usage":true},', id="a stream"),
]


def _exchange(
    gateway: GatewayProcess,
    sandbox: SandboxThread,
    path: str,
    body: bytes,
    headers: dict[str, str] | None = None,
) -> tuple[Response, Seen]:
    """One request, and what the upstream saw of it."""
    sandbox.reset()
    response = asyncio.run(ask(gateway.port, path, body, headers))
    return response, sandbox.seen[-1]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "stream", ["", '"stream" : false ,', '"stream":true,"stream_options":{"include_usage":true},']
)
def test_the_upstream_gets_the_clients_bytes(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str, stream: str
) -> None:
    """Odd spacing, unknown and duplicate fields, escapes, huge numbers: only the model differs."""
    body = ODD_BODY.replace('{\t"messages"', "{\t" + stream + '"messages"').encode()
    expected = body.replace(
        b'"model"  :  "claude-sonnet-4-5"', f'"model"  :  "{UPSTREAM_MODEL}"'.encode()
    )

    response, seen = _exchange(gateway, sandbox, path, body)

    assert response.status == 200
    assert _digest(seen.body) == _digest(expected)


@pytest.mark.parametrize("path", PATHS)
def test_a_model_asked_for_by_its_own_name_changes_nothing(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """When there is nothing to replace, the body is the same to the last byte."""
    body = ODD_BODY.replace(f'"{MODEL}" ,"x_unknown"', f'"{UPSTREAM_MODEL}" ,"x_unknown"').encode()
    body = body.replace(
        b'"model"  :  "claude-sonnet-4-5"', f'"model"  :  "{UPSTREAM_MODEL}"'.encode()
    )

    _, seen = _exchange(gateway, sandbox, path, body)

    assert _digest(seen.body) == _digest(body)


@pytest.mark.parametrize("path", PATHS)
def test_no_duplicate_smuggles_another_model(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """Servers disagree on which of two fields counts, so both are replaced."""
    body = (
        b'{"model":"gpt-9","messages":[{"role":"user","content":"x"}],"max_tokens":9,"model":"%s"}'
    )

    _, seen = _exchange(gateway, sandbox, path, body % UPSTREAM_MODEL.encode())

    assert json.loads(seen.body)["model"] == UPSTREAM_MODEL
    assert b"gpt-9" not in seen.body


@pytest.mark.parametrize("path", PATHS)
def test_the_mark_of_a_wide_context_is_dropped(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """`[1m]` is for the client's own bookkeeping; no provider knows it."""
    response, seen = _exchange(gateway, sandbox, path, chat(model=f"{MODEL}[1M]"))

    assert response.status == 200
    assert json.loads(seen.body)["model"] == UPSTREAM_MODEL


def test_a_chunked_body_arrives_whole(gateway: GatewayProcess, sandbox: SandboxThread) -> None:
    """Where chunked requests are allowed, the framing is ours and the bytes are the client's."""
    body = ODD_BODY.encode()
    chunked = b"".join(b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    sandbox.reset()

    async def send() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = (
            f"POST {ANTHROPIC_PATH} HTTP/1.1\r\nHost: g\r\nx-api-key: km-{'c' * 40}\r\n"
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + chunked + b"0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    answer = asyncio.run(send())

    assert answer.startswith(b"HTTP/1.1 200")
    expected = body.replace(
        b'"model"  :  "claude-sonnet-4-5"', f'"model"  :  "{UPSTREAM_MODEL}"'.encode()
    )
    assert _digest(sandbox.seen[-1].body) == _digest(expected)


@pytest.mark.parametrize("path", PATHS)
def test_headers_are_forwarded_by_name(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """What the provider has to know goes on verbatim; what is between us and the client stays."""
    given = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,unknown-beta-9999-01-01",
        "anthropic-dangerous-direct-browser-access": "true",
        "User-Agent": "claude-cli/2.1.330 (external, sdk-cli)",
        "x-app": "cli",
        "X-Stainless-Lang": "python",
        "X-Claude-Code-Session-Id": "abc",
        "Cookie": "session=secret",
        "X-Forwarded-For": "10.0.0.1",
        "OpenAI-Organization": "org-of-the-client",
        "Connection": "keep-alive",
        "Accept-Encoding": "gzip",
        "X-Keymux-Provider": "evil",
    }

    _, seen = _exchange(gateway, sandbox, path, chat(), given)
    names = {name.lower(): value for name, value in seen.headers}

    for name in list(given)[:7]:
        assert names[name.lower()] == given[name]
    for name in ("Cookie", "X-Forwarded-For", "OpenAI-Organization", "X-Keymux-Provider"):
        assert name.lower() not in names
    assert names["accept-encoding"] == "identity"
    assert names["authorization"] == f"Bearer {KEY}"
    assert "km-" not in str(seen.headers)


def test_a_client_that_does_not_name_itself_is_named_by_us(
    gateway: GatewayProcess, sandbox: SandboxThread
) -> None:
    """The gateway says who it is."""
    _, seen = _exchange(gateway, sandbox, OPENAI_PATH, chat())
    names = {name.lower(): value for name, value in seen.headers}

    assert re.fullmatch(r"keymux/\d{4}\.\d+", names["user-agent"])


def test_the_query_goes_on_as_it_is(gateway: GatewayProcess, sandbox: SandboxThread) -> None:
    """Claude Code always asks with `?beta=true`."""
    _, seen = _exchange(gateway, sandbox, ANTHROPIC_PATH + "?beta=true&x=%20a+b", chat())

    assert seen.target.endswith("/v1/messages?beta=true&x=%20a+b")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(Ok(), id="as it is"),
        pytest.param(Crlf("crlf"), id="CRLF, comments and odd spacing"),
        pytest.param(Crlf("cr"), id="CR alone"),
        pytest.param(Crlf("mixed"), id="all line ends mixed"),
        pytest.param(Drip(), id="a byte at a time, multi-byte characters cut"),
    ],
)
def test_a_stream_arrives_as_it_was_sent(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str, behaviour: Ok
) -> None:
    """Every byte of the stream, in order, whatever its line ends and however it was cut."""
    sandbox.behave(KEY, behaviour)
    body = chat("Gr\u00fc\u00dfe \U0001f600", stream=True, stream_options={"include_usage": True})

    response, seen = _exchange_with(gateway, sandbox, path, body)

    assert response.status == 200
    assert _digest(response.body) == _digest(seen.sent)


def _exchange_with(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str, body: bytes
) -> tuple[Response, Seen]:
    """The same as `_exchange`, keeping what the sandbox was told to do."""
    before = len(sandbox.seen)
    response = asyncio.run(ask(gateway.port, path, body))
    return response, sandbox.seen[before]


@pytest.mark.parametrize("path", PATHS)
def test_a_plain_answer_arrives_as_it_was_sent(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """JSON is not read and written again."""
    response, seen = _exchange(gateway, sandbox, path, chat("Gr\u00fc\u00dfe"))

    assert _digest(response.body) == _digest(seen.sent)
    assert response.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "a stream"])
@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(Refused(), id="a refused request, oddly spaced"),
        pytest.param(ContextTooLong(), id="a prompt that is too long"),
    ],
)
def test_an_error_arrives_in_the_upstreams_words(
    gateway: GatewayProcess,
    sandbox: SandboxThread,
    path: str,
    stream: bool,  # noqa: FBT001 -- a parameter of the test
    refusal: Refused,
) -> None:
    """Clients act on the wording of errors, so it is passed on byte for byte."""
    sandbox.reset()
    sandbox.behave(KEY, refusal)

    response, seen = _exchange_with(gateway, sandbox, path, chat(stream=stream))

    assert response.status == seen.status == 400
    assert _digest(response.body) == _digest(seen.sent)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", PATHS)
def test_a_server_error_arrives_after_everything_was_tried(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """With no other key or provider left, the client sees what the upstream said."""
    sandbox.reset()
    sandbox.behave(KEY, ServerError())

    response, seen = _exchange_with(gateway, sandbox, path, chat())

    assert response.status == 500
    assert _digest(response.body) == _digest(seen.sent)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_the_key_or_the_account_comes_along(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """A provider that echoes the key, sets cookies and names its account is cleaned up after."""
    sandbox.reset()
    sandbox.behave(KEY, LeaksKey())

    response, seen = _exchange_with(gateway, sandbox, path, chat())

    assert KEY.encode() in seen.sent
    whole = str(response.headers) + response.body.decode()
    assert KEY not in whole
    assert sha256(KEY.encode()).hexdigest() not in whole
    assert "***" in response.body.decode()
    assert not {"set-cookie", "openai-organization", "anthropic-organization-id"} & set(
        response.headers
    )


def test_usage_nobody_asked_for_is_taken_out_again(
    gateway: GatewayProcess, sandbox: SandboxThread
) -> None:
    """An OpenAI stream is metered exactly, and its client sees what it would have seen."""
    sandbox.reset()
    response, seen = _exchange_with(gateway, sandbox, OPENAI_PATH, chat(stream=True))
    events = [event for event in seen.sent.split(b"\n\n") if event]
    kept = [event for event in events if not re.search(rb'"choices"\s*:\s*\[\s*\]', event)]

    assert json.loads(seen.body)["stream_options"] == {"include_usage": True}
    assert len(kept) == len(events) - 1
    assert response.body == b"\n\n".join(kept) + b"\n\n"
    row = gateway.row(response.headers["x-keymux-request-id"])
    assert (row.quality, row.usage.output > 0) == ("final", True)


def test_an_answer_without_usage_is_estimated(
    gateway: GatewayProcess, sandbox: SandboxThread
) -> None:
    """Missing figures are not zero: they are estimated and marked."""
    sandbox.reset()
    sandbox.behave(KEY, NoUsage())
    response, _ = _exchange_with(gateway, sandbox, ANTHROPIC_PATH, chat("How are you?"))
    row = gateway.row(response.headers["x-keymux-request-id"])

    assert row.quality == "estimated"
    assert row.usage.input > 0
    assert row.usage.output > 0


def test_passthrough_leaves_every_byte_alone(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread
) -> None:
    """With `"metering": "passthrough"` nothing is injected, and the tokens are estimated."""
    sandbox.reset()
    config = config_of({"openhands": sandbox.url("openhands")}, metering="passthrough")
    folder = tmp_path_factory.mktemp("passthrough")
    body = chat("Tell me a story", stream=True)
    with GatewayProcess(folder, config, {"openhands": Keys([KEY])}) as gateway:
        response, seen = _exchange_with(gateway, sandbox, OPENAI_PATH, body)
        row = gateway.row(response.headers["x-keymux-request-id"])

        assert seen.body == body.replace(MODEL.encode(), UPSTREAM_MODEL.encode())
        assert response.body == seen.sent
        assert row.quality == "estimated"
        assert row.usage.output > 0
