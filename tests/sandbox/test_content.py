"""The pretended model says the same words to the same prompt, and counts them."""

import json
from typing import Any

import pytest

from keymux.core.vocabulary import Usage, WireFormat
from keymux.sandbox.content import Content, Stop, content_for
from keymux.sandbox.prompt import read_prompt

LONG_MARK = {"type": "ephemeral", "ttl": "1h"}
SHORT_MARK = {"type": "ephemeral"}


def _content(text: str = "hi", **fields: Any) -> Content:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    encoded = json.dumps(body).encode()
    return content_for(read_prompt(encoded, WireFormat.OPENAI), encoded)


def _marked(*marks: object) -> Usage:
    parts = [{"type": "text", "text": "words " * 40, "cache_control": mark} for mark in marks]
    usage = _content(messages=[{"role": "user", "content": parts}]).usage
    assert usage is not None
    return usage


def test_the_answer_carries_the_marker_in_front() -> None:
    """So that even a short answer can be told from all others."""
    content = _content("please marker:A-1 and marker:b_2.", max_tokens=2)

    assert "".join(content.text) == "marker:A-1 marker:b_2"


def test_there_are_several_deltas_and_they_hold_more_than_ascii() -> None:
    """Two- and four-byte characters are streamed too."""
    content = _content()

    assert len(content.text) > 5
    assert {"ü", "🙂"} <= set("".join(content.text))


def test_the_same_prompt_gets_the_same_answer() -> None:
    """Answers can be compared by their hash."""
    assert _content("marker:x", reasoning_effort="low") == _content(
        "marker:x", reasoning_effort="low"
    )


@pytest.mark.parametrize(
    ("fields", "stop", "sequence"),
    [
        pytest.param({}, Stop.END, "", id="said everything"),
        pytest.param({"max_tokens": 3}, Stop.LENGTH, "", id="no more words allowed"),
        pytest.param({"max_tokens": 999}, Stop.END, "", id="more words allowed than needed"),
        pytest.param({"stop": ["never", " sand"]}, Stop.SEQUENCE, " sand", id="a stop text met"),
        pytest.param({"stop": "never"}, Stop.END, "", id="a stop text not met"),
    ],
)
def test_why_it_ends(fields: dict[str, Any], stop: Stop, sequence: str) -> None:
    """The reason to stop is the true one."""
    content = _content(**fields)

    assert (content.stop, content.stop_sequence) == (stop, sequence)


def test_what_follows_a_stop_text_is_not_said() -> None:
    """The stop text itself is left out as well; the first one that comes counts."""
    assert "".join(_content(stop=" sandbox,").text) == "This is the"
    assert "".join(_content(stop=[" the", " is"]).text) == "This"


def test_a_tool_call_ends_the_turn() -> None:
    """Its arguments are JSON that carries the marker."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    content = _content("call the tool marker:t", tools=tools)

    assert content.stop is Stop.TOOL
    assert [(call.name, call.arguments) for call in content.calls] == [
        ("weather", b'{"city":"marker:t"}')
    ]


@pytest.mark.parametrize("length", [0, 1, 500])
def test_an_answer_has_as_many_words_as_asked_for(length: int) -> None:
    """``words:N`` makes answers of any length."""
    content = _content(f"words:{length}")

    assert len("".join(content.text).split()) == length


def test_words_and_thoughts_are_counted() -> None:
    """Output holds the reasoning and never exceeds what was allowed."""
    content = _content(reasoning_effort="high", max_tokens=20)
    usage = content.usage
    assert usage is not None

    assert (usage.output, usage.reasoning) == (20, 10)
    assert len("".join(content.thinking).split()) == 10
    assert content.signature


def test_a_call_is_whole_whatever_was_allowed() -> None:
    """But no more output is counted than that."""
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    content = _content("hi", tools=tools, tool_choice="required", max_tokens=1)
    assert content.usage is not None

    assert (content.calls[0].arguments, content.usage.output) == (b"{}", 1)


def test_without_cache_marks_nothing_is_cached() -> None:
    """All input is plain input."""
    usage = _content("hi").usage
    assert usage is not None

    assert (usage.input > 0, usage.cache_read, usage.cache_write_5m) == (True, 0, 0)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        pytest.param([SHORT_MARK], (True, False), id="five minutes"),
        pytest.param([LONG_MARK], (False, True), id="an hour"),
        pytest.param([SHORT_MARK, LONG_MARK], (True, True), id="both"),
    ],
)
def test_cache_marks_are_reported_by_time_to_live(
    marks: list[object], expected: tuple[bool, bool]
) -> None:
    """Reading, and writing for each time to live, have tokens of their own."""
    usage = _marked(*marks)

    assert (usage.cache_write_5m > 0, usage.cache_write_1h > 0) == expected
    assert usage.cache_read > 0
    assert usage.input > 0


def test_cached_tokens_are_part_of_the_prompt() -> None:
    """The classes add up to what the prompt has without marks."""
    parts = [{"type": "text", "text": "words " * 40}] * 2
    plain = _content(messages=[{"role": "user", "content": parts}]).usage
    marked = _marked(SHORT_MARK, LONG_MARK)
    assert plain is not None

    assert abs(marked.total - marked.output - plain.input) < 20
