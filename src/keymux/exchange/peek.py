"""When an answer has begun, and what it is worth from then on.

Upstreams do answer 200 and then send an error as the first event. An answer therefore counts as
begun only with its first meaningful event; everything before that is held back and can still be
thrown away for another attempt.
"""

import msgspec

from keymux.core.faults import (
    EmptyReply,
    OperationMissing,
    StreamBroken,
    StreamFailed,
    Truncated,
    Unintelligible,
)
from keymux.core.vocabulary import Operation, Quality, Usage
from keymux.exchange.ports import Answer, AnswerHead, Ask, ClientRequest
from keymux.wire import sse
from keymux.wire.estimate import BYTES_PER_TOKEN, tokens_of
from keymux.wire.formats import Meter, Significance
from keymux.wire.surrogates import tolerant

PEEK_BYTES = 64 * 1024


class PlainReply:
    """A complete answer that is no stream.

    Attributes:
        answer: its head.
        body: its bytes.
    """

    __slots__ = ("_usage", "answer", "body")

    def __init__(self, answer: AnswerHead, body: bytes, usage: Usage | None) -> None:
        self.answer = answer
        self.body = body
        self._usage = usage

    def settle(self, prompt_tokens: int) -> tuple[Usage, Quality]:
        """The upstream's figures, or an estimate."""
        if self._usage is not None:
            return self._usage, Quality.FINAL
        return Usage(input=prompt_tokens, output=tokens_of(len(self.body))), Quality.ESTIMATED


class StreamReply:
    """A stream whose first meaningful event is here.

    Attributes:
        answer: its head.
        meter: what it used so far.
    """

    __slots__ = (
        "_ask",
        "_bytes",
        "_events",
        "_format",
        "_framer",
        "_held",
        "_overhead",
        "_strip",
        "answer",
        "meter",
    )

    def __init__(self, answer: Answer, request: ClientRequest, ask: Ask, event_bytes: int) -> None:
        self.answer = answer
        self._ask = ask
        self._format = wire = request.format
        self.meter: Meter = wire.meter()
        self._framer = sse.Framer(event_bytes)
        self._held: list[bytes] = []
        self._strip = not request.wants_usage
        self._overhead = 0
        self._events = 0
        self._bytes = 0

    async def open(self) -> None:
        """Read on until the stream has begun.

        Raises:
            UpstreamFault: it is an error after all, or ends before it begins.
        """
        size = 0
        while size < PEEK_BYTES:
            block = await self._read()
            if block is None:
                raise EmptyReply(reason="200 and no event")
            self._held.append(block)
            size += len(block)
            for event in sse.split(block):
                if self._has_begun(event):
                    return

    def _has_begun(self, event: bytes) -> bool:
        parsed = sse.parse(event)
        opening = self._format.opening(parsed)
        if opening.significance is Significance.ERROR:
            raise self._ask.read_error(parsed.data)
        if opening.significance is Significance.PAYLOAD:
            self._overhead = len(event) - opening.text_bytes
            return True
        self._events -= 1  # what comes before the answer is none of its text
        self._bytes -= len(event)
        return False

    @property
    def is_over(self) -> bool:
        """The last block ended the stream, well or with an error."""
        return self.meter.finished or bool(self.meter.failure)

    async def block(self) -> bytes | None:
        """The next whole events for the client, None after the last.

        Raises:
            StreamBroken: the stream ended or was cut before its end marker.
            StreamFailed: it told of an error, which the client has been given as the last event.
        """
        meter = self.meter
        if meter.finished:
            return None
        if meter.failure:
            raise StreamFailed(reason=self._ask.read_error(meter.failure).code)
        block = self._held.pop(0) if self._held else await self._read()
        if block is None:
            raise StreamBroken(how="it ended before its end marker", reason="cut")
        meter.note(block)
        if meter.finished:
            block = block[: meter.end]
        elif meter.failure:
            block = self._redacted(block[: meter.end])
        self._bytes += len(block)
        self._events += max(1, block.count(b"\n\n"))
        return self._without_usage(block) if self._strip else block

    def _redacted(self, block: bytes) -> bytes:
        """The block without secrets in the error event that ends it."""
        told = self.meter.failure
        clean = self._ask.redact(told)
        if clean == told:
            return block
        *events, last = sse.split(block)
        return b"".join((*events, sse.written(sse.parse(last).name, clean)))

    async def _read(self) -> bytes | None:
        """The next block of whole events; None at the end of the body."""
        while (chunk := await self.answer.chunk()) is not None:
            try:
                block = self._framer.feed(chunk)
            except sse.OversizedEvent:
                raise StreamBroken(how="one of its events is too large", reason="event") from None
            if block:
                return block
        return None

    def _without_usage(self, block: bytes) -> bytes:
        """The block without the usage chunk that the client did not ask for."""
        if b'"usage"' not in block:
            return block
        return b"".join(
            event for event in sse.split(block) if not self._format.is_extra_usage(sse.parse(event))
        )

    async def drain(self) -> None:
        """Read what follows the end marker, so that the connection can be used again."""
        while await self.answer.chunk() is not None:
            pass

    def settle(self, prompt_tokens: int) -> tuple[Usage, Quality]:
        """The upstream's figures, or an estimate from what came by."""
        return self.meter.settle(self._text_bytes(), prompt_tokens)

    def _text_bytes(self) -> int:
        """About how much of it was the model's words.

        Every event costs as much around its text as the first one did, and carries at least a
        token; the last two end the stream.
        """
        spoken = self._bytes - self._events * self._overhead
        return max(spoken, BYTES_PER_TOKEN * (self._events - 2), int(self._events > 0))


Reply = PlainReply | StreamReply


async def read_plain(answer: Answer, request: ClientRequest, ask: Ask) -> PlainReply:
    """Read a complete answer and its usage.

    Raises:
        Truncated: it stops in the middle.
        Unintelligible: it is not the JSON of the API.
        OperationMissing: it is a count of no tokens.
        UpstreamFault: it is an error in a 200.
    """
    if answer.content_type == "text/event-stream":
        raise Unintelligible(reason="a stream nobody asked for")
    body = await answer.whole()
    try:
        usage = request.format.read_usage(body)
    except msgspec.DecodeError as error:
        kind = Truncated if "truncated" in str(error) else Unintelligible
        raise kind(reason=answer.content_type or "no content type") from None
    except (ValueError, RecursionError):
        raise Unintelligible(reason=answer.content_type or "no content type") from None
    if usage is None and b'"error"' in body and _is_error(body):
        raise ask.read_error(body)
    if request.operation is Operation.COUNT_TOKENS:
        usage = Usage()  # counting is free
        if not _counted(body):
            raise OperationMissing(reason="it counted nothing")
    return PlainReply(answer, body, usage)


class _Count(msgspec.Struct):
    input_tokens: int = 0


_read_count = msgspec.json.Decoder(_Count).decode


def _counted(body: bytes) -> bool:
    try:
        return _read_count(body).input_tokens > 0
    except (ValueError, RecursionError):
        return False


class _MaybeError(msgspec.Struct):
    error: object = None
    type: object = None


_read_maybe_error = tolerant(msgspec.json.Decoder(_MaybeError).decode)


def _is_error(body: bytes) -> bool:
    try:
        found = _read_maybe_error(body)
    except (ValueError, RecursionError):
        return False
    return bool(found.error) or found.type == "error"


async def open_stream(
    answer: Answer, request: ClientRequest, ask: Ask, *, event_bytes: int
) -> StreamReply:
    """Read a stream until it has begun.

    Raises:
        Unintelligible: it is no stream.
        UpstreamFault: it is an error, or ends before it begins.
    """
    if answer.content_type != "text/event-stream":
        body = await answer.whole()
        if _is_error(body):
            raise ask.read_error(body)
        raise Unintelligible(reason=answer.content_type or "no content type")
    reply = StreamReply(answer, request, ask, event_bytes)
    await reply.open()
    return reply
