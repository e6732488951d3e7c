"""One attempt: build the signed request, send it, read the answer as it arrives."""

import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Protocol

from pyreqwest.client import Client
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.http import Url
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response, ResponseBodyReader

from keymux.core.faults import Answer, OperationMissing, Redirected, Unintelligible, UpstreamFault
from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers.base import Provider, read_fault
from keymux.upstream.request import UpstreamRequest
from keymux.upstream.slots import Slot, Slots
from keymux.upstream.transport import Transport, Way, fault_before_answer, fault_in_body
from keymux.wire.upstream_error import read_complaint
from keymux.wire.waiting import told_wait

_ERROR_BODY_BYTES = 1024 * 1024
_BOMB_RATIO = 100
_NOT_SERVED = frozenset({404, 405, 501})
_PASSED_ON = ("retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms")
"""Response headers that clients act on. Everything else stays here: cookies, the provider's
account, and the rate limits of a pool that are not the client's own.
"""


class Redact(Protocol):
    """Takes secrets out of what an upstream says."""

    def __call__(self, body: bytes, secret: str) -> bytes:
        """The body without the key and anything that looks like one."""


class Service:
    """A configured provider, ready to be asked.

    Args:
        provider: its dialect.
        url: where it is, without a slash at the end.
        ca_file: further certificates to trust.
        http2: whether HTTP/2 may be spoken.
    """

    def __init__(
        self, provider: Provider, url: str, *, ca_file: str | None = None, http2: bool = True
    ) -> None:
        self.provider = provider
        self.url = url
        self._ca_file = ca_file
        self._http2 = http2
        self._urls = {what: Url(url + path) for what, path in provider.paths.items()}

    def serves(self, wire_format: WireFormat, operation: Operation) -> bool:
        """Whether it serves an operation in a format."""
        return (wire_format, operation) in self._urls

    def url_of(self, request: UpstreamRequest) -> Url:
        """Where a request goes."""
        url = self._urls[request.format, request.operation]
        return url.with_query_string(request.query) if request.query else url

    def way(self, request: UpstreamRequest) -> Way:
        """How to get there."""
        return Way(request.way, self._ca_file, self._http2, request.proxy)


class Upstreams:
    """The way to all configured providers.

    Args:
        transport: the HTTP clients.
        redact: takes secrets out of error bodies.
        wall: seconds since 1970.
    """

    def __init__(self, transport: Transport, redact: Redact, wall: Callable[[], float]) -> None:
        self._transport = transport
        self._services: Mapping[str, Service] = {}
        self._slots: dict[tuple[str, str], Slots] = {}
        self.redact = redact
        self.wall = wall
        self.answer_bytes = 0

    def configure(self, services: Mapping[str, Service], answer_bytes: int) -> None:
        """From now on these are the providers, and this is the most a plain answer may have."""
        self._services = services
        self._slots = {}
        self.answer_bytes = answer_bytes

    def ask(self, request: UpstreamRequest) -> "Ask":
        """One attempt; nothing is sent yet."""
        service = self._services[request.provider]
        slots = self._slots.get((request.provider, request.way))
        if slots is None or slots.is_closed:
            slots = self._connect(request)
        return Ask(self, service, slots, request)

    def _connect(self, request: UpstreamRequest) -> Slots:
        gone = [name for name, slots in self._slots.items() if slots.is_closed]
        for name in gone:
            del self._slots[name]
        way = self._services[request.provider].way(request)
        slots = self._slots[request.provider, request.way] = self._transport.slots(way)
        return slots


_PLAIN = ("accept-encoding", "identity")
_HTTP2 = "HTTP/2.0"
_LATER_S = 5.0
"""So long after its exchange is over, a request that could not be cut ends by itself."""


class Ask:
    """One attempt at an upstream, to be closed whatever came of it.

    Attributes:
        is_open: there is an answer that was not read to its end.
    """

    __slots__ = (
        "_provider",
        "_request",
        "_sending",
        "_service",
        "_slot",
        "_slots",
        "_upstreams",
        "is_open",
    )

    _sending: StreamRequest

    def __init__(
        self, upstreams: Upstreams, service: Service, slots: Slots, request: UpstreamRequest
    ) -> None:
        self._upstreams = upstreams
        self._service = service
        self._provider = service.provider
        self._slots = slots
        self._slot: Slot | None = None
        self._request = request
        self.is_open = False

    async def close(self) -> None:
        """Give the connection back, or close it if the answer was not read to its end."""
        if self.is_open:
            self.ended()
            await self._sending.__aexit__(None, None, None)

    def ended(self) -> None:
        """The answer is read to its end, or will be dropped."""
        if self.is_open and self._slot is not None:
            self._slots.read(self._slot)
        self.is_open = False

    async def answer(self) -> "UpstreamAnswer":
        """Send the request and wait for the head of a good answer.

        Raises:
            UpstreamFault: no answer, or one that is not 2xx.
        """
        slots = self._slots
        self._slot = slot = slots.take()
        try:
            self._sending = self.build(slot.client)
            response = await self._sending.__aenter__()
        except PyreqwestError as error:
            slots.failed(slot)
            raise fault_before_answer(error, self._request.proxy) from None
        except BaseException:
            slots.give_up(slot)
            raise
        slots.answered(slot, shared=response.version == _HTTP2)
        self.is_open = True
        answer = UpstreamAnswer(self, response, self._provider, self._upstreams.answer_bytes)
        if 200 <= answer.status < 300:  # noqa: PLR2004 -- the statuses of success
            return answer
        raise await self._refusal(answer, response)

    def build(self, client: Client) -> StreamRequest:
        """The request, signed, as the HTTP library takes it."""
        request, service = self._request, self._service
        signed = service.provider.sign(request.secret, request.format)
        building = (
            client.post(service.url_of(request))
            .headers([*request.headers, *signed, _PLAIN])
            .body_bytes(request.body)
            .timeout(timedelta(seconds=max(request.left_s, 0) + _LATER_S))
        )
        if request.stream:
            building = building.streamed_read_buffer_limit(0)
        return building.build_streamed()

    async def _refusal(self, answer: "UpstreamAnswer", response: Response) -> UpstreamFault:
        if 300 <= answer.status < 400:  # noqa: PLR2004 -- the statuses of redirects
            return Redirected(reason=str(answer.status))
        body = await answer.start_of_body(_ERROR_BODY_BYTES)
        told = told_wait(response.get_header, body, self._upstreams.wall())
        return self._fault(answer.status, body, told, answer)

    def read_error(self, data: bytes) -> UpstreamFault:
        """The fault that an error inside a 200 stands for."""
        return self._fault(200, data, None, None)

    def redact(self, data: bytes) -> bytes:
        """What the upstream says, without the key and anything that looks like one."""
        return self._upstreams.redact(data, self._request.secret)

    def _fault(
        self, status: int, body: bytes, told: float | None, head: "UpstreamAnswer | None"
    ) -> UpstreamFault:
        clean = self.redact(body)
        complaint = read_complaint(status, clean)  # its codes go to the ledger
        answer = Answer(
            status=complaint.status,
            content_type=head.content_type if head else "application/json",
            body=clean,
            headers=(*head.headers, *head.id_headers()) if head else _JSON,
        )
        fault = read_fault(self._provider, complaint, answer, request=self._request.body, told=told)
        if self._request.operation is Operation.COUNT_TOKENS and status in _NOT_SERVED:
            return OperationMissing(reason=fault.reason)
        if not complaint.told:
            fault.answer = None  # a page of HTML is no answer for a program
        return fault


_JSON = ((b"content-type", b"application/json"),)


class UpstreamAnswer:
    """An upstream's answer, still arriving.

    Attributes:
        status: HTTP status.
        content_type: lower case, without parameters.
        headers: those a client may see, without the request id.
        request_id: the upstream's; empty for none.
    """

    __slots__ = (
        "_ask",
        "_id_header",
        "_inflate",
        "_inflated",
        "_length",
        "_limit",
        "_read",
        "_reader",
        "content_type",
        "headers",
        "request_id",
        "status",
    )

    def __init__(self, ask: Ask, response: Response, provider: Provider, limit: int) -> None:
        self._ask = ask
        self.status = response.status
        written = response.get_header("content-type") or ""
        self.content_type = written.partition(";")[0].strip().lower()
        self.headers = _visible(response, written, passed_on=self.status >= HTTPStatus.BAD_REQUEST)
        self._id_header, self.request_id = _request_id(response, provider)
        self._reader: ResponseBodyReader = response.body_reader
        self._inflate = _decoder(response.get_header("content-encoding"))
        self._inflated = 0
        self._read = 0
        self._limit = limit
        self._length = _length(response.get_header("content-length"))

    def id_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The request id under the name it came with."""
        if not self.request_id:
            return ()
        return ((self._id_header.encode(), self.request_id.encode()),)

    async def chunk(self) -> bytes | None:
        """The next bytes of the body, None at its end.

        Raises:
            Truncated: the body broke off.
        """
        try:
            chunk = await self._reader.read_chunk()
        except PyreqwestError as error:
            raise fault_in_body(error) from None
        if chunk is None:
            self._ask.ended()
            return None
        data = bytes(chunk)
        return data if self._inflate is None else self._plain(data)

    def _plain(self, data: bytes) -> bytes:
        """Undo a compression that we did not ask for, as long as it is no bomb."""
        assert self._inflate is not None  # noqa: S101 -- for the type checker; see chunk()
        self._read += len(data)
        allowed = max(self._limit, 0) - self._inflated
        try:
            plain = self._inflate.decompress(data, max(1, allowed))
        except zlib.error:
            raise Unintelligible(reason="broken compression") from None
        self._inflated += len(plain)
        if self._inflated >= self._limit or self._inflated > _BOMB_RATIO * self._read + 65_536:
            raise Unintelligible(reason="compressed too far")
        return plain

    async def whole(self) -> bytes:
        """The rest of the body.

        Raises:
            Truncated: the body broke off.
            Unintelligible: it is over the limit.
        """
        if self._inflate is None and 0 < self._length <= self._limit:
            try:
                body = bytes(await self._reader.bytes())
            except PyreqwestError as error:
                raise fault_in_body(error) from None
            self._ask.ended()
            return body
        body = await self.start_of_body(self._limit + 1)
        if len(body) > self._limit:
            raise Unintelligible(reason="answer too large")
        return body

    async def start_of_body(self, limit: int) -> bytes:
        """The body up to a length; what follows is not read."""
        first = await self.chunk()
        if first is None:
            return b""
        parts, size = [first], len(first)
        while size < limit and (chunk := await self.chunk()) is not None:
            parts.append(chunk)
            size += len(chunk)
        return first if len(parts) == 1 else b"".join(parts)[:limit]


def _visible(
    response: Response, content_type: str, *, passed_on: bool
) -> tuple[tuple[bytes, bytes], ...]:
    headers = [(b"content-type", content_type.encode())] if content_type else []
    if passed_on:
        for name in _PASSED_ON:
            value = response.get_header(name)
            if value is not None:
                headers.append((name.encode(), value.encode()))
    return tuple(headers)


def _request_id(response: Response, provider: Provider) -> tuple[str, str]:
    for name in provider.request_id_headers:
        value = response.get_header(name)
        if value:
            return name, value
    return "", ""


def _length(value: str | None) -> int:
    """The declared length of a body, 0 for none."""
    return int(value) if value is not None and value.isascii() and value.isdigit() else 0


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decoder(encoding: str | None) -> "_Decompressor | None":
    if encoding is None or encoding.lower() in {"", "identity"}:
        return None
    if encoding.lower() in {"gzip", "x-gzip", "deflate"}:
        return zlib.decompressobj(wbits=47)
    raise Unintelligible(reason=f"content-encoding {encoding[:20]}")
