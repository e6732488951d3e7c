"""Connections are kept, shared by several requests, watched, and ended when they have to be."""

import socket
import ssl
import struct
import time

import pytest
import trustme

from keymux.sandbox import Sandbox
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import Cut, HugeEvent, Silent, Slow
from tests.sandbox.peer import CHAT, KEY, MESSAGES, Peer, ask, body_for


def test_a_connection_serves_many_requests(sandbox: SandboxThread) -> None:
    """Plain and streamed, one after the other; the records tell that it was reused."""
    with Peer(sandbox.url()) as peer:
        for stream in (False, True, False):
            peer.ask(CHAT, body_for(CHAT, stream=stream))

            assert peer.hear().is_whole

    assert [(seen.connection, seen.turn) for seen in sandbox.seen] == [(1, 1), (1, 2), (1, 3)]
    assert sandbox.accepted == 1


def test_requests_may_be_sent_ahead(sandbox: SandboxThread) -> None:
    """What comes before an answer is finished waits for its turn."""
    with Peer(sandbox.url()) as peer:
        for marker in ("marker:one", "marker:two"):
            peer.ask(CHAT, body_for(CHAT, marker))
        wire = b""
        while wire.count(b"finish_reason") < 2:
            wire += peer.wire.recv(65_536)

    assert 0 < wire.index(b"marker:one") < wire.index(b"marker:two")


def test_a_peer_that_wants_to_close_is_obeyed(sandbox: SandboxThread) -> None:
    """The answer says so, and then comes FIN."""
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT), KEY, "Connection: close")
        heard = peer.hear()

        assert (heard.is_whole, heard.headers["connection"]) == (True, "close")
        assert peer.ending() == "fin"


def test_http_1_0_is_answered_without_chunks(sandbox: SandboxThread) -> None:
    """The end of the connection is the end of the stream."""
    body = body_for(CHAT, stream=True)
    with Peer(sandbox.url()) as peer:
        head = f"POST {CHAT} HTTP/1.0\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.wire.sendall(head.encode() + body)
        heard = peer.hear()

    assert "transfer-encoding" not in heard.headers
    assert heard.wire.endswith(b"data: [DONE]\n\n")
    assert heard.ending == "fin"


def test_a_peer_that_waits_for_leave_gets_it(sandbox: SandboxThread) -> None:
    """``Expect: 100-continue`` is answered before the body is sent."""
    body = body_for(CHAT)
    with Peer(sandbox.url()) as peer:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: s\r\nX-Api-Key: {KEY}\r\nExpect: 100-continue\r\n"
        peer.wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        leave = peer.wire.recv(100)
        peer.wire.sendall(body)

        assert leave == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert peer.hear().status == 200


def test_a_chunked_request_is_read(sandbox: SandboxThread) -> None:
    """Its body is recorded without the framing."""
    body = body_for(CHAT)
    with Peer(sandbox.url()) as peer:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: s\r\nX-Api-Key: {KEY}\r\n"
        peer.wire.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        peer.wire.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

        assert peer.hear().status == 200
    assert sandbox.seen[0].body == body


def test_what_is_no_request_is_refused(sandbox: SandboxThread) -> None:
    """400, and the connection ends."""
    with Peer(sandbox.url()) as peer:
        peer.wire.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
        heard = peer.hear()

        assert (heard.status, heard.headers["connection"]) == (400, "close")
        assert peer.ending() == "fin"


@pytest.mark.parametrize(
    ("target", "method", "expected"),
    [
        pytest.param("/nowhere", "POST", (404, "Not Found"), id="an unknown path"),
        pytest.param(CHAT, "GET", (405, "Method Not Allowed"), id="a wrong method"),
    ],
)
def test_what_is_not_served(
    sandbox: SandboxThread, target: str, method: str, expected: tuple[int, str]
) -> None:
    """It is refused and recorded."""
    with Peer(sandbox.url()) as peer:
        peer.wire.sendall(f"{method} {target} HTTP/1.1\r\nHost: s\r\n\r\n".encode())
        heard = peer.hear()

    assert (heard.status, heard.json["detail"]) == expected
    assert sandbox.seen[0].target == target


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_peer_that_leaves_is_noticed_at_once(sandbox: SandboxThread, how: str) -> None:
    """Also while the sandbox has nothing to send; the moment is recorded."""
    sandbox.behave(KEY, Silent())
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        sandbox.until(lambda: bool(sandbox.seen and sandbox.seen[0].is_whole))
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            peer.wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        left = time.monotonic()
    sandbox.until(lambda: sandbox.connections == 0, within_s=1.0)
    seen = sandbox.seen[0]

    assert seen.peer_left_at is not None
    assert 0 <= seen.peer_left_at - left < 1.0
    assert not seen.is_finished


def test_a_peer_that_stops_talking_has_left(sandbox: SandboxThread) -> None:
    """Nobody waits for it to read what is on its way."""
    sandbox.behave(KEY, HugeEvent(64_000_000))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        peer.hear(most=1)
        peer.wire.shutdown(socket.SHUT_WR)
        sandbox.until(lambda: sandbox.connections == 0)

        assert sandbox.seen[0].peer_left_at is not None


def test_a_peer_that_leaves_ends_the_stream(sandbox: SandboxThread) -> None:
    """No more is sent than what was sent by then."""
    sandbox.behave(KEY, Slow(0.0, 30.0))
    with Peer(sandbox.url()) as peer:
        peer.ask(MESSAGES, body_for(MESSAGES, stream=True))
        peer.hear(most=1)
    sandbox.until(lambda: sandbox.connections == 0)

    assert sandbox.seen[0].sent.count(b"event:") == 1


def test_our_own_ending_is_not_the_peers(sandbox: SandboxThread) -> None:
    """A cut connection was not left by the peer."""
    sandbox.behave(KEY, Cut(10))
    ask(sandbox.url(), CHAT, body_for(CHAT))
    sandbox.until(lambda: sandbox.connections == 0)

    assert (sandbox.seen[0].peer_left_at, sandbox.seen[0].is_finished) == (None, True)


def test_a_peer_that_does_not_read_holds_the_sandbox_back(sandbox: SandboxThread) -> None:
    """What the kernel does not take is not made yet."""
    sandbox.behave(KEY, HugeEvent(64_000_000))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        peer.hear(most=1)

        assert len(sandbox.seen[0].sent) < 32_000_000


def test_tls() -> None:
    """The same bytes, encrypted; a reset is a reset there too."""
    authority = trustme.CA()
    here, there = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(here)
    authority.issue_cert("127.0.0.1").configure_cert(there)
    with SandboxThread(Sandbox(tls=there)) as sandbox:
        assert sandbox.url("ohmygpt").startswith("https://127.0.0.1:")
        with Peer(sandbox.url(), here) as peer:
            peer.ask(CHAT, body_for(CHAT, stream=True))
            heard = peer.hear()
            peer.ask(CHAT, body_for(CHAT), "sk-sandbox-cut@9@how=reset")
            sandbox.until(lambda: sandbox.connections == 0)
            # Python's TLS tells a reset as an end, so look below it.
            peer.wire = socket.socket(fileno=peer.wire.detach())

            assert (heard.is_whole, b"[DONE]" in heard.body) == (True, True)
            assert peer.ending() == "reset"
