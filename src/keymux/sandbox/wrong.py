"""Errors in the shape of whoever would say them: the model's API, or the provider before it."""

from types import MappingProxyType

import msgspec
from msgspec import Struct

from keymux.core.vocabulary import WireFormat

_ANTHROPIC_TYPES = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        408: "timeout_error",
        409: "conflict_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)
_OPENAI_TYPES = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "invalid_request_error",
        402: "insufficient_quota",
        403: "permission_denied",
        404: "invalid_request_error",
        408: "timeout",
        409: "conflict",
        413: "invalid_request_error",
        429: "rate_limit_error",
        504: "timeout",
    }
)


class Wrong(Struct, frozen=True):
    """Something that is the matter.

    Attributes:
        status: of the response.
        message: for people.
        type: class of error; empty for the one that belongs to the status.
        code: short code of the OpenAI shape.
        at_edge: True when the provider itself says it, about an account, and not the model's API.
    """

    status: int
    message: str
    type: str = ""
    code: str | None = None
    at_edge: bool = False


def anthropic_error(wrong: Wrong, identity: str) -> dict[str, object]:
    """``{"type": "error", "error": {...}}``."""
    kind = wrong.type or _ANTHROPIC_TYPES.get(wrong.status, "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": wrong.message},
        "request_id": f"req_{identity}",
    }


def openai_error(wrong: Wrong) -> dict[str, object]:
    """``{"error": {"message", "type", "param", "code"}}``."""
    kind = wrong.type or _OPENAI_TYPES.get(wrong.status, "server_error")
    return {
        "error": {"message": wrong.message, "type": kind, "param": None, "code": wrong.code},
    }


def litellm_error(wrong: Wrong) -> dict[str, object]:
    """The OpenAI shape as a LiteLLM proxy writes it: the code is the status, as a string."""
    return openai_error(msgspec.structs.replace(wrong, code=str(wrong.status)))


def ohmygpt_error(wrong: Wrong) -> dict[str, object]:
    """``{"statusCode", "message", "errorType"}``."""
    kind = wrong.type or _ANTHROPIC_TYPES.get(wrong.status, "api_error")
    return {"statusCode": wrong.status, "message": wrong.message, "errorType": kind}


def error_event(wrong: Wrong, wire_format: WireFormat, identity: str) -> bytes:
    """The error as an event inside a stream that began well."""
    if wire_format is WireFormat.ANTHROPIC:
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(anthropic_error(wrong, identity))
    return b"data: %b\n\n" % msgspec.json.encode(openai_error(wrong))
