"""OpenAI Chat Completions: ``POST /v1/chat/completions``.

Usage counts inclusively: ``prompt_tokens`` holds what was read from and written to the cache,
``completion_tokens`` holds the reasoning. A stream carries usage only when asked with
``stream_options.include_usage``, in a last chunk whose ``choices`` are empty; some servers put it
in every chunk, beside the finish reason or into an extension of theirs, so the last one that is not
null counts.
"""

import re
from http import HTTPStatus
from types import MappingProxyType

import msgspec
from msgspec import Raw, Struct

from keymux.core.faults import Fault
from keymux.core.vocabulary import Kind, Quality, Usage, WireFormat
from keymux.wire import splice, sse
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

_DONE = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\] *(?=[\r\n]|\Z)")
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = re.compile(rb'"error"\s*:\s*[^\s\dn]')

_TYPES = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "insufficient_quota",
        403: "permission_error",
        404: "invalid_request_error",
        408: "timeout",
        429: "rate_limit_error",
    }
)


class _StreamOptions(Struct):
    include_usage: object = None


_NOTHING = Raw(b"null")


class _Head(SteeringFields, kw_only=True):
    model: str
    stream: bool | None = None
    stream_options: Raw = _NOTHING
    store: Raw = _NOTHING
    max_tokens: Raw = _NOTHING
    max_completion_tokens: Raw = _NOTHING


class _PromptDetails(Struct):
    cached_tokens: object = 0
    cache_write_tokens: object = 0
    cache_creation_tokens: object = 0


class _CompletionDetails(Struct):
    reasoning_tokens: object = 0


_NO_PROMPT, _NO_COMPLETION, _NO_TOKENS = _PromptDetails(), _CompletionDetails(), Usage()


class _Usage(Struct):
    prompt_tokens: object = 0
    completion_tokens: object = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    cache_read_input_tokens: object = 0
    cache_creation_input_tokens: object = 0
    prompt_cache_hit_tokens: object = 0


class _Answer(Struct):
    usage: _Usage | None = None


class _Delta(Struct):
    content: object = None
    refusal: object = None
    reasoning: object = None
    reasoning_content: object = None
    tool_calls: object = None
    function_call: object = None


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: object = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Raw = _NOTHING
    x_groq: _Answer | None = None


_read_head = msgspec.json.Decoder(_Head, dec_hook=no_steering).decode
_read_options = msgspec.json.Decoder(_StreamOptions | None).decode
_read_answer = tolerant(msgspec.json.Decoder(_Answer).decode)
_read_chunk = tolerant(msgspec.json.Decoder(_Chunk).decode)


def read_head(body: bytes) -> Head:
    """The fields that decide what happens to a request.

    Raises:
        BadRequest: not JSON, or a field we need has the wrong type.
    """
    try:
        head = _read_head(body)
    except (ValueError, RecursionError):
        head = second_look(_read_head, body)
    stream = bool(head.stream)
    limit = _lenient(head.max_completion_tokens) or _lenient(head.max_tokens)
    return Head(
        model=head.model,
        stream=stream,
        max_tokens=whole_number(limit),
        wants_usage=not stream or _asks_for_usage(head.stream_options),
        kind=Kind.STATEFUL if _lenient(head.store) is True else Kind.GENERATION,
    )


def _lenient(value: Raw) -> object:
    return None if value is _NOTHING else lenient(value)


def _asks_for_usage(options: Raw) -> bool:
    try:
        given = _read_options(options)
    except msgspec.ValidationError:
        return False
    return given is not None and given.include_usage is True


def asking_for_usage(body: bytes) -> bytes:
    """The same request, asking for usage in its stream."""
    for field in reversed(splice.fields(body)):
        if field.name == "stream_options":
            given = body[field.start : field.end]
            wanted = (
                splice.with_field(given, "include_usage", b"true")
                if given.startswith(b"{")
                else b'{"include_usage":true}'
            )
            return splice.with_field(body, "stream_options", wanted)
    return splice.with_field(body, "stream_options", b'{"include_usage":true}')


def _usage(found: _Usage) -> Usage:
    prompt = found.prompt_tokens_details or _NO_PROMPT
    completion = found.completion_tokens_details or _NO_COMPLETION
    read = (
        whole_number(prompt.cached_tokens)
        or whole_number(found.cache_read_input_tokens)
        or whole_number(found.prompt_cache_hit_tokens)
    )
    written = (
        whole_number(prompt.cache_write_tokens)
        or whole_number(prompt.cache_creation_tokens)
        or whole_number(found.cache_creation_input_tokens)
    )
    prompted = whole_number(found.prompt_tokens)
    if prompted >= read + written:  # else this server counts as Anthropic does
        prompted -= read + written
    written_out = whole_number(found.completion_tokens)
    reasoning = whole_number(completion.reasoning_tokens)
    return Usage(prompted, written_out, read, written, 0, reasoning)


def read_usage(body: bytes) -> Usage | None:
    """The usage of a complete answer.

    Raises:
        ValueError: the bytes are not a whole JSON object.
    """
    try:
        found = _read_answer(body).usage
    except msgspec.ValidationError:
        return None
    usage = _NO_TOKENS if found is None else _usage(found)
    return None if usage == _NO_TOKENS else usage


def _chunk(data: bytes) -> _Chunk:
    try:
        return _read_chunk(data)
    except (ValueError, RecursionError):
        return _Chunk()


def is_extra_usage(event: sse.Event) -> bool:
    """True for the chunk that only ``include_usage`` brings: usage and no choices."""
    if not _USAGE.search(event.data):
        return False
    chunk = _chunk(event.data)
    return chunk.usage is not None and not chunk.choices


def opening(event: sse.Event) -> Opening:
    """What an early chunk is worth: a role alone, or no text yet, can still be taken back."""
    if event.data.strip() == b"[DONE]":
        return Opening(Significance.PAYLOAD)
    if not event.data:
        return Opening(Significance.PREAMBLE)
    chunk = _chunk(event.data)
    if _lenient(chunk.error):
        return Opening(Significance.ERROR)
    text = 0
    for choice in chunk.choices or ():
        delta = choice.delta or _Delta()
        said = (delta.content, delta.reasoning_content, delta.reasoning, delta.refusal)
        text += sum(len(words.encode()) for words in said if isinstance(words, str))
        if text or delta.tool_calls or delta.function_call or choice.finish_reason:
            return Opening(Significance.PAYLOAD, text)
    return Opening(Significance.PAYLOAD if chunk.usage else Significance.PREAMBLE)


class OpenAiMeter:
    """Usage and end of one Chat Completions stream."""

    __slots__ = ("end", "failure", "finished", "usage")

    def __init__(self) -> None:
        self.usage = _NO_TOKENS
        self.finished = False
        self.failure = b""
        self.end = 0

    def note(self, block: bytes) -> None:
        """Take in a block of whole events; nothing is parsed unless a marker is in it."""
        if b"[DONE]" in block and (done := _DONE.search(block)):
            self.finished = True
            self.end = sse.end_of_event(block, done.end())
            block = block[: self.end]
        if _USAGE.search(block) or _ERROR.search(block):
            position = 0
            for event in sse.split(block):
                position += len(event)
                if self._is_failure(sse.parse(event).data):
                    self.finished, self.end = False, position
                    return

    def _is_failure(self, data: bytes) -> bool:
        chunk = _chunk(data) if data else _Chunk()
        usage = chunk.usage or (chunk.x_groq.usage if chunk.x_groq else None)
        if usage is not None:
            self.usage = _usage(usage)
        if _lenient(chunk.error):
            self.failure = data
        return bool(self.failure)

    def settle(self, text_bytes: int, prompt_tokens: int) -> tuple[Usage, Quality]:
        """The upstream's figures, or an estimate from what came by."""
        usage = with_prompt(self.usage, prompt_tokens)
        if not self.usage.total:
            usage = Usage(input=prompt_tokens, output=tokens_of(text_bytes))
        if not self.finished:
            return usage, Quality.PARTIAL
        return usage, Quality.FINAL if usage is self.usage else Quality.ESTIMATED


def _error(fault: Fault) -> dict[str, object]:
    kind = _TYPES.get(fault.status)
    if kind is None:
        theirs = fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        kind = "server_error" if theirs else "invalid_request_error"
    return {"message": fault.message, "type": kind, "param": None, "code": fault.code}


def error_body(fault: Fault, request_id: str) -> bytes:  # noqa: ARG001 -- its id travels in a header
    """The JSON of a refusal."""
    return msgspec.json.encode({"error": _error(fault)})


def error_event(fault: Fault, request_id: str) -> bytes:  # noqa: ARG001 -- as above
    """The chunk that ends a stream that failed: an error and no ``[DONE]``."""
    return b"data: %s\n\n" % msgspec.json.encode({"error": _error(fault)})


FORMAT = Format(
    name=WireFormat.OPENAI,
    request_id_header=b"x-request-id",
    read_head=read_head,
    read_usage=read_usage,
    asking_for_usage=asking_for_usage,
    is_extra_usage=is_extra_usage,
    opening=opening,
    meter=OpenAiMeter,
    error_body=error_body,
    error_event=error_event,
    statuses=MappingProxyType({}),
)
