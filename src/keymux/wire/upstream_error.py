"""Read whatever shape of error an upstream answers.

Shapes met so far: OpenAI ``{"error": {"message", "type", "code"}}``, Anthropic ``{"type": "error",
"error": {...}}``, ``{"statusCode", "message", "errorType"}``, a bare string or a list of
complaints under ``error`` or ``detail``, all of it wrapped in a list of one, an error event inside
a 200 stream, and pages of HTML.
"""

import re
from types import MappingProxyType

import msgspec
from msgspec import Struct

from keymux.wire.surrogates import tolerant

_STATUS_OF_TYPE = MappingProxyType(
    {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "billing_error": 402,
        "permission_error": 403,
        "not_found_error": 404,
        "conflict_error": 409,
        "request_too_large": 413,
        "rate_limit_error": 429,
        "rate_limit_exceeded": 429,
        "api_error": 500,
        "server_error": 500,
        "internal_server_error": 500,
        "timeout_error": 504,
        "overloaded_error": 529,
    }
)
_LOWEST_ERROR, _HIGHEST_ERROR = 400, 599
_NUMBER = re.compile(r"[0-9]{3}\Z")

_decode = tolerant(msgspec.json.Decoder().decode)


class Complaint(Struct, frozen=True):
    """What an upstream said was wrong.

    Attributes:
        status: HTTP status, or the one its words stand for when they came inside a 200.
        type: the class of error it names, lower case; empty when it names none.
        code: its short code, lower case; empty when it names none.
        message: its words.
        told: False when the body is no error in a known shape.
    """

    status: int
    type: str = ""
    code: str = ""
    message: str = ""
    told: bool = False


def read_complaint(status: int, body: bytes) -> Complaint:
    """What a body says, whatever its shape; never raises.

    Args:
        status: of the response. When it is no error, the words decide, 500 if they do not.
        body: the whole body, or the data of an error event.
    """
    try:
        found: object = _decode(body)
    except (ValueError, RecursionError):
        words = body[:500].decode(errors="replace")
        return Complaint(_error_status(status, ""), message=words)
    details = _details(found)
    kind, code = _word(details, "type", "errorType"), _word(details, "code")
    if status < _LOWEST_ERROR:
        status = _named_status(details)
    return Complaint(
        status=_error_status(status, kind, code),
        type=kind,
        code=code,
        message=_message(details),
        told=bool(details),
    )


def _details(found: object) -> dict[str, object]:
    """The object that holds type, code and message."""
    found = _first(found)
    if not isinstance(found, dict):
        return {}
    inner = _first(found.get("error") or found.get("detail"))
    if isinstance(inner, dict):
        return inner
    if isinstance(inner, str) and inner:
        return {**found, "message": found.get("message", inner)}
    known = ("errorType", "statusCode", "message")
    return found if any(name in found for name in known) else {}


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else value


def _named_status(details: dict[str, object]) -> int:
    """The status an error inside a 200 names, 0 if it names none."""
    for value in (details.get("statusCode"), details.get("code")):
        number = int(value) if isinstance(value, str) and _NUMBER.match(value) else value
        if isinstance(number, int) and _LOWEST_ERROR <= number <= _HIGHEST_ERROR:
            return number
    return 0


def _word(details: dict[str, object], *names: str) -> str:
    for name in names:
        value = details.get(name)
        if isinstance(value, str) and value:
            return value.lower()
    return ""


def _message(details: dict[str, object]) -> str:
    message = details.get("message") or details.get("msg")
    return message if isinstance(message, str) else ""


def _error_status(status: int, *words: str) -> int:
    if _LOWEST_ERROR <= status <= _HIGHEST_ERROR:
        return status
    return next((_STATUS_OF_TYPE[word] for word in words if word in _STATUS_OF_TYPE), 500)
