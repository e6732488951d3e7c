"""A request as it arrives: head first, then, if the caller is known, the body."""

from collections.abc import Sequence

from msgspec import Struct

from keymux.core.faults import (
    BadRequest,
    BodyLate,
    ClientGone,
    HeadersTooLarge,
    LengthRequired,
    RequestTooLarge,
    UnsupportedEncoding,
)
from keymux.core.vocabulary import Kind, Operation
from keymux.exchange.ports import ClientRequest, Rules
from keymux.exchange.watch import Watched
from keymux.ingress.answering import Message, Receive
from keymux.settings import Limits
from keymux.upstream.request import USER_AGENT
from keymux.wire.formats import Format

_FORWARDED = frozenset(
    {
        b"content-type",
        b"accept",
        b"user-agent",
        b"x-app",
        b"openai-beta",
        b"idempotency-key",
        b"x-client-request-id",
    }
)
_FORWARDED_PREFIXES = (b"anthropic-", b"x-stainless-", b"x-claude-code-")
_READ = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"x-request-timeout",
    }
)
_LONGEST_QUERY = 8192
_BODY_PATIENCES = 4
"""A body that keeps coming in drips may take so many times as long as a silent one."""
_RETRY_COUNT = b"x-stainless-retry-count"
_OWN = {
    b"user-agent": ("user-agent", USER_AGENT),
    b"content-type": ("content-type", "application/json"),
}


class Door(Struct, frozen=True):
    """An endpoint that is served by an upstream."""

    format: Format
    operation: Operation


class Head(Struct, frozen=True):
    """The head of a request, sorted.

    Attributes:
        forwarded: headers that go on to the upstream.
        read: headers the gateway itself looks at; of two, the last.
        size: bytes of all headers.
        hosts: number of Host headers.
        is_retry: an SDK says that it repeats itself.
    """

    forwarded: tuple[tuple[str, str], ...]
    read: dict[bytes, bytes]
    size: int
    hosts: int
    is_retry: bool


def read_head(headers: Sequence[tuple[bytes, bytes]]) -> Head:
    """Sort the headers of a request. Names are lower case, as ASGI has them.

    What a program does not say of itself we say for it: who asks, and that the body is JSON.
    """
    forwarded: list[tuple[str, str]] = []
    read: dict[bytes, bytes] = {}
    own = _OWN
    is_retry = False
    size = hosts = 0
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name in _READ:
            read[name] = value
        elif name == b"host":
            hosts += 1
        elif (name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)) and value.isascii():
            if name in own:
                own = {other: header for other, header in own.items() if other != name}
            is_retry = is_retry or (name == _RETRY_COUNT and value != b"0")
            forwarded.append((name.decode(), value.decode()))
    return Head((*forwarded, *own.values()), read, size, hosts, is_retry)


class Arrival:
    """One request on its way in.

    Attributes:
        id: request id.
        format: wire format of the endpoint.
        operation: of the endpoint.
        client_keys: the secrets that were shown.
        timeout_s: seconds the client is willing to wait, if it said so.
    """

    __slots__ = (
        "_head",
        "_query",
        "_receive",
        "client_keys",
        "format",
        "id",
        "operation",
        "timeout_s",
    )

    def __init__(
        self, request_id: str, door: Door, head: Head, query: bytes, receive: Receive
    ) -> None:
        self.id = request_id
        self.format = door.format
        self.operation = door.operation
        self.client_keys = client_keys(head)
        told = head.read.get(b"x-request-timeout")
        self.timeout_s = None if told is None else _seconds(told)
        self._head = head
        self._query = query
        self._receive = receive

    async def read(self, watched: Watched, rules: Rules) -> ClientRequest:
        """The whole request.

        Raises:
            ClientFault: it is no good.
            ClientGone: it ended early.
        """
        self._check_head(rules)
        watched.expect(BodyLate, rules.timeouts.client_body_s)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body = message["body"]
            if len(body) > rules.limits.body_bytes:
                raise RequestTooLarge(limit=rules.limits.body_bytes)
        else:
            body = await self._long_body(message, watched, rules)
        head = self.format.read_head(body)
        counting = self.operation is Operation.COUNT_TOKENS
        return ClientRequest(
            self.id,
            self.format,
            self.operation,
            Kind.REPEATABLE if counting else head.kind,
            head.model,
            head.stream and not counting,
            head.wants_usage,
            head.max_tokens,
            body,
            self._head.forwarded,
            self._query.decode("ascii"),
            self._head.is_retry,
        )

    def _check_head(self, rules: Rules) -> None:
        head, limits = self._head, rules.limits
        if head.size > limits.header_bytes:
            raise HeadersTooLarge(size=head.size, limit=limits.header_bytes)
        if head.hosts != 1:
            raise BadRequest(problem=f"Send one Host header, not {head.hosts}.")
        if not self._query.isascii() or len(self._query) > _LONGEST_QUERY:
            raise BadRequest(problem="The query string is too long or not ASCII.")
        if b"transfer-encoding" in head.read or b"content-encoding" in head.read:
            _check_encodings(head, limits)
        length = head.read.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limits.body_bytes:
            raise RequestTooLarge(limit=limits.body_bytes)

    async def _long_body(self, message: Message, watched: Watched, rules: Rules) -> bytes:
        """A body that comes in several parts."""
        patience = rules.timeouts.client_body_s
        end = watched.clock() + _BODY_PATIENCES * patience
        parts: list[bytes] = []
        size = 0
        while message["type"] != "http.disconnect":
            part = message.get("body", b"")
            size += len(part)
            if size > rules.limits.body_bytes:
                raise RequestTooLarge(limit=rules.limits.body_bytes)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)
            watched.expect(BodyLate, min(patience, end - watched.clock()))
            message = await self._receive()
        raise ClientGone


def _check_encodings(head: Head, limits: Limits) -> None:
    transfer = head.read.get(b"transfer-encoding")
    if transfer is not None and not limits.chunked_requests:
        raise LengthRequired
    if transfer is not None and transfer.strip().lower() != b"chunked":
        raise BadRequest(problem="The only Transfer-Encoding taken is 'chunked'.")
    content = head.read.get(b"content-encoding", b"").strip().lower()
    if content not in {b"identity", b""}:
        raise UnsupportedEncoding(encoding=content[:40].decode("latin-1"))


def client_keys(head: Head) -> tuple[str, ...]:
    """The secrets a request shows: as bearer token, as x-api-key, or both."""
    found: list[str] = []
    scheme, _, token = head.read.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        found.append(token.strip().decode("latin-1"))
    if key := head.read.get(b"x-api-key", b"").strip():
        found.append(key.decode("latin-1"))
    return tuple(found)


def _seconds(value: bytes) -> float | None:
    """A positive number of seconds, or None."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 < seconds < 1e6 else None  # noqa: PLR2004 -- beyond any deadline
