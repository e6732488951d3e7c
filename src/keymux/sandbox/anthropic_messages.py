"""Render content as Anthropic Messages: one JSON object, or the events of a stream."""

from types import MappingProxyType

import msgspec

from keymux.core.vocabulary import Usage
from keymux.sandbox.content import Call, Content, Stop

_FRAGMENT = 9
_PLACEHOLDER_TOKENS = 1
_STOPS = MappingProxyType(
    {
        Stop.END: "end_turn",
        Stop.LENGTH: "max_tokens",
        Stop.SEQUENCE: "stop_sequence",
        Stop.TOOL: "tool_use",
    }
)
PREAMBLE = 1
"""Events of a stream before its first word: ``message_start``; blocks and pings follow it."""


def plain(content: Content, identity: str) -> bytes:
    """The answer in one piece."""
    blocks: list[object] = []
    if content.thinking:
        thinking = "".join(content.thinking)
        blocks.append({"type": "thinking", "thinking": thinking, "signature": content.signature})
    if content.text:
        blocks.append({"type": "text", "text": "".join(content.text)})
    for index, call in enumerate(content.calls):
        arguments = msgspec.json.decode(call.arguments)
        blocks.append({**_tool_use(call, identity, index), "input": arguments})
    return msgspec.json.encode(
        {
            **_message(content, identity),
            "content": blocks,
            **_ending(content),
            **_usage(content.usage),
        }
    )


def stream(content: Content, identity: str) -> tuple[bytes, ...]:
    """The answer as events."""
    events = [
        _event(
            "message_start",
            message={
                **_message(content, identity),
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                **_usage(content.usage, output=_PLACEHOLDER_TOKENS),
            },
        )
    ]
    blocks = [*_told_blocks(content), *_call_blocks(content, identity)]
    for index, (start, deltas) in enumerate(blocks):
        events.append(_event("content_block_start", index=index, content_block=start))
        if index == 0:
            events.append(_event("ping"))
        events.extend(_event("content_block_delta", index=index, delta=delta) for delta in deltas)
        events.append(_event("content_block_stop", index=index))
    events.append(_event("message_delta", delta=_ending(content), **_usage(content.usage)))
    events.append(_event("message_stop"))
    return tuple(events)


def _event(kind: str, **fields: object) -> bytes:
    encoded = msgspec.json.encode({"type": kind, **fields})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encoded)


def _message(content: Content, identity: str) -> dict[str, object]:
    return {
        "id": f"msg_{identity}",
        "type": "message",
        "role": "assistant",
        "model": content.model,
    }


def _tool_use(call: Call, identity: str, index: int) -> dict[str, object]:
    return {"type": "tool_use", "id": f"toolu_{identity}_{index}", "name": call.name}


def _ending(content: Content) -> dict[str, object]:
    return {
        "stop_reason": _STOPS[content.stop],
        "stop_sequence": content.stop_sequence if content.stop is Stop.SEQUENCE else None,
    }


def _told_blocks(content: Content) -> list[tuple[object, list[object]]]:
    """Thinking and text, each with its deltas."""
    blocks: list[tuple[object, list[object]]] = []
    if content.thinking:
        deltas: list[object] = [
            {"type": "thinking_delta", "thinking": part} for part in content.thinking
        ]
        deltas.append({"type": "signature_delta", "signature": content.signature})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    if content.text:
        texts: list[object] = [{"type": "text_delta", "text": part} for part in content.text]
        blocks.append(({"type": "text", "text": ""}, texts))
    return blocks


def _call_blocks(content: Content, identity: str) -> list[tuple[object, list[object]]]:
    """Tool calls; an empty fragment comes first, and alone when there are no arguments."""
    return [
        (
            {**_tool_use(call, identity, index), "input": {}},
            [
                {"type": "input_json_delta", "partial_json": part}
                for part in ["", *_fragments(call)]
            ],
        )
        for index, call in enumerate(content.calls)
    ]


def _fragments(call: Call) -> list[str]:
    if call.arguments == b"{}":
        return []
    text = call.arguments.decode()
    return [text[start : start + _FRAGMENT] for start in range(0, len(text), _FRAGMENT)]


def _usage(usage: Usage | None, *, output: int | None = None) -> dict[str, object]:
    """The ``usage`` field; at the start of a stream the output is a placeholder."""
    if usage is None:
        return {}
    told: dict[str, object] = {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output if output is None else min(output, usage.output),
        "service_tier": "standard",
    }
    if usage.reasoning and output is None:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return {"usage": told}
