"""The official SDKs work through the gateway, for every model of the shipped configs."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import CLIENT_KEY, GatewayProcess, Keys

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted((ROOT / "config").glob("config-*.json"))
FAILOVER = json.loads((ROOT / "config" / "config-failover.json").read_text())
MODELS = [
    pytest.param(name, id=name)
    for model in FAILOVER["models"]
    for name in (model["id"], *model["aliases"])
]
ANY_MODEL = "claude-sonnet-4-5"
TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """The shipped config for failover, with the sandbox in place of both providers."""
    with SandboxThread() as sandbox:
        config = {"models": FAILOVER["models"], "providers": {}}
        for name, provider in FAILOVER["providers"].items():
            config["providers"][name] = {**provider, "base_url": sandbox.url(name)}
        keys = {
            name: Keys([f"sk-sandbox-{name}-{n}" for n in range(3)]) for name in config["providers"]
        }
        with GatewayProcess(tmp_path_factory.mktemp("sdks"), config, keys) as running:
            yield running


@pytest.fixture
def ask_openai(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    """The OpenAI SDK, validating strictly."""
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1",
        api_key=CLIENT_KEY,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def ask_anthropic(gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    """The Anthropic SDK, validating strictly."""
    with anthropic.Anthropic(
        base_url=gateway.url,
        api_key=CLIENT_KEY,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


def _said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("model", MODELS)
def test_openai_plain(ask_openai: openai.OpenAI, model: str) -> None:
    """A plain completion with usage."""
    answer = ask_openai.chat.completions.create(model=model, messages=_said("Hello marker:abc"))

    assert "marker:abc" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


@pytest.mark.parametrize("model", MODELS)
def test_openai_stream(ask_openai: openai.OpenAI, model: str) -> None:
    """A stream, to its end; no usage, as none was asked for."""
    chunks = list(
        ask_openai.chat.completions.create(model=model, messages=_said("marker:xyz"), stream=True)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert "marker:xyz" in text
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_plain(ask_anthropic: anthropic.Anthropic, model: str) -> None:
    """A plain message with usage."""
    message = ask_anthropic.messages.create(
        model=model, max_tokens=500, messages=_said("Hello marker:abc")
    )

    assert "marker:abc" in message.content[0].to_json()
    assert message.usage.output_tokens > 0


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_stream(ask_anthropic: anthropic.Anthropic, model: str) -> None:
    """A stream, to its end, with a final message."""
    with ask_anthropic.messages.stream(
        model=model, max_tokens=500, messages=_said("marker:xyz")
    ) as stream:
        message = stream.get_final_message()

    assert message.stop_reason == "end_turn"
    assert "marker:xyz" in message.content[0].to_json()


def test_openai_stream_with_usage(ask_openai: openai.OpenAI) -> None:
    """A client that asks for usage gets its chunk."""
    chunks = list(
        ask_openai.chat.completions.create(
            model=ANY_MODEL,
            messages=_said("Hello"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "a stream"])
def test_openai_tools(ask_openai: openai.OpenAI, *, stream: bool) -> None:
    """A tool call arrives whole."""
    asked: dict[str, Any] = {
        "model": ANY_MODEL,
        "messages": _said("Use the tool"),
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}],
        "tool_choice": "required",
    }
    if stream:
        with ask_openai.chat.completions.stream(**asked) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = ask_openai.chat.completions.create(**asked).choices[0].message
    call = (message.tool_calls or [])[0]

    assert call.type == "function"
    assert "city" in json.loads(call.function.arguments)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "a stream"])
def test_anthropic_tools(ask_anthropic: anthropic.Anthropic, *, stream: bool) -> None:
    """A tool call arrives whole."""
    asked: dict[str, Any] = {
        "model": ANY_MODEL,
        "max_tokens": 900,
        "messages": _said("Use the tool"),
        "tools": [{"name": "weather", "input_schema": TOOL}],
        "tool_choice": {"type": "any"},
    }
    if stream:
        with ask_anthropic.messages.stream(**asked) as events:
            message = events.get_final_message()
    else:
        message = ask_anthropic.messages.create(**asked)
    calls = [block for block in message.content if block.type == "tool_use"]

    assert message.stop_reason == "tool_use"
    assert "city" in dict(calls[0].input)


def test_anthropic_thinking(ask_anthropic: anthropic.Anthropic) -> None:
    """Thinking blocks keep their signature."""
    with ask_anthropic.messages.stream(
        model=ANY_MODEL,
        max_tokens=4000,
        thinking={"type": "enabled", "budget_tokens": 2000},
        messages=_said("Think"),
    ) as stream:
        message = stream.get_final_message()
    thoughts = [block for block in message.content if block.type == "thinking"]

    assert thoughts[0].signature


def test_anthropic_counts_tokens(ask_anthropic: anthropic.Anthropic) -> None:
    """Counting is passed on to the provider."""
    counted = ask_anthropic.messages.count_tokens(model=ANY_MODEL, messages=_said("Hello"))

    assert counted.input_tokens > 0


def test_openai_lists_models(ask_openai: openai.OpenAI) -> None:
    """The list holds every model of the config, in a shape the SDK accepts strictly."""
    models = list(ask_openai.models.list())

    assert [model.id for model in models] == [model["id"] for model in FAILOVER["models"]]
    assert models[0].created > 0


def test_anthropic_lists_models(ask_anthropic: anthropic.Anthropic) -> None:
    """The same list satisfies the other SDK."""
    models = list(ask_anthropic.models.list(limit=1000))

    assert [model.id for model in models] == [model["id"] for model in FAILOVER["models"]]
    assert models[0].display_name == "Claude Opus 4.5"


@pytest.mark.parametrize("model", MODELS)
def test_both_retrieve_a_model(
    ask_openai: openai.OpenAI, ask_anthropic: anthropic.Anthropic, model: str
) -> None:
    """A model is found by its id and by its aliases."""
    one, other = ask_openai.models.retrieve(model), ask_anthropic.models.retrieve(model)

    assert one.id == other.id
    assert one.id.startswith(model)


def test_both_understand_our_errors(
    ask_openai: openai.OpenAI, ask_anthropic: anthropic.Anthropic
) -> None:
    """A refusal of ours becomes the SDK's own exception, with message and request id."""
    with pytest.raises(openai.NotFoundError) as one:
        ask_openai.chat.completions.create(model="nobody", messages=_said("x"))
    with pytest.raises(anthropic.NotFoundError) as other:
        ask_anthropic.messages.create(model="nobody", max_tokens=9, messages=_said("x"))

    assert one.value.code == "model_not_found"
    assert "'nobody'" in one.value.message
    assert (one.value.request_id or "").startswith("req_")
    assert other.value.type == "not_found_error"
    assert "'nobody'" in other.value.message
    assert (other.value.request_id or "").startswith("req_")


def test_both_are_turned_away_with_a_wrong_key(gateway: GatewayProcess) -> None:
    """401 becomes the exception programs look for."""
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="no", max_retries=0).models.list()
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=gateway.url, api_key="no", max_retries=0).models.list()


def test_async_clients(gateway: GatewayProcess) -> None:
    """The asynchronous clients work alike, many at once, and answers are never mixed up."""

    async def ask(one: openai.AsyncOpenAI, other: anthropic.AsyncAnthropic, number: int) -> bool:
        marker = f"marker:m{number}"
        stream = await one.chat.completions.create(
            model=ANY_MODEL, messages=_said(marker), stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        async with other.messages.stream(
            model=ANY_MODEL, max_tokens=300, messages=_said(marker)
        ) as events:
            message = await events.get_final_message()
        return marker in text and marker in message.content[0].to_json()

    async def ask_all() -> list[bool]:
        one = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=CLIENT_KEY)
        other = anthropic.AsyncAnthropic(base_url=gateway.url, api_key=CLIENT_KEY)
        async with one, other:
            return await asyncio.gather(*(ask(one, other, number) for number in range(20)))

    assert all(asyncio.run(ask_all()))


def test_a_key_is_taken_in_either_header(gateway: GatewayProcess) -> None:
    """The Anthropic SDK can send it as x-api-key or as bearer token."""
    for given in ({"api_key": CLIENT_KEY}, {"auth_token": CLIENT_KEY, "api_key": None}):
        with anthropic.Anthropic(base_url=gateway.url, **given) as client:
            assert list(client.models.list())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_serves_the_same_models(path: Path) -> None:
    """The models above are those of all shipped configs."""
    models = [model["id"] for model in json.loads(path.read_text())["models"]]

    assert models == [model["id"] for model in FAILOVER["models"]]
