"""Good answers at their edges: wrong requests, nothing to say, calls without arguments."""

from typing import Any

import pytest

from keymux.sandbox.apart import SandboxThread
from tests.sandbox.peer import CHAT, KEY, MESSAGES, ask, body_for

COUNT = "/v1/messages/count_tokens"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param(CHAT, "model: Field required", id="OpenAI format"),
        pytest.param(MESSAGES, "model: Field required", id="Anthropic format"),
        pytest.param(COUNT, "model: Field required", id="counting"),
    ],
)
def test_a_wrong_request_is_refused(sandbox: SandboxThread, path: str, message: str) -> None:
    """As a real service would, in the shape of the format."""
    heard = ask(sandbox.url("ohmygpt"), path, b'{"messages": [{}]}')

    assert (heard.status, heard.json["error"]["message"]) == (400, message)
    assert heard.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_answer_may_be_empty(sandbox: SandboxThread, path: str, *, stream: bool) -> None:
    """No words, no content, and still a proper end."""
    heard = ask(sandbox.url(), path, body_for(path, "words:0", stream=stream))

    assert (heard.status, heard.is_whole) == (200, True)
    assert b"sandbox," not in heard.body
    assert (b"text_delta" in heard.body) is False
    assert b'"stop"' in heard.body or b'"end_turn"' in heard.body


def test_a_call_without_arguments(sandbox: SandboxThread) -> None:
    """One empty fragment, as the real API sends it; never a made-up ``{}``."""
    tools = [{"name": "clock", "input_schema": {"type": "object"}}]
    choice = {"type": "any"}
    streamed = ask(
        sandbox.url(),
        MESSAGES,
        body_for(MESSAGES, stream=True, tools=tools, tool_choice=choice),
    )
    plain = ask(sandbox.url(), MESSAGES, body_for(MESSAGES, tools=tools, tool_choice=choice))

    assert streamed.body.count(b"input_json_delta") == 1
    assert b'"partial_json":""' in streamed.body
    assert plain.json["content"][-1]["input"] == {}


def _without_ids(found: Any) -> Any:
    names = {"id", "created", "request_id"}
    if isinstance(found, dict):
        return {name: _without_ids(value) for name, value in found.items() if name not in names}
    return [_without_ids(item) for item in found] if isinstance(found, list) else found


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_the_same_request_gets_the_same_answer(sandbox: SandboxThread, path: str) -> None:
    """But for ids and times, and ids are never the same."""
    first, second = (ask(sandbox.url(), path, body_for(path)) for _ in range(2))

    assert _without_ids(first.json) == _without_ids(second.json)
    assert first.json["id"] != second.json["id"]


def test_what_was_recorded_is_what_was_sent(sandbox: SandboxThread) -> None:
    """Byte for byte, without the framing."""
    heard = ask(sandbox.url(), CHAT, body_for(CHAT, stream=True), KEY)

    assert sandbox.seen[0].sent == heard.body
    assert heard.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("dialect", "path", "expected"),
    [
        pytest.param(
            "openhands", CHAT, {"x-request-id", "x-litellm-call-id"}, id="LiteLLM, OpenAI"
        ),
        pytest.param("ohmygpt", MESSAGES, {"request-id", "cf-ray"}, id="OhMyGPT, Anthropic"),
    ],
)
def test_headers_are_the_dialects(
    sandbox: SandboxThread, dialect: str, path: str, expected: set[str]
) -> None:
    """The request id stands where the format's SDK looks for it."""
    headers = ask(sandbox.url(dialect), path, body_for(path)).headers

    assert expected <= set(headers)
