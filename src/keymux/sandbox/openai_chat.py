"""Render content as OpenAI Chat Completions: one JSON object, or the chunks of a stream."""

from types import MappingProxyType

import msgspec

from keymux.core.vocabulary import Usage
from keymux.sandbox.content import Call, Content, Stop

_FRAGMENT = 9
_STOPS = MappingProxyType(
    {
        Stop.END: "stop",
        Stop.LENGTH: "length",
        Stop.SEQUENCE: "stop",
        Stop.TOOL: "tool_calls",
    }
)
PREAMBLE = 1
"""Chunks of a stream before its first word: the one that names the role."""


def plain(content: Content, identity: str, created: int) -> bytes:
    """The answer in one piece."""
    message: dict[str, object] = {
        "role": "assistant",
        "content": "".join(content.text) or None,
        "refusal": None,
    }
    if content.thinking:
        message["reasoning_content"] = "".join(content.thinking)
    if content.calls:
        message["tool_calls"] = [
            {**_call(identity, index), "function": _function(call, call.arguments.decode())}
            for index, call in enumerate(content.calls)
        ]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _STOPS[content.stop],
    }
    return msgspec.json.encode(
        {
            **_frame("chat.completion", content, identity, created),
            "choices": [choice],
            **({} if content.usage is None else {"usage": _usage(content.usage)}),
        }
    )


def stream(
    content: Content, identity: str, created: int, *, wants_usage: bool
) -> tuple[bytes, ...]:
    """The answer as events.

    Args:
        content: what to say.
        identity: from which the ids are made.
        created: seconds since 1970.
        wants_usage: whether the request asked for usage in the stream.
    """
    frame = _frame("chat.completion.chunk", content, identity, created)
    with_usage = wants_usage and content.usage is not None

    def chunk(delta: dict[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**frame, "choices": [choice], **({"usage": None} if with_usage else {})})

    events = [chunk({"role": "assistant", "content": ""})]
    events.extend(chunk({"reasoning_content": part}) for part in content.thinking)
    events.extend(chunk({"content": part}) for part in content.text)
    for index, call in enumerate(content.calls):
        opening = {**_call(identity, index), "index": index, "function": _function(call, "")}
        events.append(chunk({"tool_calls": [opening]}))
        events.extend(
            chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
            for part in _fragments(call)
        )
    events.append(chunk({}, _STOPS[content.stop]))
    if with_usage and content.usage is not None:
        events.append(_event({**frame, "choices": [], "usage": _usage(content.usage)}))
    events.append(b"data: [DONE]\n\n")
    return tuple(events)


def _event(chunk: dict[str, object]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(chunk)


def _frame(kind: str, content: Content, identity: str, created: int) -> dict[str, object]:
    return {
        "id": f"chatcmpl-{identity}",
        "object": kind,
        "created": created,
        "model": content.model,
        "system_fingerprint": "fp_sandbox",
    }


def _call(identity: str, index: int) -> dict[str, object]:
    return {"id": f"call_{identity}_{index}", "type": "function"}


def _function(call: Call, arguments: str) -> dict[str, object]:
    return {"name": call.name, "arguments": arguments}


def _fragments(call: Call) -> list[str]:
    text = call.arguments.decode()
    return [text[start : start + _FRAGMENT] for start in range(0, len(text), _FRAGMENT)]


def _usage(usage: Usage) -> dict[str, object]:
    """Counted inclusively: the prompt holds what the cache gave and took."""
    written = usage.cache_write_5m + usage.cache_write_1h
    prompt = usage.input + usage.cache_read + written
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output,
        "total_tokens": prompt + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": written,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
