"""Secrets at rest under a running gateway: sealed, rotated, promoted, and nowhere in the clear."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from keymux.sandbox.apart import SandboxThread
from keymux.stores.sealing.ring_file import RingFile
from tests.scenarios.rig import GatewayProcess, Keys, config_of, key_id, pause
from tests.scenarios.wire import ANTHROPIC_PATH, chat, post

GOOD, SPARE, DEAD = "sk-sandbox-ok-sealed-1", "sk-sandbox-ok-sealed-2", "sk-sandbox-revoked"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway on a database of a time when nothing was sealed."""
    with SandboxThread() as sandbox:
        config = config_of({"openhands": sandbox.url("openhands")})
        keys = {"openhands": Keys([GOOD], [SPARE])}
        with GatewayProcess(tmp_path, config, keys) as running:
            yield running


def _statuses_while(gateway: GatewayProcess, stop: Event) -> set[int]:
    found = set()
    while not stop.is_set():
        found.add(post(gateway.port, ANTHROPIC_PATH, chat()).status)
    return found


def _done(gateway: GatewayProcess, *arguments: str, stdin: str = "") -> None:
    done = gateway.run(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr


def test_sealing_and_rotating_under_load(gateway: GatewayProcess) -> None:
    """No client notices; a key added and a spare promoted afterwards are sealed with the new key.

    A dump of the store has no upstream key at the end.
    """
    stop = Event()
    with ThreadPoolExecutor() as threads:
        statuses = threads.submit(_statuses_while, gateway, stop)
        _done(gateway, "secrets", "encrypt")
        for _ in range(3):
            _done(gateway, "secrets", "rotate")
        _done(gateway, "keys", "add", "openhands", "--stdin", stdin=DEAD)
        while key_id(SPARE) not in {key.id for key in gateway.keys("openhands").values()}:
            pause(0.05)
        stop.set()
    ring = RingFile(gateway.database.with_name("keymux.keyring.json")).latest()
    status = gateway.run("secrets", "status")
    dump = b"".join(path.read_bytes() for path in gateway.folder.glob("keymux.db*"))

    assert statuses.result() == {200}
    assert ring is not None
    assert f"openhands_keys: 3 sealed with {ring.current}\n" in status.stdout
    assert f"openhands_backup_keys: 1 sealed with {ring.current}\n" in status.stdout
    assert {name for name in (GOOD, SPARE, DEAD) if name.encode() in dump} == set()
    assert set(gateway.keys("openhands")) == {GOOD, SPARE, DEAD}


def test_a_gateway_that_was_killed_starts_with_its_ring(gateway: GatewayProcess) -> None:
    """The sealed keys are served again."""
    _done(gateway, "secrets", "encrypt")
    gateway.kill()
    gateway.start()

    assert post(gateway.port, ANTHROPIC_PATH, chat()).status == 200
