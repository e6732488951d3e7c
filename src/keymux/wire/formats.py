"""What every wire format can tell keymux, and what they share.

A format is a `Format`: a handful of functions and names. Nothing outside this folder knows how a
chunk or an error looks on the wire.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct

from keymux.core.faults import BadRequest, Fault
from keymux.core.vocabulary import Kind, Quality, Usage, WireFormat
from keymux.wire.sse import Event
from keymux.wire.surrogates import tolerant

H = TypeVar("H")

_NUMBERS = (int, float)
_MORE_THAN_EXIST = 10**12
_PATH = re.compile(r"`\$\.?([^`]*)`")

_decode = msgspec.json.Decoder().decode


class Head(Struct, frozen=True):
    """The few fields of a request that the gateway has to read; the rest passes unseen.

    Attributes:
        model: what the client asks for.
        stream: whether it wants server-sent events.
        max_tokens: most tokens it lets the model write, 0 when it does not say.
        wants_usage: whether its stream will carry usage.
        kind: how the request may be repeated.
    """

    model: str
    stream: bool = False
    max_tokens: int = 0
    wants_usage: bool = True
    kind: Kind = Kind.GENERATION


class Significance(Enum):
    """What the first events of a stream are worth."""

    PREAMBLE = "preamble"
    PAYLOAD = "payload"
    ERROR = "error"


class Opening(Struct, frozen=True):
    """What one early event tells.

    Attributes:
        significance: PREAMBLE can still be thrown away, the others decide.
        text_bytes: bytes of the event that are the model's words.
    """

    significance: Significance
    text_bytes: int = 0


class Meter(Protocol):
    """Reads usage and ends from a copy of a stream, block by block.

    Attributes:
        usage: tokens by class as far as the upstream told.
        finished: True once the end marker of the format came by.
        failure: the data of the first error event before the end, empty while there is none.
        end: in the last block, where the event ends that ends the stream, be it well or with an
            error.
    """

    usage: Usage
    finished: bool
    failure: bytes
    end: int

    def note(self, block: bytes) -> None:
        """Take in a block of whole events."""

    def settle(self, text_bytes: int, prompt_tokens: int) -> tuple[Usage, Quality]:
        """The final figures, filled up with estimates where the stream broke off."""


class Format(Struct, frozen=True):
    """One wire format.

    Attributes:
        name: which one.
        request_id_header: the name under which its SDK reads the request id.
        read_head: body → `Head`; raises BadRequest.
        read_usage: complete answer → usage, or None when it names none; raises ValueError when the
            bytes are no complete answer.
        asking_for_usage: body → the same body, asking for usage in the stream.
        is_extra_usage: whether an event is the one that only `asking_for_usage` brought.
        opening: what an early event of a stream is worth.
        meter: a new meter for one stream.
        error_body: fault, request id → JSON of a refusal.
        error_event: fault, request id → the event that ends a stream that failed.
        statuses: status to use instead of the one of the fault, where the format wants another.
    """

    name: WireFormat
    request_id_header: bytes
    read_head: Callable[[bytes], Head]
    read_usage: Callable[[bytes], Usage | None]
    asking_for_usage: Callable[[bytes], bytes]
    is_extra_usage: Callable[[Event], bool]
    opening: Callable[[Event], Opening]
    meter: Callable[[], Meter]
    error_body: Callable[[Fault, str], bytes]
    error_event: Callable[[Fault, str], bytes]
    statuses: Mapping[int, int]

    def status_of(self, fault: Fault) -> int:
        """The HTTP status a refusal goes out with."""
        return self.statuses.get(fault.status, fault.status)


def second_look(read: Callable[[bytes], H], body: bytes) -> H:
    """The head of a body that a decoder refused, if half surrogate pairs are all it minds.

    Raises:
        BadRequest: there is something else.
    """
    try:
        return tolerant(read)(body)
    except (ValueError, RecursionError) as last:
        raise _bad_request(last) from None


def _bad_request(error: Exception) -> BadRequest:
    """Say which field of a body is wrong, in the caller's terms."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        where = _PATH.search(text)
        field = where[1] if where else ""
        what = text.partition(" - at ")[0].replace("`", "'")
        return BadRequest(problem=f"{field or 'body'}: {what}.")
    if isinstance(error, RecursionError):
        return BadRequest(problem="body: the JSON is nested too deeply.")
    what = "it ends too early" if "truncated" in str(error) else str(error)
    return BadRequest(problem=f"The request body is not valid JSON: {what}.")


class Steering:
    """Stands for any value of a field that would choose where a request goes, or as whom."""


class SteeringFields(Struct):
    """Fields with which clients have steered gateways, or the servers behind them.

    keymux forwards what it does not know, and the next server may well know these. A request that
    holds one is refused, except with ``null``.
    """

    api_base: Steering | None = None
    base_url: Steering | None = None
    api_key: Steering | None = None
    api_version: Steering | None = None
    custom_llm_provider: Steering | None = None
    deployment_id: Steering | None = None
    extra_body: Steering | None = None
    extra_headers: Steering | None = None
    extra_query: Steering | None = None
    model_list: Steering | None = None
    user_config: Steering | None = None


def no_steering(wanted: type, value: object) -> object:  # noqa: ARG001 -- called by the decoder
    """Refuse every value of a `Steering` field."""
    raise ValueError("the operator decides this; send the request without this field")


def lenient(value: Raw) -> object:
    """A value whose type is the upstream's business; None for one that nobody could read."""
    try:
        return _decode(value)
    except (ValueError, RecursionError):
        return None


def with_prompt(usage: Usage, prompt_tokens: int) -> Usage:
    """The usage with an estimated prompt if the upstream named none at all: no prompt is empty."""
    if usage.total > usage.output:
        return usage
    return msgspec.structs.replace(usage, input=prompt_tokens)


def whole_number(value: object) -> int:
    """A count of tokens from outside: never negative, never absurd, 0 for anything else."""
    if not value or isinstance(value, bool) or not isinstance(value, _NUMBERS):
        return 0
    return int(value) if 0 <= value <= _MORE_THAN_EXIST else 0
