"""Runs the shipped program for the scenarios: a gateway process with a store, keys and a log."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from msgspec import Struct

from keymux.core.records import (
    AuditRow,
    BackupKeyRecord,
    ClientKeyRecord,
    ExchangeRow,
    KeyRecord,
)
from keymux.core.secrets import hash_of
from keymux.stores.sealing.ring_file import RingFile
from keymux.stores.sealing.vault import Vault
from keymux.stores.sqlite import SqliteStore

CLIENT_KEY = "km-" + "c" * 40
MODEL = "claude-sonnet-4-5"
UPSTREAM_MODEL = "claude-sonnet-4-5-20250929"
START_S = 20.0
IS_LONG = os.environ.get("KEYMUX_TEST_LONG") == "1"
"""`make test-long`: as long and as often as the documentation says, not only what finds most."""

T = TypeVar("T")


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def key_id(secret: str) -> str:
    """The id under which the rig stores a key."""
    return "key_" + hash_of(secret)[:12]


class Keys(Struct, frozen=True):
    """What a provider's pool holds at the start."""

    keys: Sequence[str] = ()
    backups: Sequence[str] = ()
    groups: Mapping[str, str] = {}


def config_of(
    providers: Mapping[str, str], *, kind: str | None = None, **changes: Any
) -> dict[str, Any]:
    """A config with one model, routed over the providers in the order given.

    Args:
        providers: name → base URL.
        kind: dialect of all of them; the provider's name when left out.
        changes: further sections.
    """
    return {
        "providers": {
            name: {"kind": kind or name, "base_url": url} for name, url in providers.items()
        },
        "models": [
            {
                "id": UPSTREAM_MODEL,
                "aliases": [MODEL],
                "route": [{"provider": name, "model": UPSTREAM_MODEL} for name in providers],
                "price": {
                    "input": 3.0,
                    "output": 15.0,
                    "cache_read": 0.3,
                    "cache_write_5m": 3.75,
                    "cache_write_1h": 6.0,
                },
            }
        ],
        **changes,
    }


def islands_of(url: str, names: Iterable[str], **changes: Any) -> dict[str, Any]:
    """A config with a provider and a model for each name, so that what ails one spares the others.

    Args:
        url: base URL of all of them.
        names: of the providers; the models are called the same.
        changes: further sections.
    """
    names = tuple(names)
    return {
        "providers": {name: {"kind": "openhands", "base_url": url} for name in names},
        "models": [
            {
                "id": name,
                "route": [{"provider": name, "model": name}],
                "price": {"input": 3.0, "output": 15.0},
            }
            for name in names
        ],
        **changes,
    }


class GatewayProcess:
    """``keymux serve`` in a folder of its own.

    Args:
        folder: for config, store, journal and log.
        config: without host, port, store.
        keys: by provider; None leaves the making of the store to the program.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], keys: Mapping[str, Keys] | None = None
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config_path = folder / "config.json"
        self.database = folder / "keymux.db"
        self.log_path = folder / "log.jsonl"
        self.said_path = folder / "said.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(config)
        if keys is not None:
            asyncio.run(self._seed(keys))

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the config file."""
        whole = {"port": self.port, "store": f"sqlite:///{self.database}", **config}
        self.config_path.write_text(json.dumps(whole))

    async def _seed(self, keys: Mapping[str, Keys]) -> None:
        store = SqliteStore(self.database)
        config = json.loads(self.config_path.read_text())
        await store.prepare(list(config["providers"]))
        for provider, given in keys.items():
            records = [
                KeyRecord(
                    id=key_id(secret),
                    secret=secret,
                    group=given.groups.get(secret, ""),
                    created_at=1000 + number,
                )
                for number, secret in enumerate(given.keys)
            ]
            await store.keys.add(provider, records, "rig")
            spares = [
                BackupKeyRecord(id=key_id(secret), secret=secret, created_at=1000 + number)
                for number, secret in enumerate(given.backups)
            ]
            await store.backups.add(provider, spares, "rig")
        await store.clients.add(
            ClientKeyRecord(id="client_1", key_hash=hash_of(CLIENT_KEY), shown="km-...cccc"), "rig"
        )
        await store.close()

    # -- life ----------------------------------------------------------------------------------
    def start(self) -> Self:
        """Start the program and wait until it takes requests."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the program."""
        with self.log_path.open("ab") as log, self.said_path.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "keymux", "serve", "--config", str(self.config_path)],
                cwd=self.folder,
                stdout=said,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "HTTP_PROXY": "http://127.0.0.1:9",
                    "ALL_PROXY": "socks5://127.0.0.1:9",
                },
            )
        return self.process

    def wait_until_ready(self) -> None:
        """Return when the program takes requests; fail with its log if it does not."""
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            if self.process is not None and self.process.poll() is not None:
                break
            if self._is_ready():
                return
            pause(0.02)
        raise AssertionError(f"not ready: {self.log_path.read_text()[-2000:]}")

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return b" 200 " in connection.recv(100)
        except OSError:
            return False

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """``kill -9`` of everything at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self, seconds: float = 20.0) -> int:
        """Stop in order; gives the exit code."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.stop()

    # -- looking inside ------------------------------------------------------------------------
    def rows(self) -> list[ExchangeRow]:
        """The ledger, oldest first."""
        return self._ask(lambda store: store.ledger.latest(1_000_000))[::-1]

    def wait_for_rows(self, count: int, seconds: float = 5.0) -> list[ExchangeRow]:
        """The ledger, once it has so many rows."""
        give_up = time.monotonic() + seconds
        while len(rows := self.rows()) < count and time.monotonic() < give_up:
            pause(0.05)
        return rows

    def row(self, request_id: str, seconds: float = 5.0) -> ExchangeRow:
        """The row of one exchange, once it is there."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            row = self._ask(lambda store: store.ledger.find(request_id))
            if row is not None:
                return row
            pause(0.05)
        raise AssertionError(f"no row for {request_id}")

    def keys(self, provider: str) -> dict[str, KeyRecord]:
        """The stored keys of a provider by their secret."""
        return {key.secret: key for key in self._ask(lambda store: store.keys.load(provider))}

    def backups(self, provider: str) -> dict[str, BackupKeyRecord]:
        """The stored backup keys of a provider by their secret."""
        return {key.secret: key for key in self._ask(lambda store: store.backups.load(provider))}

    def audit(self) -> list[AuditRow]:
        """Everything that was changed, oldest first."""
        return self._ask(lambda store: store.audit.since(0, 1_000_000))

    def said(self) -> str:
        """What the program printed since its last start."""
        return self.said_path.read_text()

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run another command of the program with the same config."""
        return subprocess.run(
            [sys.executable, "-m", "keymux", *arguments, "--config", str(self.config_path)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            timeout=60,
        )

    def _ask(self, question: Callable[[SqliteStore], Awaitable[T]]) -> T:
        async def ask() -> T:
            ring = RingFile(self.database.with_name("keymux.keyring.json"))
            store = SqliteStore(self.database, vault=Vault(ring))
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(ask())


def pause(seconds: float) -> None:
    """Give another process time; scenarios have no clock of their own to turn."""
    time.sleep(seconds)  # noqa: TID251 -- see above
