"""One attempt over a real connection: what is sent, what is read, and what is kept back."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from keymux.core import faults
from keymux.core.faults import UpstreamFault
from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers import CATALOGUE
from keymux.telemetry.redaction import redact_body
from keymux.upstream.asking import Ask, Service, Upstreams
from keymux.upstream.request import UpstreamRequest
from keymux.upstream.transport import Transport
from tests.upstream.raw_server import Play, answering, read_request, served

T = TypeVar("T")
SECRET = "upstream-secret-0123456789"
LIMIT = 10_000


def _request(**changes: object) -> UpstreamRequest:
    given = {
        "provider": "acme",
        "secret": SECRET,
        "way": "direct",
        "format": WireFormat.OPENAI,
        "operation": Operation.GENERATE,
        "stream": False,
        "headers": (("content-type", "application/json"), ("user-agent", "curl/8")),
        "query": "",
        "body": b'{"model":"m"}',
        **changes,
    }
    return UpstreamRequest(**given)  # type: ignore[arg-type]  # -- some are changed


def _asked(play: Play, use: Callable[[Ask], Awaitable[T]], **changes: object) -> T:
    """What comes of an attempt at a server that plays a part."""

    async def story() -> T:
        transport = Transport(connect_s=1.0)
        upstreams = Upstreams(transport, redact_body, lambda: 0.0)
        try:
            async with served(play) as port:
                service = Service(CATALOGUE["openhands"], f"http://127.0.0.1:{port}/base")
                upstreams.configure({"acme": service}, LIMIT)
                ask = upstreams.ask(_request(**changes))
                try:
                    return await use(ask)
                finally:
                    await ask.close()
        finally:
            await transport.close()

    return asyncio.run(story())


def _answer(body: bytes, *headers: str, status: int = 200) -> Play:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
    return answering("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


async def _whole(ask: Ask) -> bytes:
    return await (await ask.answer()).whole()


async def _fault(ask: Ask) -> UpstreamFault:
    with pytest.raises(UpstreamFault) as caught:
        await _whole(ask)
    return caught.value


# -- what is sent --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "target"),
    [("", b"/base/v1/chat/completions"), ("beta=true", b"/base/v1/chat/completions?beta=true")],
    ids=["without a query", "with one"],
)
def test_the_request_is_signed_and_whole(query: str, target: bytes) -> None:
    """Path, query, the client's headers, our key, and the body as it was given."""
    received: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    _asked(play, _whole, query=query)
    lines = received[0].split(b"\r\n")

    assert lines[0] == b"POST " + target + b" HTTP/1.1"
    assert b"authorization: Bearer " + SECRET.encode() in lines
    assert b"user-agent: curl/8" in lines
    assert b"accept-encoding: identity" in lines
    assert received[0].endswith(b'\r\n\r\n{"model":"m"}')


def test_a_request_does_not_show_its_secret() -> None:
    """Not even in a traceback."""
    assert SECRET not in repr(_request())


# -- what is read --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param((), b"{}", id="as it is"),
        pytest.param(("content-encoding: identity",), b"{}", id="not compressed, it says"),
        pytest.param(("content-encoding: gzip",), gzip.compress(b"{}"), id="gzip"),
        pytest.param(("content-encoding: deflate",), zlib.compress(b"{}"), id="deflate"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "a stream"])
def test_a_body_is_read_as_plain_text(
    headers: tuple[str, ...], body: bytes, *, stream: bool
) -> None:
    """Also where an upstream compresses without being asked."""
    assert _asked(_answer(body, *headers), _whole, stream=stream) == b"{}"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param((), b"x" * (LIMIT + 1), id="too long"),
        pytest.param(("content-encoding: br",), b"x", id="an unknown compression"),
        pytest.param(("content-encoding: gzip",), b"no gzip", id="broken compression"),
        pytest.param(("content-encoding: gzip",), gzip.compress(b"0" * 10**7), id="a bomb"),
    ],
)
def test_a_body_that_is_no_good_is_given_up(headers: tuple[str, ...], body: bytes) -> None:
    """Before it has filled the memory."""
    assert type(_asked(_answer(body, *headers), _fault)) is faults.Unintelligible


def test_a_client_sees_a_type_and_nothing_else_of_the_head() -> None:
    """Cookies, accounts and rate limits of the pool stay here."""

    async def head(ask: Ask) -> tuple[object, str, str]:
        answer = await ask.answer()
        return answer.headers, answer.content_type, answer.request_id

    play = _answer(
        b"{}",
        "content-type: Application/JSON; charset=utf-8",
        "x-request-id: req_1",
        "set-cookie: a=b",
        "retry-after: 7",
        "x-ratelimit-remaining-requests: 3",
    )
    headers, content_type, request_id = _asked(play, head)

    assert headers == ((b"content-type", b"Application/JSON; charset=utf-8"),)
    assert (content_type, request_id) == ("application/json", "req_1")


def test_a_refusal_keeps_what_clients_act_on() -> None:
    """When to come back, whether to come back, the id; and the words, without the key."""
    body = b'{"error": {"message": "no %b", "code": "invalid_value"}}' % SECRET.encode()
    play = _answer(
        body,
        "content-type: application/json",
        "retry-after: 7",
        "x-should-retry: false",
        "set-cookie: a=b",
        "x-request-id: req_1",
        status=400,
    )
    fault = _asked(play, _fault)

    assert type(fault) is faults.RequestRefused
    assert fault.answer is not None
    assert fault.answer.body == body.replace(SECRET.encode(), b"***")
    assert dict(fault.answer.headers) == {
        b"content-type": b"application/json",
        b"retry-after": b"7",
        b"x-should-retry": b"false",
        b"x-request-id": b"req_1",
    }


def test_a_code_that_is_a_key_is_not_written_down() -> None:
    """The reason goes to the ledger and to the metrics."""
    body = b'{"error": {"message": "no", "type": "%b", "code": "%b"}}' % (
        SECRET.encode(),
        SECRET.encode(),
    )
    fault = _asked(_answer(body, "content-type: application/json", status=500), _fault)

    assert SECRET not in fault.reason
    assert fault.reason.startswith("500")


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed(status: int) -> None:
    """The key would go along."""
    play = _answer(b"", "location: http://127.0.0.1:1/elsewhere", status=status)

    assert type(_asked(play, _fault)) is faults.Redirected


def test_a_page_is_no_answer_for_a_program() -> None:
    """It is classified by its status, and its words are not passed on."""
    play = _answer(b"<html>Bad gateway</html>", "content-type: text/html", status=502)
    fault = _asked(play, _fault)

    assert type(fault) is faults.BadGateway
    assert fault.answer is None


# -- what becomes of the connection --------------------------------------------------------------
def test_a_connection_is_used_again_when_all_was_read() -> None:
    """And closed when not: the rest of an answer is nobody's."""
    connections: list[int] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b"def")

    async def story() -> tuple[bytes, bytes | None]:
        transport = Transport(connect_s=1.0)
        upstreams = Upstreams(transport, redact_body, lambda: 0.0)
        try:
            async with served(play) as port:
                service = Service(CATALOGUE["openhands"], f"http://127.0.0.1:{port}")
                upstreams.configure({"acme": service}, LIMIT)
                await _whole(upstreams.ask(_request()))
                body = await _whole(upstreams.ask(_request()))
                left = upstreams.ask(_request(stream=True))
                first = await (await left.answer()).chunk()
                assert left.is_open
                await left.close()
                await _whole(upstreams.ask(_request()))
                return body, first
        finally:
            await transport.close()

    body, first = asyncio.run(story())

    assert (body, first) == (b"abcdef", b"abc")
    assert len(connections) == 2


def test_closing_twice_does_no_harm() -> None:
    """Whoever is not sure may close."""

    async def twice(ask: Ask) -> bool:
        await ask.answer()
        await ask.close()
        await ask.close()
        return ask.is_open

    assert _asked(_answer(b"{}"), twice) is False
