"""``keymux sandbox``: says what it serves, and ends when it shall."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import typer
from typer.testing import CliRunner, Result

from keymux.cli.sandbox import sandbox
from keymux.sandbox import Sandbox
from keymux.sandbox.behaviours import BY_NAME
from keymux.sandbox.program import LISTENS, run
from tests.sandbox.peer import CHAT, Peer, ask, body_for

PROGRAM = (
    "import typer\nfrom keymux.cli.sandbox import sandbox\n"
    "app = typer.Typer()\napp.command()(sandbox)\napp()\n"
)


@contextmanager
def _running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and the address it listens on."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().removeprefix(LISTENS).strip()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    """Either signal ends it well, open connections or not."""
    with _running("--port", "0") as (process, url), Peer(url) as peer:
        status = ask(f"{url}/ohmygpt", CHAT, body_for(CHAT)).status
        peer.ask(CHAT, body_for(CHAT), "sk-sandbox-silent")
        process.send_signal(number)

        assert (status, peer.ending()) == (200, "fin")
        assert process.wait(5) == 0


@pytest.mark.parametrize("with_parent", [True, False])
def test_a_signal_ends_it_here_too(*, with_parent: bool) -> None:
    """The sandbox is open while it says what it serves, and closed afterwards."""
    said: list[str] = []
    sandbox = Sandbox()

    def say(text: str) -> None:
        said.append(text)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()

    run(sandbox, say, with_parent=with_parent)

    assert said[0].startswith(LISTENS + sandbox.url() + "\n")
    with pytest.raises(ConnectionRefusedError):
        Peer(sandbox.url())


def test_it_says_what_it_serves() -> None:
    """Both dialects, and a key for every behaviour."""
    with _running("--port", "0") as (process, url):
        process.terminate()
        assert process.stdout is not None
        said = process.stdout.read()

    assert f"{url}/openhands/v1/chat/completions" in said
    assert f"{url}/ohmygpt/v1/chat/completions" in said
    assert all(f"sk-sandbox-{name} " in said for name in BY_NAME)


def test_a_taken_port_is_told_in_one_line() -> None:
    """Nothing is served and no traceback shown."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = _invoke("--port", str(port))

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"keymux: cannot listen on 127.0.0.1:{port}: the port is in use; "
        "stop what listens there, or choose another --port.\n"
    )


def test_an_address_that_is_not_ours_is_told() -> None:
    """The reason is the system's."""
    result = _invoke("--host", "192.0.2.1", "--port", "0")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot listen on 192.0.2.1:0: " in result.stderr


def _invoke(*options: str) -> Result:
    app = typer.Typer()
    app.command()(sandbox)
    return CliRunner().invoke(app, options)


def test_without_the_option_it_outlives_its_parent() -> None:
    """Then only a signal ends it."""
    shell = f"{sys.executable} -u -c '{PROGRAM}' --port 0 & read line"
    with subprocess.Popen(
        ["/bin/bash", "-c", shell],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().removeprefix(LISTENS).strip()
        parent.kill()
        parent.wait()

        assert ask(url, CHAT, body_for(CHAT)).status == 200

        os.killpg(parent.pid, signal.SIGTERM)
