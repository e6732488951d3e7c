"""Library errors become faults here and nowhere else."""

import asyncio
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
from pyreqwest.exceptions import ConnectError, PyreqwestError

from keymux.core import faults
from keymux.core.faults import UpstreamFault
from keymux.core.retrying import DECISIONS, Work
from keymux.upstream.transport import Transport, Way, fault_before_answer, fault_in_body
from tests.upstream.raw_server import Play, answering, read_request, reset, served

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def _run(work: Coroutine[Any, Any, UpstreamFault | None]) -> UpstreamFault | None:
    return asyncio.run(work)


async def _fault_of(url: str, way: Way | None = None) -> UpstreamFault | None:
    """The fault of one attempt, None when it went well."""
    transport = Transport(connect_s=1.0)
    try:
        request = transport.client(way or Way()).post(url).body_bytes(b"{}").build_streamed()
        try:
            response = await request.__aenter__()
        except PyreqwestError as error:
            return fault_before_answer(error)
        try:
            await response.body_reader.bytes()
        except PyreqwestError as error:
            return fault_in_body(error)
        finally:
            await request.__aexit__(None, None, None)
    finally:
        await transport.close()
    return None


async def _fault_when(play: Play) -> UpstreamFault | None:
    async with served(play) as port:
        return await _fault_of(f"http://127.0.0.1:{port}/")


async def _silent_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def _reset_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    reset(writer)


async def _close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("http://127.0.0.1:1/", faults.Unreachable, id="nobody listens"),
        pytest.param("http://nowhere.invalid/", faults.Unreachable, id="the name does not exist"),
    ],
)
def test_nothing_was_sent(url: str, expected: type[UpstreamFault]) -> None:
    """A connection that was never made is known to have cost nothing."""
    fault = _run(_fault_of(url))

    assert type(fault) is expected
    assert DECISIONS[expected].work is Work.NONE


@pytest.mark.parametrize(
    "play",
    [
        pytest.param(_silent_end, id="closed after the request"),
        pytest.param(_reset_at_the_end, id="reset after the request"),
        pytest.param(_close_at_once, id="closed while the request was on its way"),
        pytest.param(
            answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40), id="informational answers only"
        ),
    ],
)
def test_a_connection_that_ends_without_status_may_have_cost_something(play: Play) -> None:
    """Whatever was sent by then may have been processed."""
    fault = _run(_fault_when(play))

    assert type(fault) is faults.NoReply
    assert DECISIONS[faults.NoReply].work is Work.UNKNOWN


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        pytest.param(
            ["client error (SendRequest)", "error writing a body to connection", "Broken pipe"],
            faults.RequestCut,
            id="the body could not be written to its end",
        ),
        pytest.param(
            ["client error (SendRequest)", "connection error", "Connection reset by peer"],
            faults.NoReply,
            id="nobody knows how much was written",
        ),
        pytest.param(
            ["client error (SendRequest)", "operation was canceled"],
            faults.StaleConnection,
            id="the connection was gone before the first byte",
        ),
    ],
)
def test_half_a_request_costs_nothing(causes: list[str], expected: type[UpstreamFault]) -> None:
    """What was certainly not sent whole may be sent again; what may have been is ambiguous.

    Which of these the library says of a reset depends on what its socket notices first.
    """
    error = ConnectError("sending failed", {"causes": [{"message": cause} for cause in causes]})

    assert type(fault_before_answer(error)) is expected


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000 + b"\r\n", id="a flood of headers"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n", id="a header without a colon"),
    ],
)
def test_what_is_no_http_is_unintelligible(answer: bytes) -> None:
    """Bytes that are no answer are the provider's fault."""
    assert type(_run(_fault_when(answering(answer)))) is faults.Unintelligible


@pytest.mark.parametrize(
    ("answer", "then_reset"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", False, id="too short"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", True, id="reset"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
            False,
            id="no last chunk",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
            False,
            id="a chunk size that is no number",
        ),
    ],
)
def test_a_body_that_breaks_off_is_truncated(answer: bytes, *, then_reset: bool) -> None:
    """The framing tells a cut from an end."""
    fault = _run(_fault_when(answering(answer, then_reset=then_reset)))

    assert type(fault) is faults.Truncated


def test_a_good_answer_is_no_fault() -> None:
    """No error, no fault."""
    assert _run(_fault_when(answering(GOOD))) is None


def _tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def _tls_fault(name: str, trusted: trustme.CA, issuer: trustme.CA, folder: Path) -> Any:
    """The fault of a TLS connection, and how many bytes of HTTP the server saw."""
    seen: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(GOOD)

    ca_file = folder / "ca.pem"
    ca_file.write_bytes(trusted.cert_pem.bytes())
    async with served(play, tls=_tls(issuer, name)) as port:
        fault = await _fault_of(f"https://localhost:{port}/", Way(ca_file=str(ca_file)))
    return fault, len(seen)


def test_a_trusted_certificate_is_accepted(tmp_path: Path) -> None:
    """A provider's own authority can be named in the config."""
    authority = trustme.CA()

    assert asyncio.run(_tls_fault("localhost", authority, authority, tmp_path)) == (None, 1)


def test_an_unknown_authority_gets_no_byte_of_the_request(tmp_path: Path) -> None:
    """Verification fails closed: the key is never sent."""
    fault, seen = asyncio.run(_tls_fault("localhost", trustme.CA(), trustme.CA(), tmp_path))

    assert (type(fault), seen) == (faults.CertificateRejected, 0)


def test_a_certificate_for_another_name_gets_no_byte_of_the_request(tmp_path: Path) -> None:
    """The name counts, not the signature alone."""
    authority = trustme.CA()
    fault, seen = asyncio.run(_tls_fault("example.com", authority, authority, tmp_path))

    assert (type(fault), seen) == (faults.CertificateRejected, 0)


def test_a_handshake_that_stalls_counts_as_connecting() -> None:
    """The time to connect covers TLS."""

    async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def attempt() -> UpstreamFault | None:
        async with served(stalling) as port:
            return await _fault_of(f"https://localhost:{port}/")

    assert type(_run(attempt())) is faults.Unreachable


def test_reasons_name_no_address() -> None:
    """What goes to the ledger says what happened, not where."""
    fault = _run(_fault_of("http://127.0.0.1:1/secret-path"))

    assert fault is not None
    assert "secret-path" not in fault.reason
    assert "refused" in fault.reason


def test_one_client_serves_one_way() -> None:
    """Connections are shared by the same way out only."""
    transport = Transport(connect_s=1.0)
    direct, proxied = transport.client(Way()), transport.client(Way(egress="berlin"))

    assert direct is transport.client(Way())
    assert direct is not proxied
