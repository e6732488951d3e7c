"""The real program, in a folder of its own with a real database."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pexpect
from msgspec import Struct

from keymux.core.egress import BindingRecord, ProxyAddress, ProxyRecord, ProxyType
from keymux.core.records import BackupKeyRecord, KeyRecord
from keymux.core.secrets import hash_of
from keymux.stores.port import Store
from keymux.stores.sealing.ring_file import RingFile
from keymux.stores.sealing.vault import Vault
from keymux.stores.sqlite import SqliteStore

T = TypeVar("T")

KEYMUX = Path(sys.executable).with_name("keymux")
ACTOR = "test"
MODEL = "claude-sonnet-4-5-20250929"
PRICE = {
    "input": 3.0,
    "output": 15.0,
    "cache_read": 0.3,
    "cache_write_5m": 3.75,
    "cache_write_1h": 6.0,
}
CONFIG: dict[str, Any] = {
    "store": "sqlite:///keymux.db",
    "providers": {"alpha": {"kind": "openhands"}, "beta": {"kind": "ohmygpt"}},
    "models": [
        {
            "id": MODEL,
            "name": "Claude Sonnet 4.5",
            "aliases": ["claude-sonnet-4-5", "sonnet*"],
            "route": [
                {"provider": "alpha", "model": "sonnet-at-alpha"},
                {"provider": "beta", "model": "sonnet-at-beta"},
            ],
            "price": PRICE,
        },
        {"id": "free-model", "route": [{"provider": "beta", "model": "free-at-beta"}]},
    ],
}
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Ended(Struct, frozen=True):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, str]]:
        """Standard output as tab-separated lines with a header."""
        header, *lines = [line.split("\t") for line in self.out.splitlines()]
        return [dict(zip(header, line, strict=True)) for line in lines]


class Program:
    """Runs commands in a folder.

    Attributes:
        folder: where they run.
        config: the config file they are told to read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.json"
        self.configure(CONFIG)

    def configure(self, config: dict[str, Any]) -> None:
        """Write the config file."""
        self.config.write_text(json.dumps(config))

    def environment(self, **more: str) -> dict[str, str]:
        """Of the program: nothing is inherited that could change its answers."""
        measuring = {name: value for name, value in os.environ.items() if name[:9] == "COVERAGE_"}
        return {
            **measuring,
            "PATH": os.environ["PATH"],
            "KEYMUX_CONFIG": str(self.config),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            **more,
        }

    def run(self, *arguments: str, given: str | bytes = b"", **environment: str) -> Ended:
        """Run a command to its end, in pipes.

        Args:
            arguments: of the command line.
            given: on standard input.
            environment: variables to add.
        """
        done = subprocess.run(
            [KEYMUX, *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def good(self, *arguments: str, given: str | bytes = b"") -> Ended:
        """Run a command that has to end well."""
        done = self.run(*arguments, given=given)
        assert done.code == 0, done.err
        return done

    def terminal(self, *arguments: str, columns: int = 80) -> "pexpect.spawn[str]":
        """Run a command on a terminal."""
        return pexpect.spawn(
            str(KEYMUX),
            list(arguments),
            cwd=str(self.folder),
            env=self.environment(),
            encoding="utf-8",
            timeout=30,
            dimensions=(50, columns),
        )

    def screen(self, *arguments: str, columns: int = 80) -> list[str]:
        """The lines that a command leaves on a terminal."""
        process = self.terminal(*arguments, columns=columns)
        text = _ESCAPES.sub("", process.read())
        process.close()
        return [line.rstrip() for line in text.replace("\r\n", "\n").splitlines()]

    def store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Do something to the database behind the program's back."""

        async def run() -> T:
            ring = RingFile(self.folder / "keymux.keyring.json")
            vault = Vault(ring if ring.path.exists() else None)
            store = SqliteStore(self.folder / "keymux.db", vault=vault)
            try:
                await store.prepare(["alpha", "beta"])
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def add_keys(self, *records: KeyRecord, provider: str = "alpha") -> None:
        """Put keys into a provider's pool."""
        self.store(lambda store: store.keys.add(provider, records, ACTOR))

    def add_backups(self, *records: BackupKeyRecord, provider: str = "alpha") -> None:
        """Give a provider backup keys."""
        self.store(lambda store: store.backups.add(provider, records, ACTOR))

    def add_proxies(self, *records: ProxyRecord) -> None:
        """Put egress proxies into the store."""
        self.store(lambda store: store.proxies.add(records, ACTOR))

    def bind(self, *records: BindingRecord, provider: str = "alpha") -> None:
        """Bind keys to egress proxies."""
        self.store(lambda store: store.bindings.add(provider, records, ACTOR))

    def proxies(self) -> dict[str, ProxyRecord]:
        """The egress proxies by name."""
        return {one.name: one for one in self.store(lambda store: store.proxies.load())}

    def bindings(self, provider: str = "alpha") -> list[BindingRecord]:
        """The bindings of a provider."""
        return self.store(lambda store: store.bindings.load(provider))

    def bound(self, provider: str = "alpha") -> set[tuple[str, str, int]]:
        """Which keys are bound to which egress proxies, by name, with which priority."""
        names = {record.id: name for name, record in self.proxies().items()}
        return {
            (one.key_id, names.get(one.proxy_id, one.proxy_id), one.priority)
            for one in self.bindings(provider)
        }

    def pool(self, provider: str = "alpha") -> dict[str, KeyRecord]:
        """The keys of a provider by their secret."""
        records = self.store(lambda store: store.keys.load(provider))
        return {record.secret: record for record in records}

    def backups(self, provider: str = "alpha") -> dict[str, BackupKeyRecord]:
        """The backup keys of a provider by their secret."""
        records = self.store(lambda store: store.backups.load(provider))
        return {record.secret: record for record in records}


def key(secret: str, **fields: Any) -> KeyRecord:
    """An upstream key as the program would make it."""
    return KeyRecord(id=id_of(secret), secret=secret, **fields)


def backup(secret: str, **fields: Any) -> BackupKeyRecord:
    """A backup key as the program would make it."""
    return BackupKeyRecord(id=id_of(secret), secret=secret, **fields)


def proxy(name: str, **fields: Any) -> ProxyRecord:
    """An egress proxy on a port that nobody listens on."""
    port = 1 + sum(name.encode()) % 1000
    address = ProxyAddress(ProxyType.HTTP, "127.0.0.1", port, "user", "s3cr3t-of-" + name)
    return ProxyRecord(**{"id": f"proxy_{name}", "name": name, "address": address, **fields})


def binding(secret: str, name: str, priority: int = 1, **fields: Any) -> BindingRecord:
    """A key bound to an egress proxy."""
    made = {"id": f"binding_{id_of(secret)}_{name}", "proxy_id": f"proxy_{name}"}
    return BindingRecord(**{**made, "key_id": id_of(secret), "priority": priority, **fields})


def id_of(secret: str) -> str:
    """The id a key gets."""
    return f"key_{hash_of(secret)[:12]}"
