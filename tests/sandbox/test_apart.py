"""The sandbox beside code that does not await: the same in a thread and in another process."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from keymux.sandbox import Sandbox
from keymux.sandbox.apart import SandboxChild, SandboxThread
from keymux.sandbox.asked import Endpoint
from keymux.sandbox.behaviours import Ok, Raw, Silent, Slow, Throttled
from tests.sandbox.peer import CHAT, KEY, Peer, ask, body_for

Apart = SandboxThread | SandboxChild


@pytest.fixture(params=[SandboxThread, SandboxChild], ids=["a thread", "a child process"])
def apart(request: pytest.FixtureRequest) -> Iterator[Apart]:
    """A sandbox of either kind."""
    with ExitStack() as stack:
        yield stack.enter_context(request.param())


def _status(apart: Apart) -> int:
    return ask(apart.url("openhands"), CHAT, body_for(CHAT)).status


def test_scripts_can_be_set(apart: Apart) -> None:
    """Behaviours with figures and bytes, and lines of text."""
    apart.behave(KEY, Throttled(7), Raw(b"HTTP/1.1 299 \xff\r\n\r\n"), "spent@credit400")
    apart.behave(KEY, "server-error", on=Endpoint.MODELS)

    assert [_status(apart) for _ in range(3)] == [429, 299, 400]


def test_records_can_be_read(apart: Apart) -> None:
    """With bodies, byte for byte."""
    heard = ask(apart.url("ohmygpt"), CHAT, body_for(CHAT, "\u00fc"))
    apart.until(lambda: apart.seen[0].is_finished)
    seen = apart.seen[0]

    assert (seen.dialect, seen.body, seen.sent) == ("ohmygpt", body_for(CHAT, "\u00fc"), heard.body)


def test_resetting(apart: Apart) -> None:
    """Scripts and records are forgotten."""
    apart.behave(KEY, "server-error")
    statuses = [_status(apart)]
    apart.reset()
    statuses.append(_status(apart))

    assert statuses == [500, 200]
    assert len(apart.seen) == 1


def test_it_can_be_waited_for(apart: Apart) -> None:
    """Here for a peer that leaves; the connections of the control API are not counted."""
    apart.behave(KEY, Silent())
    with Peer(apart.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        apart.until(lambda: apart.connections == 1 and bool(apart.seen))
    apart.until(lambda: apart.seen[0].peer_left_at is not None)

    assert (apart.connections, apart.accepted) == (0, 1)


def test_waiting_ends_with_the_change(apart: Apart) -> None:
    """And not only with the time."""
    begin = time.monotonic()
    apart.behave(KEY, Slow(first_s=0.3))
    with Peer(apart.url()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        apart.until(lambda: bool(apart.seen) and apart.seen[0].is_finished, within_s=9.0)

    assert 0.3 < time.monotonic() - begin < 4.0


def test_waiting_ends_with_the_time(apart: Apart) -> None:
    """A condition that never holds is an error."""
    with pytest.raises(TimeoutError):
        apart.until(lambda: False, within_s=0.05)


def test_a_wrong_script_is_an_error_here(apart: Apart) -> None:
    """It does not vanish on the other side."""
    with pytest.raises(ValueError, match="at least one"):
        apart.behave(KEY)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda port: SandboxThread(Sandbox(port=port)), id="a thread"),
        pytest.param(lambda port: SandboxChild(port=port), id="a child process"),
    ],
)
def test_a_taken_port_is_an_error(make: Callable[[int], Apart]) -> None:
    """The context does not open."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match=r"in use|did not start"),
        make(taken.getsockname()[1]),
    ):
        pass


def test_a_child_ends_with_its_context() -> None:
    """No process is left behind."""
    with SandboxChild() as child:
        child.behave(KEY, Ok())

    assert child.process.returncode == 0


def test_a_child_speaks_tls(tmp_path: Path) -> None:
    """With a certificate for any name; records are read on, and say where requests came from."""
    authority = trustme.CA()
    here = ssl.create_default_context()
    authority.configure_trust(here)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    with SandboxChild(certificate=tmp_path / "server.pem") as child:
        for _ in range(2):
            with Peer(child.url(), here) as peer:
                peer.ask(CHAT, body_for(CHAT))
                assert peer.hear().is_whole
        [second] = child.seen_since(1)

        assert (second.number, second.source) == (2, "127.0.0.1")


def test_a_child_ends_with_its_parent() -> None:
    """Even when the parent is killed and cannot tell it."""
    program = (
        "import signal\n"
        "from keymux.sandbox.apart import SandboxChild\n"
        "with SandboxChild() as child:\n"
        "    print(child.url(), flush=True)\n"
        "    signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with Peer(parent.stdout.readline().strip()) as peer:
        peer.ask(CHAT, body_for(CHAT))
        answered = peer.hear().is_whole
        parent.kill()
        parent.communicate()

        assert (answered, peer.ending()) == (True, "fin")
