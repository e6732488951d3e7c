"""The official SDKs, pointed straight at the sandbox, accept every answer it gives."""

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import TextBlock, ThinkingBlock, ToolUseBlock

from keymux.sandbox.apart import SandboxThread
from tests.sandbox.peer import KEY

MODEL = "claude-of-any-name"
SERVED = "claude-sonnet-4-5-20250929"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
ARGUMENTS = {"city": "marker:s", "days": 7}
OPENAI_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
ANTHROPIC_TOOL: Any = {"name": "weather", "input_schema": SCHEMA}


@pytest.fixture
def chat(sandbox: SandboxThread) -> Iterator[openai.OpenAI]:
    """The OpenAI SDK at one dialect; good answers are the same in both."""
    with openai.OpenAI(
        base_url=f"{sandbox.url('openhands')}/v1",
        api_key=KEY,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def claude(sandbox: SandboxThread) -> Iterator[anthropic.Anthropic]:
    """The Anthropic SDK at the other."""
    with anthropic.Anthropic(
        base_url=sandbox.url("ohmygpt"),
        api_key=KEY,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


def _said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_openai_plain(chat: openai.OpenAI) -> None:
    """Text, reason to stop, model and usage."""
    answer = chat.chat.completions.create(model=MODEL, messages=_said("hi marker:s"))
    choice = answer.choices[0]

    assert (answer.model, choice.finish_reason) == (MODEL, "stop")
    assert (choice.message.content or "").startswith("marker:s ")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("wants_usage", [True, False])
def test_openai_stream(chat: openai.OpenAI, *, wants_usage: bool) -> None:
    """Role first, then words, then the reason; usage in a last chunk if it was asked for."""
    chunks = list(
        chat.chat.completions.create(
            model=MODEL,
            messages=_said("hi marker:s"),
            stream=True,
            stream_options={"include_usage": wants_usage},
        )
    )
    told = [chunk.choices[0] for chunk in chunks if chunk.choices]

    assert told[0].delta.role == "assistant"
    assert "marker:s This is" in "".join(choice.delta.content or "" for choice in told)
    assert [choice.finish_reason for choice in told if choice.finish_reason] == ["stop"]
    assert [bool(chunk.usage) for chunk in chunks].count(True) == wants_usage
    assert (not chunks[-1].choices) is wants_usage
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_openai_tools(chat: openai.OpenAI, choice: Any) -> None:
    """A call, plain and in fragments, with the same arguments."""
    asked: Any = {
        "model": MODEL,
        "messages": _said("use the tool marker:s"),
        "tools": [OPENAI_TOOL],
        "tool_choice": choice,
    }
    plain = chat.chat.completions.create(**asked).choices[0]
    with chat.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]

    for answer in (plain, streamed):
        calls: Any = answer.message.tool_calls
        assert answer.finish_reason == "tool_calls"
        assert [(call.function.name, call.function.arguments) for call in calls] == [
            ("weather", '{"city":"marker:s","days":7}')
        ]


def test_openai_parallel_tools(chat: openai.OpenAI) -> None:
    """Each call has its own index and id."""
    tools = [
        OPENAI_TOOL,
        {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}},
    ]
    with chat.chat.completions.stream(
        model=MODEL, messages=_said("use all tools"), tools=tools
    ) as stream:
        calls: Any = stream.get_final_completion().choices[0].message.tool_calls

    assert [(call.function.name, call.function.arguments) for call in calls][1] == ("clock", "{}")
    assert len({call.id for call in calls}) == 2


def test_openai_reasoning(chat: openai.OpenAI) -> None:
    """Its words and its tokens."""
    answer = chat.chat.completions.create(
        model=MODEL, messages=_said("hi"), reasoning_effort="high"
    )
    usage: Any = answer.usage

    assert (
        "looks at the request" in (answer.choices[0].message.model_extra or {})["reasoning_content"]
    )
    assert usage.completion_tokens_details.reasoning_tokens > 0


def test_openai_caching(chat: openai.OpenAI) -> None:
    """What the cache gave and took is part of the prompt."""
    part = {"type": "text", "text": "words " * 99, "cache_control": {"type": "ephemeral"}}
    messages: Any = [{"role": "user", "content": [part]}]
    usage: Any = chat.chat.completions.create(model=MODEL, messages=messages).usage
    details = usage.prompt_tokens_details

    assert details.cached_tokens > 0
    assert details.cache_write_tokens > 0
    assert details.cached_tokens + details.cache_write_tokens < usage.prompt_tokens


def test_anthropic_plain(claude: anthropic.Anthropic) -> None:
    """Text, reason to stop, model and usage."""
    answer = claude.messages.create(model=MODEL, max_tokens=99, messages=_said("hi marker:s"))
    block = answer.content[0]
    assert isinstance(block, TextBlock)

    assert (answer.model, answer.stop_reason) == (MODEL, "end_turn")
    assert block.text.startswith("marker:s ")
    assert answer.usage.input_tokens > 0


def test_anthropic_stream(claude: anthropic.Anthropic) -> None:
    """The whole sequence of events; usage is complete at its end only."""
    with claude.messages.stream(
        model=MODEL, max_tokens=99, messages=_said("hi marker:s")
    ) as stream:
        kinds = list(dict.fromkeys(event.type for event in stream))
        final = stream.get_final_message()

    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "text",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert (final.stop_reason, final.usage.output_tokens > 20) == ("end_turn", True)


def test_anthropic_thinking_and_tools(claude: anthropic.Anthropic) -> None:
    """Thinking with its signature, then text, then the call: plain and streamed alike."""
    asked: Any = {
        "model": MODEL,
        "max_tokens": 2000,
        "messages": _said("use the tool marker:s"),
        "tools": [ANTHROPIC_TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    plain = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()

    for answer in (plain, streamed):
        thinking, text, call = answer.content
        assert isinstance(thinking, ThinkingBlock)
        assert isinstance(text, TextBlock)
        assert isinstance(call, ToolUseBlock)
        assert len(thinking.signature) > 40
        assert (call.name, call.input, answer.stop_reason) == ("weather", ARGUMENTS, "tool_use")
    assert plain.usage.output_tokens_details is not None
    assert [block.model_dump(exclude={"id"}) for block in plain.content] == [
        block.model_dump(exclude={"id"}) for block in streamed.content
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_anthropic_caching(claude: anthropic.Anthropic, *, stream: bool) -> None:
    """Reading, and writing by time to live, are told in every way to ask."""
    mark = {"type": "ephemeral", "ttl": "1h"}
    part = {"type": "text", "text": "words " * 99, "cache_control": {"type": "ephemeral"}}
    asked: Any = {
        "model": MODEL,
        "max_tokens": 99,
        "system": [{"type": "text", "text": "words " * 99, "cache_control": mark}],
        "messages": [{"role": "user", "content": [part]}],
    }
    if stream:
        with claude.messages.stream(**asked) as events:
            usage: Any = events.get_final_message().usage
    else:
        usage = claude.messages.create(**asked).usage
    written = usage.cache_creation

    assert usage.cache_read_input_tokens > 0
    assert written.ephemeral_5m_input_tokens > 0
    assert written.ephemeral_1h_input_tokens > 0
    assert usage.cache_creation_input_tokens == (
        written.ephemeral_5m_input_tokens + written.ephemeral_1h_input_tokens
    )


def test_count_tokens(claude: anthropic.Anthropic) -> None:
    """The count is that of the real request."""
    counted = claude.messages.count_tokens(model=MODEL, messages=_said("hello " * 40))
    used = claude.messages.create(model=MODEL, messages=_said("hello " * 40), max_tokens=9)

    assert counted.input_tokens == used.usage.input_tokens > 50


def test_openai_models(chat: openai.OpenAI) -> None:
    """A list, and any single one."""
    listed = [model.id for model in chat.models.list()]

    assert SERVED in listed
    assert chat.models.retrieve(SERVED).owned_by == "sandbox"
    assert chat.models.retrieve("anything/at-all").id == "anything/at-all"


def test_anthropic_models(claude: anthropic.Anthropic) -> None:
    """The same objects under the other SDK's rules."""
    listed = {model.id: model for model in claude.models.list()}

    assert listed[SERVED].display_name == "Claude Sonnet 4.5"
    assert claude.models.retrieve(SERVED) == listed[SERVED]


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        pytest.param("rejected", openai.AuthenticationError, id="401"),
        pytest.param("throttled", openai.RateLimitError, id="429"),
        pytest.param("no-such-model", openai.NotFoundError, id="404"),
        pytest.param("refused", openai.BadRequestError, id="400"),
        pytest.param("server-error", openai.InternalServerError, id="500"),
    ],
)
def test_openai_errors(
    sandbox: SandboxThread, chat: openai.OpenAI, behaviour: str, error: type[Exception]
) -> None:
    """Each status is the SDK's own exception."""
    sandbox.behave(KEY, behaviour)

    with pytest.raises(error):
        chat.chat.completions.create(model=MODEL, messages=_said("hi"))


@pytest.mark.parametrize("behaviour", ["overloaded-in-200", "error-mid-stream"])
def test_errors_in_a_stream(
    sandbox: SandboxThread, chat: openai.OpenAI, claude: anthropic.Anthropic, behaviour: str
) -> None:
    """Both SDKs raise what the event says."""
    sandbox.behave(KEY, behaviour)

    with pytest.raises(openai.APIError, match="Overloaded"):
        list(chat.chat.completions.create(model=MODEL, messages=_said("hi"), stream=True))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        list(claude.messages.create(model=MODEL, messages=_said("hi"), max_tokens=99, stream=True))


@pytest.mark.parametrize("behaviour", ["crlf", "crlf@mixed", "drip", "gzip", "huge-event@70000"])
def test_odd_streams_are_understood(
    sandbox: SandboxThread, chat: openai.OpenAI, claude: anthropic.Anthropic, behaviour: str
) -> None:
    """They are odd, not wrong."""
    sandbox.behave(KEY, behaviour)
    chunks = list(
        chat.chat.completions.create(model=MODEL, messages=_said("hi marker:s"), stream=True)
    )
    with claude.messages.stream(
        model=MODEL, max_tokens=99, messages=_said("hi marker:s")
    ) as stream:
        text = stream.get_final_text()

    assert "marker:s" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("marker:s")
