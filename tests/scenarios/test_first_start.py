"""What a newcomer meets: one command, a client key, two lines to paste, and clear refusals."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import GatewayProcess, config_of, free_port, pause

ENDS = {"/v1/chat/completions": "data: [DONE]\n\n", "/v1/messages": 'data: {"type":"message_stop"}'}
ROOT = Path(__file__).resolve().parents[2]


def _config(port: int, **changes: Any) -> dict[str, Any]:
    """Two sandbox providers that nobody has started."""
    base = f"http://127.0.0.1:{port}"
    addresses = {"one": f"{base}/openhands", "two": f"{base}/ohmygpt"}
    return config_of(addresses, kind="sandbox", **changes)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """The program, started for the first time in an empty folder."""
    with GatewayProcess(tmp_path, _config(free_port())) as running:
        yield running


def _curl_lines(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if line.strip().startswith("curl ")]


def _pasted(line: str, key: str) -> str:
    """What the shell and curl make of a line."""
    curl = shutil.which("curl")
    if curl is None:
        return _as_curl_would(line.replace("$KEYMUX_KEY", key))
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env={"KEYMUX_KEY": key, "PATH": str(Path(curl).parent)},
        capture_output=True,
        check=True,
        timeout=20,
    )
    return done.stdout.decode()


def _as_curl_would(line: str) -> str:
    words = shlex.split(line)
    headers = [words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H"]
    url = next(word for word in words if word.startswith("http://"))
    body = words[words.index("-d") + 1]
    return httpx2.post(url, headers=dict(headers), content=body, trust_env=False).text


def test_the_printed_lines_work_as_they_stand(gateway: GatewayProcess) -> None:
    """Pasted into a shell, each line streams an answer to its end."""
    lines = _curl_lines(gateway.said())

    assert len(lines) == 2
    for line, (path, end) in zip(lines, ENDS.items(), strict=True):
        assert path in line
        for answer in (_pasted(line, ""), _as_curl_would(line)):
            assert end in answer
            assert "sandbox" in answer


def test_the_client_key_is_shown_once(gateway: GatewayProcess) -> None:
    """The first start shows it, later ones say how to make another; it is stored as a hash."""
    key = re.findall(r"km-[A-Za-z0-9]{40}", gateway.said())[0]
    gateway.stop()
    stored = b"".join(path.read_bytes() for path in gateway.folder.glob("keymux*.db*"))
    gateway.start()
    said = gateway.said()

    assert key.encode() not in stored
    assert key not in gateway.log_path.read_text()
    assert "km-" not in said
    assert "keymux clients add" in said
    for line, end in zip(_curl_lines(said), ENDS.values(), strict=True):
        assert end in _pasted(line, key)


def test_empty_pools_are_pointed_out(tmp_path: Path) -> None:
    """A provider without keys gets a line that gives it some; that line works as printed."""
    with GatewayProcess(tmp_path, config_of({"openhands": "https://127.0.0.1:9/v1"})) as gateway:
        said = gateway.said()
        line = next(line for line in said.splitlines() if "keys add" in line).strip()
        (tmp_path / "keys.txt").write_text("sk-from-the-line-as-printed\n")
        command = line.replace("keymux", f"{shlex.quote(_program())}", 1)
        subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True, timeout=30)

        assert not _curl_lines(said)
        assert list(gateway.keys("openhands")) == ["sk-from-the-line-as-printed"]


def _program() -> str:
    """The installed ``keymux``."""
    return str(Path(sys.executable).parent / "keymux")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("end", [GatewayProcess.stop, GatewayProcess.kill], ids=["stop", "kill -9"])
def test_the_sandbox_ends_with_the_gateway(
    tmp_path: Path, end: Callable[[GatewayProcess], object]
) -> None:
    """Nothing that was started stays behind."""
    port = free_port()
    gateway = GatewayProcess(tmp_path, _config(port)).start()
    before = _is_open(port)
    end(gateway)
    for _ in range(100):
        if not _is_open(port):
            break
        pause(0.05)

    assert before
    assert not _is_open(port)


def test_a_sandbox_that_runs_is_used(tmp_path: Path) -> None:
    """Operators may run their own, and see what it saw."""
    with SandboxThread() as sandbox:
        port = int(sandbox.url().rsplit(":", 1)[1])
        with GatewayProcess(tmp_path, _config(port)) as gateway:
            _pasted(_curl_lines(gateway.said())[0], "")

        assert len(sandbox.seen) == 1


# -- starts that are refused ---------------------------------------------------------------------
def _refusal(folder: Path, config: dict[str, Any], seconds: float = 15.0) -> str:
    """What a start that is refused says."""
    gateway = GatewayProcess(folder, config)
    code = gateway.launch().wait(seconds)

    assert code != 0
    assert gateway.said() == ""
    return gateway.log_path.read_text()


def test_every_problem_of_a_start_is_listed(tmp_path: Path) -> None:
    """Port, journal, store and sandbox: one look shows all that has to be mended."""
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = _config(
            port, store=f"sqlite:///{tmp_path}/file/x.db", journal=f"{tmp_path}/file/j"
        )
        config["port"] = port
        said = _refusal(tmp_path, config)

    for place in ("$.port", "$.journal", "$.store", "$.providers.one.base_url"):
        assert sum(place in line for line in said.splitlines()) == 1
    assert "not started" in said
    assert "Traceback" not in said


def test_every_problem_of_a_config_is_listed(tmp_path: Path) -> None:
    """Each with its place, before anything is opened or written."""
    config = _config(9, log={"level": "loud"}, retry={"atempts": 3})
    config["models"][0]["route"][0]["provider"] = "three"
    said = _refusal(tmp_path, config)

    assert "$.log.level" in said
    assert "$.retry.atempts" in said
    assert "$.models[0].route[0].provider" in said
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is no database, but it is long enough to look like one. " * 40, "database"),
        (None, "newer"),
    ],
    ids=["a file of something else", "a newer schema"],
)
def test_a_store_that_is_not_ours_is_left_alone(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """It is refused by name, and not a byte of it is changed."""
    path = tmp_path / "keymux.db"
    if content is None:
        gateway = GatewayProcess(tmp_path, _config(9), {})
        assert gateway.database == path
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 9999")
        database.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    said = _refusal(tmp_path, _config(free_port()))

    assert "$.store" in said
    assert words in said
    assert path.read_bytes() == before


def test_ctrl_c_lets_running_answers_finish(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the whole group: gateway, workers and sandbox."""
    gateway = GatewayProcess(tmp_path, _config(free_port())).start()
    key = re.findall(r"km-[A-Za-z0-9]{40}", gateway.said())[0]
    url = f"{gateway.url}/v1/messages"
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 400,
        "stream": True,
        "messages": [{"role": "user", "content": "Write a long story. " * 50}],
    }
    assert gateway.process is not None
    with httpx2.stream(
        "POST", url, headers={"x-api-key": key}, json=body, trust_env=False
    ) as reply:
        blocks = reply.iter_raw()
        received = next(blocks)
        os.killpg(gateway.process.pid, signal.SIGINT)
        received += b"".join(blocks)
    code = gateway.process.wait(15)
    gateway.process = None

    assert b"message_stop" in received
    assert code == 0
    assert json.loads(gateway.log_path.read_text().splitlines()[-1])["event"] == "stopped"
