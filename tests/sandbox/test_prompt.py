"""Both wire formats are read into the same prompt."""

import json
from typing import Any

import pytest

from keymux.core.vocabulary import WireFormat
from keymux.sandbox.prompt import BadPrompt, Prompt, read_prompt

OPENAI, ANTHROPIC = WireFormat.OPENAI, WireFormat.ANTHROPIC
SCHEMA = {"type": "object"}
OPENAI_TOOLS = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in "ab"]
ANTHROPIC_TOOLS = [
    {"type": "web_search_20250305", "name": "web_search"},
    *({"name": n, "input_schema": SCHEMA} for n in "ab"),
]
TOOLS = {OPENAI: OPENAI_TOOLS, ANTHROPIC: ANTHROPIC_TOOLS}


def _read(wire_format: WireFormat, *messages: Any, **fields: Any) -> Prompt:
    said = messages or ({"role": "user", "content": "hi"},)
    body = {"model": "m", "max_tokens": 9, "messages": said, **fields}
    return read_prompt(json.dumps(body).encode(), wire_format)


def _called(prompt: Prompt) -> str:
    return "".join(tool.name for tool in prompt.calls)


@pytest.mark.parametrize(
    ("choice", "text", "expected"),
    [
        pytest.param({}, "hi", "", id="nobody talks of tools"),
        pytest.param({}, "use a Tool", "a", id="the user talks of a tool"),
        pytest.param({}, "use all tools", "ab", id="the user wants all of them"),
        pytest.param({"tool_choice": "none"}, "use a tool", "", id="calling is forbidden"),
        pytest.param({"tool_choice": "required"}, "hi", "a", id="any call is demanded"),
        pytest.param(
            {"tool_choice": {"type": "function", "function": {"name": "b"}}},
            "hi",
            "b",
            id="one call is demanded",
        ),
    ],
)
def test_openai_tools(choice: dict[str, Any], text: str, expected: str) -> None:
    """A tool is called when the request forces it or the user asks for it."""
    said = {"role": "user", "content": text}

    assert _called(_read(OPENAI, said, tools=OPENAI_TOOLS, **choice)) == expected


@pytest.mark.parametrize(
    ("choice", "text", "expected"),
    [
        pytest.param({}, "use a tool", "a", id="the user talks of a tool"),
        pytest.param({"type": "auto"}, "hi", "", id="nobody talks of tools"),
        pytest.param({"type": "none"}, "use a tool", "", id="calling is forbidden"),
        pytest.param({"type": "any"}, "hi", "a", id="any call is demanded"),
        pytest.param({"type": "tool", "name": "b"}, "hi", "b", id="one call is demanded"),
    ],
)
def test_anthropic_tools(choice: dict[str, Any], text: str, expected: str) -> None:
    """The provider's own tools, which have no schema, are never called."""
    said = {"role": "user", "content": text}
    prompt = _read(ANTHROPIC, said, tools=ANTHROPIC_TOOLS, tool_choice=choice)

    assert _called(prompt) == expected


@pytest.mark.parametrize(
    ("wire_format", "result"),
    [
        pytest.param(
            OPENAI, {"role": "tool", "tool_call_id": "1", "content": "7"}, id="OpenAI's way"
        ),
        pytest.param(
            ANTHROPIC,
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]},
            id="Anthropic's way",
        ),
    ],
)
def test_a_tools_result_is_answered_in_words(
    wire_format: WireFormat, result: dict[str, Any]
) -> None:
    """Otherwise an agent would call the tool for ever."""
    question = {"role": "user", "content": "use a tool marker:q"}
    prompt = _read(wire_format, question, result, tools=TOOLS[wire_format])

    assert (_called(prompt), prompt.text) == ("", "use a tool marker:q")


def test_the_last_words_of_the_user_count() -> None:
    """Whoever speaks after the user, and whether content is a string or a list."""
    prompt = _read(
        ANTHROPIC,
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "second"}]},
        {"role": "system", "content": "reminder"},
    )

    assert prompt.text == "second"


def test_there_may_be_no_words_of_a_user() -> None:
    """Then the text is empty."""
    assert _read(OPENAI, {"role": "assistant", "content": "hi"}).text == ""


@pytest.mark.parametrize(
    ("wire_format", "fields", "expected"),
    [
        pytest.param(OPENAI, {"reasoning_effort": "low"}, True, id="an effort is asked for"),
        pytest.param(OPENAI, {"reasoning_effort": "none"}, False, id="no effort is asked for"),
        pytest.param(OPENAI, {"thinking": {"type": "enabled"}}, True, id="as LiteLLM takes it"),
        pytest.param(ANTHROPIC, {"thinking": {"type": "adaptive"}}, True, id="adaptive thinking"),
        pytest.param(ANTHROPIC, {"thinking": {"type": "disabled"}}, False, id="switched off"),
        pytest.param(ANTHROPIC, {}, False, id="not mentioned"),
    ],
)
def test_thinking(wire_format: WireFormat, fields: dict[str, Any], expected: object) -> None:
    """Thinking is shown when it is asked for."""
    assert _read(wire_format, **fields).thinking is expected


def test_limits_of_both_formats() -> None:
    """Length and stop texts are read under every name they have."""
    openai = _read(OPENAI, max_completion_tokens=3, stop="x")
    anthropic = _read(ANTHROPIC, stop_sequences=["x", "y"])

    assert (openai.max_tokens, openai.stops) == (3, ("x",))
    assert (anthropic.max_tokens, anthropic.stops) == (9, ("x", "y"))


def test_cache_marks_are_found_anywhere() -> None:
    """Marks in the system prompt, in messages and on tools count; five minutes is the default."""
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    prompt = _read(
        ANTHROPIC,
        {"role": "user", "content": [part]},
        tools=[{"name": "a", "input_schema": {}, **mark}],
    )

    assert prompt.caching == {"5m", "1h"}


@pytest.mark.parametrize(
    ("wire_format", "body", "word"),
    [
        pytest.param(OPENAI, b"{", "JSON", id="broken JSON"),
        pytest.param(OPENAI, b"[]", "JSON object", id="no object"),
        pytest.param(OPENAI, b'{"messages":[{}]}', "model", id="no model"),
        pytest.param(OPENAI, b'{"model":"m","messages":[]}', "messages", id="no messages"),
        pytest.param(
            ANTHROPIC, b'{"model":"m","messages":[{}]}', "max_tokens", id="no limit of length"
        ),
        pytest.param(
            ANTHROPIC,
            b'{"model":"m","messages":[{}],"max_tokens":true}',
            "max_tokens",
            id="a limit that is no number",
        ),
    ],
)
def test_a_wrong_request_is_refused(wire_format: WireFormat, body: bytes, word: str) -> None:
    """The refusal names what is wrong."""
    with pytest.raises(BadPrompt, match=word):
        read_prompt(body, wire_format)


def test_counting_needs_no_limit() -> None:
    """``count_tokens`` takes the same body without ``max_tokens``."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'

    assert read_prompt(body, ANTHROPIC, counting=True).max_tokens is None
