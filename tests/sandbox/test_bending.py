"""Odd answers are still the right answer to a peer that keeps to the rules."""

import gzip
import zlib

import pytest

from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import (
    Crlf,
    Drip,
    HeaderBomb,
    HugeEvent,
    LeaksKey,
    NoUsage,
    Slow,
)
from keymux.wire import sse
from tests.sandbox.peer import CHAT, KEY, MESSAGES, Heard, Peer, ask, body_for

FORMATS = pytest.mark.parametrize("path", [CHAT, MESSAGES])
BOTH_WAYS = pytest.mark.parametrize("stream", [True, False])


def _ask(sandbox: SandboxThread, path: str, *, stream: bool) -> Heard:
    return ask(sandbox.url(), path, body_for(path, stream=stream))


def _quiet(peer: Peer) -> bool:
    peer.wire.settimeout(0.05)
    try:
        return not peer.wire.recv(1)
    except TimeoutError:
        return True


def test_a_late_head_comes_with_the_first_event(sandbox: SandboxThread) -> None:
    """Nothing is heard before that."""
    sandbox.behave(KEY, Slow(first_s=0.2, gap_s=0.0))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT, stream=True))

        assert _quiet(peer)
        assert peer.hear().is_whole


def test_an_early_head_comes_alone(sandbox: SandboxThread) -> None:
    """The client knows the status and waits for the first event."""
    sandbox.behave(KEY, Slow(first_s=0.2, gap_s=0.0, head="early"))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT, stream=True))
        heard = peer.hear(most=1)

        assert (heard.status, heard.wire) == (200, b"")
        assert _quiet(peer)


def test_a_plain_answer_is_slow_too(sandbox: SandboxThread) -> None:
    """It comes whole, after the first wait."""
    sandbox.behave(KEY, Slow(first_s=0.2))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))

        assert _quiet(peer)
        assert peer.hear().is_whole


def test_gaps_lie_between_events(sandbox: SandboxThread) -> None:
    """The second event has to be waited for."""
    sandbox.behave(KEY, Slow(first_s=0.0, gap_s=30.0))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT, stream=True))
        heard = peer.hear(0.2)

        assert heard.body.count(b"data: ") == 1
        assert _quiet(peer)


@BOTH_WAYS
def test_drops_add_up(sandbox: SandboxThread, *, stream: bool) -> None:
    """One byte for each write, and the whole answer in the end."""
    sandbox.behave(KEY, Drip())
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT, stream=stream))
        heard = peer.hear()

    assert heard.is_whole
    assert heard.body == sandbox.seen[0].sent


def test_drops_come_one_by_one(sandbox: SandboxThread) -> None:
    """With a gap, the first byte comes alone."""
    sandbox.behave(KEY, Drip(gap_s=30.0))
    with Peer(sandbox.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))

        assert peer.wire.recv(100) == b"H"
        assert _quiet(peer)


def _events(wire: bytes) -> list[sse.Event]:
    return [event for event in map(sse.parse, sse.split(wire)) if event.data]


@FORMATS
@pytest.mark.parametrize("ends", ["crlf", "cr", "mixed"])
def test_odd_events_say_the_same(sandbox: SandboxThread, path: str, ends: str) -> None:
    """A parser that keeps to the standard reads the same events out of other bytes."""
    sandbox.behave(KEY, f"crlf@{ends}")
    odd = _ask(sandbox, path, stream=True).body
    sandbox.behave(KEY, "ok")
    usual = _ask(sandbox, path, stream=True).body

    assert [event.name for event in _events(odd)] == [event.name for event in _events(usual)]
    assert {b": the sandbox is thinking", b"retry: 3000"} <= set(odd.splitlines())
    assert (b"\r\n" in odd) == (ends != "cr")
    assert (b"\n" in odd.replace(b"\r\n", b"")) == (ends == "mixed")


def test_odd_json_is_json(sandbox: SandboxThread) -> None:
    """A plain answer has white space around it."""
    sandbox.behave(KEY, Crlf())
    heard = _ask(sandbox, CHAT, stream=False)

    assert heard.body.startswith(b"\r\n  {")
    assert heard.json["object"] == "chat.completion"


@FORMATS
@BOTH_WAYS
def test_a_huge_event(sandbox: SandboxThread, path: str, *, stream: bool) -> None:
    """One line as long as asked for, and well-formed all the same."""
    sandbox.behave(KEY, HugeEvent(300_000))
    heard = _ask(sandbox, path, stream=stream)

    assert heard.is_whole
    assert max(map(len, heard.body.splitlines())) > 300_000
    assert b"x" * 300_000 in heard.body


def test_a_header_bomb(sandbox: SandboxThread) -> None:
    """As many headers as asked for, each as long as asked for."""
    sandbox.behave(KEY, HeaderBomb(count=300, size=700))
    headers = _ask(sandbox, CHAT, stream=False).headers

    assert sum(name.startswith("x-bomb-") for name in headers) == 300
    assert headers["x-bomb-299"] == "b" * 700


@BOTH_WAYS
def test_gzip_unasked(sandbox: SandboxThread, *, stream: bool) -> None:
    """The body unpacks to the good answer, whose end is the end of the packed one."""
    key = "sk-sandbox-gzip-1"
    heard = ask(sandbox.url(), CHAT, body_for(CHAT, stream=stream), key)
    body = gzip.decompress(heard.body)

    assert heard.headers["content-encoding"] == "gzip"
    assert b"marker:m1" in body
    assert heard.is_whole


def test_each_event_can_be_unpacked_as_it_comes(sandbox: SandboxThread) -> None:
    """Packing does not hold events back."""
    sandbox.behave(KEY, "gzip")
    heard = _ask(sandbox, CHAT, stream=True)
    size, _, rest = heard.wire.partition(b"\r\n")
    first = zlib.decompressobj(wbits=31).decompress(rest[: int(size, 16)])

    assert first.endswith(b"\n\n")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_leak_is_everywhere(sandbox: SandboxThread, path: str) -> None:
    """Key, account and organization stand in headers and body."""
    sandbox.behave(KEY, LeaksKey())
    heard = _ask(sandbox, path, stream=False)

    assert heard.status == 400
    assert KEY in heard.json["error"]["message"]
    assert "owner@sandbox.example" in heard.json["error"]["message"]
    assert heard.headers["authorization"] == f"Bearer {KEY}"
    assert KEY in heard.headers["set-cookie"]
    assert heard.headers["openai-organization"] == "org-sandbox-secret"


def test_a_good_answer_leaks_in_its_headers(sandbox: SandboxThread) -> None:
    """The body is the usual one."""
    sandbox.behave(KEY, LeaksKey(200))
    heard = _ask(sandbox, CHAT, stream=False)

    assert KEY in heard.headers["set-cookie"]
    assert KEY.encode() not in heard.body
    assert heard.json["choices"]


@FORMATS
@BOTH_WAYS
def test_no_usage(sandbox: SandboxThread, path: str, *, stream: bool) -> None:
    """The field is not there, whoever asks for it."""
    sandbox.behave(KEY, NoUsage())
    body = body_for(path, stream=stream, stream_options={"include_usage": True})
    heard = ask(sandbox.url(), path, body)

    assert (heard.status, b"marker:m1" in heard.body) == (200, True)
    assert b"usage" not in heard.body


def test_usage_of_zero(sandbox: SandboxThread) -> None:
    """The field is there and says nothing."""
    sandbox.behave(KEY, NoUsage("zero"))
    usage = _ask(sandbox, MESSAGES, stream=False).json["usage"]

    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)
