"""Anthropic Messages: ``POST /v1/messages`` and ``/v1/messages/count_tokens``.

Usage counts exclusively: ``input_tokens`` leaves out the cache. ``message_start`` names the input
and a placeholder for the output; every ``message_delta`` is cumulative and overrides field by
field, sometimes by a factor of a hundred. With ``usage.iterations`` the top level leaves out
compaction and advisor turns, so the bill is the sum over the iterations. A stream is complete with
``message_stop``.
"""

import re
from types import MappingProxyType

import msgspec
from msgspec import Raw, Struct

from keymux.core.faults import Fault
from keymux.core.vocabulary import Quality, Usage, WireFormat
from keymux.wire import sse
from keymux.wire.estimate import tokens_of
from keymux.wire.formats import (
    Format,
    Head,
    Opening,
    Significance,
    SteeringFields,
    lenient,
    no_steering,
    second_look,
    whole_number,
    with_prompt,
)
from keymux.wire.surrogates import tolerant

_STOP = re.compile(rb"(?:\A|[\r\n])event: ?message_stop *(?=[\r\n])")
_FAILED = re.compile(rb"(?:\A|[\r\n])event: ?error *(?=[\r\n])")
_USAGE = re.compile(rb'"usage"\s*:\s*\{')

_TYPES = MappingProxyType(
    {
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        408: "timeout_error",
        413: "request_too_large",
        429: "rate_limit_error",
        500: "api_error",
        502: "api_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)


class _Head(SteeringFields, kw_only=True):
    model: str
    stream: bool | None = None
    max_tokens: Raw = Raw(b"0")


class _CacheCreation(Struct):
    ephemeral_5m_input_tokens: object = None
    ephemeral_1h_input_tokens: object = None


class _OutputDetails(Struct):
    thinking_tokens: object = None


class _Usage(Struct):
    input_tokens: object = None
    output_tokens: object = None
    cache_read_input_tokens: object = None
    cache_creation_input_tokens: object = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    iterations: list["_Usage"] | None = None


_NO_DETAILS, _NO_TOKENS = _OutputDetails(), Usage()


class _Answer(Struct):
    usage: _Usage | None = None


class _Delta(Struct):
    text: object = None
    thinking: object = None
    partial_json: object = None


class _StreamEvent(Struct):
    type: object = None
    message: _Answer | None = None
    usage: _Usage | None = None
    delta: _Delta | None = None


_read_head = msgspec.json.Decoder(_Head, dec_hook=no_steering).decode
_read_answer = tolerant(msgspec.json.Decoder(_Answer).decode)
_read_event = tolerant(msgspec.json.Decoder(_StreamEvent).decode)


def read_head(body: bytes) -> Head:
    """The fields that decide what happens to a request.

    Raises:
        BadRequest: not JSON, or a field we need has the wrong type.
    """
    try:
        head = _read_head(body)
    except (ValueError, RecursionError):
        head = second_look(_read_head, body)
    return Head(
        model=head.model,
        stream=bool(head.stream),
        max_tokens=whole_number(lenient(head.max_tokens)),
    )


def _overlaid(before: Usage, found: _Usage) -> Usage:
    """The figures after one more report: what it names counts, what it leaves out stays."""
    if found.iterations:
        turns = _added_up(found.iterations)
        if turns != _NO_TOKENS:
            return turns
    short, long = _cache_writes(before, found)
    details = found.output_tokens_details or _NO_DETAILS
    return Usage(
        _told(found.input_tokens, before.input),
        _told(found.output_tokens, before.output),
        _told(found.cache_read_input_tokens, before.cache_read),
        short,
        long,
        _told(details.thinking_tokens, before.reasoning),
    )


def _added_up(turns: list[_Usage]) -> Usage:
    total = _NO_TOKENS
    for turn in turns:
        turn.iterations = None  # one level is all there is, however deep an answer nests them
        total = total.plus(_overlaid(_NO_TOKENS, turn))
    return total


def _cache_writes(before: Usage, found: _Usage) -> tuple[int, int]:
    """Tokens written to the five-minute and to the one-hour cache.

    The total and the figures by age may each be missing, or zero where only the other is kept.
    """
    short, long, by_age = before.cache_write_5m, before.cache_write_1h, found.cache_creation
    if by_age is not None:
        short = _told(by_age.ephemeral_5m_input_tokens, short)
        long = _told(by_age.ephemeral_1h_input_tokens, long)
    if found.cache_creation_input_tokens is None:
        return short, long
    total = whole_number(found.cache_creation_input_tokens)
    if by_age is not None:
        return max(short, total - long), long
    long = min(long, total)
    return total - long, long


def _told(value: object, before: int) -> int:
    return before if value is None else whole_number(value)


def read_usage(body: bytes) -> Usage | None:
    """The usage of a complete answer.

    Raises:
        ValueError: the bytes are not a whole JSON object.
    """
    try:
        found = _read_answer(body).usage
    except msgspec.ValidationError:
        return None
    usage = _NO_TOKENS if found is None else _overlaid(_NO_TOKENS, found)
    return None if usage == _NO_TOKENS else usage


def _event(data: bytes) -> _StreamEvent:
    try:
        return _read_event(data)
    except (ValueError, RecursionError):
        return _StreamEvent()


def opening(event: sse.Event) -> Opening:
    """What an early event is worth: everything up to the first delta can still be taken back."""
    if event.name == b"error":
        return Opening(Significance.ERROR)
    found = _event(event.data) if event.data else _StreamEvent()
    if found.type == "error":
        return Opening(Significance.ERROR)
    if found.type == "content_block_delta":
        delta = found.delta or _Delta()
        said = (delta.text, delta.thinking, delta.partial_json)
        text = sum(len(words.encode()) for words in said if isinstance(words, str))
        return Opening(Significance.PAYLOAD, text)
    if found.type in {"message_delta", "message_stop"}:
        return Opening(Significance.PAYLOAD)
    return Opening(Significance.PREAMBLE)


class AnthropicMeter:
    """Usage and end of one Messages stream."""

    __slots__ = ("_ended", "end", "failure", "finished", "usage")

    def __init__(self) -> None:
        self.usage = _NO_TOKENS
        self.finished = False
        self.failure = b""
        self.end = 0
        self._ended = False

    def note(self, block: bytes) -> None:
        """Take in a block of whole events; nothing is parsed unless a marker is in it."""
        if b"message_stop" in block and (stop := _STOP.search(block)):
            self.finished = True
            self.end = sse.end_of_event(block, stop.end())
            block = block[: self.end]
        if _USAGE.search(block) or (b"error" in block and _FAILED.search(block)):
            position = 0
            for event in sse.split(block):
                position += len(event)
                if self._is_failure(sse.parse(event)):
                    self.finished, self.end = False, position
                    return

    def _is_failure(self, event: sse.Event) -> bool:
        found = _event(event.data) if event.data else _StreamEvent()
        if event.name == b"error" or found.type == "error":
            self.failure = event.data or b"{}"
            return True
        usage = found.usage or (found.message.usage if found.message else None)
        if usage is not None:
            self.usage = _overlaid(self.usage, usage)
            self._ended = self._ended or found.type == "message_delta"
        return False

    def settle(self, text_bytes: int, prompt_tokens: int) -> tuple[Usage, Quality]:
        """The upstream's figures; where it was cut, the output is estimated from what came by."""
        usage = with_prompt(self.usage, prompt_tokens)
        if not self._ended or not self.usage.total:
            usage = msgspec.structs.replace(usage, output=max(usage.output, tokens_of(text_bytes)))
        if not self.finished:
            return usage, Quality.PARTIAL
        told_all = self._ended and usage is self.usage
        return usage, Quality.FINAL if told_all else Quality.ESTIMATED


def _error(fault: Fault, request_id: str) -> bytes:
    kind = _TYPES.get(fault.status, "invalid_request_error")
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {
                "type": kind,
                "message": fault.message,
                "details": {"error_code": fault.code},
            },
            "request_id": request_id,
        }
    )


def error_body(fault: Fault, request_id: str) -> bytes:
    """The JSON of a refusal."""
    return _error(fault, request_id)


def error_event(fault: Fault, request_id: str) -> bytes:
    """The event that ends a stream that failed: an error and no ``message_stop``."""
    return b"event: error\ndata: %s\n\n" % _error(fault, request_id)


def _unchanged(body: bytes) -> bytes:
    return body


def _never(event: sse.Event) -> bool:  # noqa: ARG001 -- this format always tells usage unasked
    return False


FORMAT = Format(
    name=WireFormat.ANTHROPIC,
    request_id_header=b"request-id",
    read_head=read_head,
    read_usage=read_usage,
    asking_for_usage=_unchanged,
    is_extra_usage=_never,
    opening=opening,
    meter=AnthropicMeter,
    error_body=error_body,
    error_event=error_event,
    statuses=MappingProxyType({503: 529}),
)
