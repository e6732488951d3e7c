"""Broken answers are broken on the wire, byte for byte."""

import pytest

from keymux.sandbox.answer import Framing
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import (
    Cut,
    ErrorMidStream,
    ExtraBytes,
    HangsUp,
    NoReply,
    Ok,
    OverloadedIn200,
    Raw,
    Silent,
    Stall,
    Truncated,
    TurnedAway,
)
from tests.sandbox.peer import CHAT, KEY, MESSAGES, Heard, Peer, ask, body_for

QUIET_S = 0.05


def _whole(sandbox: SandboxThread, path: str, body: bytes) -> bytes:
    """The good answer's length is all that two answers to one request have in common by name."""
    sandbox.behave("sk-good", Ok())
    return ask(sandbox.url(), path, body, "sk-good").body


def _ask(sandbox: SandboxThread, path: str, *, stream: bool) -> Heard:
    return ask(sandbox.url(), path, body_for(path, stream=stream))


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("framing", [None, Framing.CHUNKED, Framing.LENGTH])
@pytest.mark.parametrize(
    ("path", "stream"),
    [
        pytest.param(CHAT, True, id="an OpenAI stream"),
        pytest.param(CHAT, False, id="a plain OpenAI answer"),
        pytest.param(MESSAGES, True, id="an Anthropic stream"),
    ],
)
def test_a_cut_comes_after_the_given_bytes(
    sandbox: SandboxThread, how: str, framing: Framing | None, path: str, stream: object
) -> None:
    """Any framing, both ways to end a connection; the framing always shows that it is no end."""
    sandbox.behave(KEY, Cut(300, "reset" if how == "reset" else "fin", framing))
    heard = _ask(sandbox, path, stream=bool(stream))

    assert (heard.status, heard.ending) == (200, how)
    assert heard.body == sandbox.seen[0].sent
    assert len(heard.body) == 300
    assert not heard.is_whole


@pytest.mark.parametrize("after", [0, 1, 37, 399, 10_000])
def test_every_place_can_be_cut(sandbox: SandboxThread, after: int) -> None:
    """Also before the first byte and after the last one, where only the last chunk is missing."""
    body = body_for(MESSAGES, stream=True)
    whole = _whole(sandbox, MESSAGES, body)
    sandbox.behave(KEY, Cut(after))
    heard = ask(sandbox.url(), MESSAGES, body)

    assert len(heard.body) == min(after, len(whole))
    assert not heard.wire.endswith(b"0\r\n\r\n")
    assert heard.ending == "fin"


def test_half_of_the_body_is_the_default(sandbox: SandboxThread) -> None:
    """A key's name needs no figure."""
    body = body_for(CHAT)
    whole = _whole(sandbox, CHAT, body)

    assert len(ask(sandbox.url(), CHAT, body, "sk-sandbox-cut-1").wire) == len(whole) // 2


def test_a_cut_may_hide_behind_the_end_of_the_connection(sandbox: SandboxThread) -> None:
    """Without length and chunks, nothing but the missing end marker tells."""
    sandbox.behave(KEY, Cut(300, framing=Framing.CLOSE))
    heard = _ask(sandbox, CHAT, stream=True)

    assert heard.headers["connection"] == "close"
    assert not {"content-length", "transfer-encoding"} & set(heard.headers)
    assert b"[DONE]" not in heard.wire


@pytest.mark.parametrize("after", [0, 250])
def test_a_stall_keeps_the_connection(sandbox: SandboxThread, after: int) -> None:
    """The bytes come, then nothing, and the connection stays open."""
    sandbox.behave(KEY, Stall(after))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT, stream=True))
        heard = peer.hear(QUIET_S)

        assert (heard.ending, len(heard.body)) == ("open", after)
        assert sandbox.connections == 1


def test_silence(sandbox: SandboxThread) -> None:
    """The request is read, nothing comes, and the connection stays open."""
    sandbox.behave(KEY, Silent())
    body = body_for(CHAT)
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body)
        heard = peer.hear(QUIET_S)

    assert (heard.status, heard.ending) == (0, "open")
    assert (sandbox.seen[0].body, sandbox.seen[0].is_whole) == (body, True)


@pytest.mark.parametrize("behaviour", [NoReply(), NoReply("reset")])
def test_no_reply(sandbox: SandboxThread, behaviour: NoReply) -> None:
    """All of the request is read and not a byte comes back."""
    sandbox.behave(KEY, behaviour)
    heard = _ask(sandbox, CHAT, stream=False)

    assert (heard.status, heard.wire, heard.ending) == (0, b"", behaviour.how)
    assert sandbox.seen[0].is_whole


@pytest.mark.parametrize("behaviour", [TurnedAway(), TurnedAway("fin")])
def test_turned_away(sandbox: SandboxThread, behaviour: TurnedAway) -> None:
    """The connection ends although the body has not been sent."""
    sandbox.behave(KEY, behaviour)
    with Peer(sandbox.url()) as peer:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: s\r\nX-Api-Key: {KEY}\r\nContent-Length: 9\r\n\r\n"
        peer.wire.sendall(head.encode())
        ending = peer.ending()

    assert ending == behaviour.how
    assert not sandbox.seen[0].is_whole


@pytest.mark.parametrize(
    ("path", "stream", "error"),
    [
        pytest.param(CHAT, True, b'data: {"error":{"message":"Overloaded"', id="an OpenAI stream"),
        pytest.param(
            MESSAGES, True, b'event: error\ndata: {"type":"error"', id="an Anthropic stream"
        ),
        pytest.param(CHAT, False, b'{"error":{"message":"Overloaded"', id="a plain answer"),
        pytest.param(MESSAGES, False, b'{"type":"error","error":', id="a plain message"),
    ],
)
def test_an_error_inside_a_200(
    sandbox: SandboxThread, path: str, stream: object, error: bytes
) -> None:
    """It is the first and only thing in the body."""
    sandbox.behave(KEY, OverloadedIn200())
    heard = _ask(sandbox, path, stream=bool(stream))

    assert (heard.status, heard.is_whole) == (200, True)
    assert heard.body.startswith(error)
    assert b'"overloaded_error"' in heard.body


@pytest.mark.parametrize(
    ("path", "first"),
    [
        pytest.param(CHAT, b'"role":"assistant"', id="the role comes first"),
        pytest.param(MESSAGES, b"event: message_start", id="message_start comes first"),
    ],
)
def test_an_error_after_the_preamble(sandbox: SandboxThread, path: str, first: bytes) -> None:
    """Nothing of the answer itself has been said when the error comes."""
    sandbox.behave(KEY, OverloadedIn200("preamble"))
    heard = _ask(sandbox, path, stream=True)
    start, error = heard.body.split(b"\n\n")[:2]

    assert first in start
    assert b"overloaded_error" in error


@pytest.mark.parametrize(
    ("path", "end"),
    [
        pytest.param(CHAT, b"[DONE]", id="an OpenAI stream"),
        pytest.param(MESSAGES, b"message_stop", id="an Anthropic stream"),
    ],
)
def test_an_error_in_mid_stream(sandbox: SandboxThread, path: str, end: bytes) -> None:
    """Some words, then the error as the last event, then a clean end without the end marker."""
    sandbox.behave(KEY, ErrorMidStream(4))
    heard = _ask(sandbox, path, stream=True)
    events = heard.body.strip().split(b"\n\n")

    assert (len(events), heard.is_whole) == (6, True)
    assert b"marker:m1" in heard.body
    assert b"overloaded_error" in events[-1]
    assert end not in heard.body


def test_plain_answers_have_no_middle(sandbox: SandboxThread) -> None:
    """There a mid-stream error changes nothing."""
    sandbox.behave(KEY, ErrorMidStream())

    assert _ask(sandbox, CHAT, stream=False).json["choices"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_cleanly_truncated_body(sandbox: SandboxThread, *, stream: bool) -> None:
    """The framing says that all is there, and it is not."""
    sandbox.behave(KEY, Truncated(after=200))
    heard = _ask(sandbox, CHAT, stream=stream)

    assert heard.is_whole
    assert len(heard.body) == 200


def test_a_short_body(sandbox: SandboxThread) -> None:
    """Content-Length promises all of it."""
    body = body_for(CHAT)
    whole = _whole(sandbox, CHAT, body)
    sandbox.behave(KEY, Truncated("short", 200))
    heard = ask(sandbox.url(), CHAT, body)

    assert heard.headers["content-length"] == str(len(whole))
    assert (len(heard.wire), heard.ending) == (200, "fin")


@pytest.mark.parametrize("stream", [True, False])
def test_an_empty_stream(sandbox: SandboxThread, *, stream: bool) -> None:
    """200, the right type, and a body that is over at once."""
    heard = ask(sandbox.url(), CHAT, body_for(CHAT, stream=stream), "sk-sandbox-empty-stream-1")

    assert (heard.status, heard.body, heard.is_whole) == (200, b"", True)


def test_a_kept_connection_is_closed_all_the_same(sandbox: SandboxThread) -> None:
    """The answer is whole and promises nothing else; then comes FIN."""
    sandbox.behave(KEY, HangsUp())
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        heard = peer.hear()

        assert heard.is_whole
        assert "connection" not in heard.headers
        assert peer.ending() == "fin"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("late_s", [0.0, 0.01])
def test_extra_bytes(sandbox: SandboxThread, late_s: float, *, stream: bool) -> None:
    """A second response follows the first, at once or soon, on a connection that stays."""
    sandbox.behave(KEY, ExtraBytes(late_s))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT, stream=stream))
        wire = b""
        while b"marker:stray" not in wire:
            wire += peer.wire.recv(65_536)

    assert wire.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"marker:stray" not in sandbox.seen[0].sent


@pytest.mark.parametrize("stream", [True, False])
def test_extra_bytes_may_be_late(sandbox: SandboxThread, *, stream: bool) -> None:
    """The first answer is whole by then and the connection seems idle."""
    sandbox.behave(KEY, ExtraBytes(late_s=30.0))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT, stream=stream))
        first, second = peer.hear(), peer.hear(QUIET_S)

    assert first.is_whole
    assert (second.wire, second.ending) == (b"", "open")


@pytest.mark.parametrize(
    ("behaviour", "ending"),
    [
        pytest.param(Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "fin", id="not HTTP at all"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\n\x00: \xff\r\n\r\n", "reset"), "reset", id="reset"),
        pytest.param(Raw(b"HTTP/1.1 100 Continue\r\n\r\n", "stay"), "open", id="stay"),
    ],
)
def test_raw_bytes(sandbox: SandboxThread, behaviour: Raw, ending: str) -> None:
    """What a test gives is sent as it is and nothing else."""
    sandbox.behave(KEY, behaviour)
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        peer.wire.settimeout(5)
        got = peer.wire.recv(len(behaviour.response))

        assert got == behaviour.response == sandbox.seen[0].sent
        assert peer.hear(QUIET_S).ending == ending


def test_a_reset_waits_for_what_was_written(sandbox: SandboxThread) -> None:
    """All bytes before it arrive, even when the kernel has to keep most of them for a while."""
    size = 200_000
    sandbox.behave(KEY, Raw(b"x" * size, "reset"))
    with Peer(sandbox.url(), window=4_096) as peer:
        peer.ask(CHAT, body_for(CHAT))
        sandbox.until(lambda: bool(sandbox.seen and sandbox.seen[0].sent))
        got = 0
        while part := _received(peer):
            got += len(part)

    assert got == size


def _received(peer: Peer) -> bytes:
    try:
        return peer.wire.recv(1 << 20)
    except ConnectionResetError:
        return b""
