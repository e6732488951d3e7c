"""A request as it came in: which dialect, which endpoint, whose key."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

from msgspec import Struct

from keymux.core.vocabulary import WireFormat, Word

DIALECT_NAMES = ("openhands", "ohmygpt")
DEFAULT_DIALECT = "openhands"
_PATH = re.compile(
    r"(?:/(?P<dialect>openhands|ohmygpt))?(?:/.*)?/v1/"
    r"(?:(?P<chat>chat/completions)|(?P<count>messages/count_tokens)|(?P<messages>messages)"
    r"|(?P<list>models)|models/(?P<model>.+))"
)

Headers = tuple[tuple[str, str], ...]


class Endpoint(Word):
    """What a path stands for."""

    GENERATE = "generate"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"
    OTHER = "other"


class Place(Struct, frozen=True):
    """Where a request goes.

    Attributes:
        dialect: first segment of the path, ``openhands`` when it names none.
        endpoint: what the rest of it stands for.
        format: wire format of the endpoint.
        model: the model that a path below ``/v1/models/`` names.
    """

    dialect: str
    endpoint: Endpoint
    format: WireFormat = WireFormat.OPENAI
    model: str = ""


class Asked(Struct, frozen=True):
    """One request.

    Attributes:
        place: where it goes.
        method: of the request.
        target: path and query as they came.
        headers: names as they were written, in order.
        key: the upstream key that it shows, empty for none.
        body: empty until all of it has been read.
        closing: whether the connection ends with the answer.
        can_chunk: whether the peer understands chunked framing.
    """

    place: Place
    method: str
    target: str
    headers: Headers
    key: str
    body: bytes = b""
    closing: bool = False
    can_chunk: bool = True


def place_of(target: str, headers: Headers) -> Place:
    """Where a request target leads; unknown paths are `Endpoint.OTHER`."""
    path = target.partition("?")[0]
    found = _PATH.fullmatch(path)
    if found is None:
        return Place(_first_dialect(path), Endpoint.OTHER)
    dialect = found["dialect"] or DEFAULT_DIALECT
    if found["chat"]:
        return Place(dialect, Endpoint.GENERATE)
    if found["count"]:
        return Place(dialect, Endpoint.COUNT_TOKENS, WireFormat.ANTHROPIC)
    if found["messages"]:
        return Place(dialect, Endpoint.GENERATE, WireFormat.ANTHROPIC)
    is_anthropic = any(name.lower() == "anthropic-version" for name, _ in headers)
    wire_format = WireFormat.ANTHROPIC if is_anthropic else WireFormat.OPENAI
    return Place(dialect, Endpoint.MODELS, wire_format, unquote(found["model"] or ""))


def read_asked(
    method: str, target: str, headers: Sequence[tuple[bytes, bytes]], version: str
) -> Asked:
    """Read the head of a request."""
    written = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
    connection = header(written, "connection").lower()
    is_old = version == "1.0"
    return Asked(
        place=place_of(target, written),
        method=method,
        target=target,
        headers=written,
        key=_key_of(written),
        closing=is_old or "close" in connection,
        can_chunk=not is_old,
    )


def header(headers: Headers, name: str) -> str:
    """The first value of a header, empty when there is none."""
    return next((value for given, value in headers if given.lower() == name), "")


def _key_of(headers: Headers) -> str:
    scheme, _, key = header(headers, "authorization").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else header(headers, "x-api-key")


def _first_dialect(path: str) -> str:
    first = path[1:].partition("/")[0]
    return first if first in DIALECT_NAMES else DEFAULT_DIALECT
