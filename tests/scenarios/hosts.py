"""Several hosts on one database: each a supervisor with workers, in a folder of its own."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from keymux.core.records import BackupKeyRecord, ClientKeyRecord, ExchangeRow, KeyRecord
from keymux.core.secrets import hash_of
from keymux.settings import load
from keymux.stores.opening import SealedStore, open_store
from tests.scenarios.rig import CLIENT_KEY, GatewayProcess, Keys, key_id
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Connection, chat
from tests.stores.mongo.server import another_server, database_on, running

T = TypeVar("T")

WAYS = [(path, stream) for path in (OPENAI_PATH, ANTHROPIC_PATH) for stream in (True, False)]
STORES = ["SQLite", "MongoDB"]


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty database that several hosts may use."""
    if kind == "SQLite":
        yield f"sqlite:///{folder / 'shared.db'}"
        return
    if another_server():
        with database_on(another_server()) as found:
            yield found
    else:
        with running() as server:  # it goes with all that is in it
            yield f"{server.uri}/shared"


class Host(GatewayProcess):
    """One host.

    Args:
        folder: of this host alone.
        config: without host, port, store.
        shared: what all hosts have alike: the store and the key ring.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
        folder.mkdir()
        super().__init__(folder, {**config, **shared, "journal": str(folder / "journal")})

    def ask_store(self, question: Callable[[SealedStore], Awaitable[T]]) -> T:
        """Ask the store something, or change it."""

        async def ask() -> T:
            store = open_store(load(self.config_path), print)
            try:
                await store.prepare([])
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(ask())

    def rows(self) -> list[ExchangeRow]:
        """The ledger, oldest first."""
        return self.ask_store(lambda store: store.ledger.latest(1_000_000))[::-1]

    def stored_keys(self, provider: str = "openhands") -> dict[str, KeyRecord]:
        """The keys of a provider by their id."""
        return {key.id: key for key in self.ask_store(lambda store: store.keys.load(provider))}

    def stored_backups(self, provider: str = "openhands") -> list[BackupKeyRecord]:
        """The backup keys of a provider."""
        return self.ask_store(lambda store: store.backups.load(provider))

    def fill(self, keys: Mapping[str, Keys]) -> None:
        """Put keys into the store, and a client key."""
        self.ask_store(lambda store: _fill(store, keys))


async def _fill(store: SealedStore, keys: Mapping[str, Keys]) -> None:
    await store.prepare(list(keys))
    for provider, given in keys.items():
        await store.keys.add(provider, records(given.keys), "rig")
        await store.backups.add(provider, spares(given.backups), "rig")
    client = ClientKeyRecord(id="client_1", key_hash=hash_of(CLIENT_KEY), shown="km-...cccc")
    await store.clients.add(client, "rig")


def records(secrets: Sequence[str]) -> list[KeyRecord]:
    """Upstream keys as they are stored, in order."""
    return [
        KeyRecord(id=key_id(secret), secret=secret, created_at=1000 + number)
        for number, secret in enumerate(secrets)
    ]


def spares(secrets: Sequence[str]) -> list[BackupKeyRecord]:
    """Backup keys as they are stored, in order."""
    return [
        BackupKeyRecord(id=key_id(secret), secret=secret, created_at=1000 + number)
        for number, secret in enumerate(secrets)
    ]


@contextmanager
def hosts(
    folder: Path, number: int, config: Mapping[str, Any], address: str, keys: Mapping[str, Keys]
) -> Iterator[list[Host]]:
    """Some hosts on one store, all of them up."""
    shared = {"store": address, "secrets": {"key_ring": str(folder / "ring.json")}}
    with ExitStack() as up:
        found = [Host(folder / f"host{n}", config, shared) for n in range(number)]
        found[0].fill(keys)
        for host in found:
            host.launch()
            up.callback(host.__exit__)
        for host in found:
            host.wait_until_ready()
        yield found


class Answered(Struct, frozen=True):
    """A request that was answered.

    Attributes:
        marker: that was in its prompt.
        request_id: that the answer bore.
        status: of the answer.
    """

    marker: str
    request_id: str
    status: int


class Load:
    """Clients that ask one request after the other, on every host.

    Args:
        ports: of the hosts.
        clients: on each.
        gap_s: how long a client rests between its requests.

    Attributes:
        answered: what came back, in the order in which it did.
    """

    def __init__(self, ports: Sequence[int], clients: int, gap_s: float = 0.0) -> None:
        self._ports = ports
        self._clients = clients
        self._gap_s = gap_s
        self._numbers = count()
        self.answered: list[Answered] = []

    async def run(self, until: Callable[[], bool]) -> None:
        """Ask until a condition holds."""
        async with asyncio.TaskGroup() as group:
            for port in self._ports:
                for _ in range(self._clients):
                    group.create_task(self._client(port, until))

    async def _client(self, port: int, until: Callable[[], bool]) -> None:
        async with await Connection.open(port) as connection:
            while not until():
                number = next(self._numbers)
                path, stream = WAYS[number % len(WAYS)]
                await connection.ask(path, chat(f"marker:n{number}", stream=stream))
                response = await connection.answer()
                assert response.complete
                assert markers(response.body) <= {f"marker:n{number}"}
                name = response.headers["x-keymux-request-id"]
                self.answered.append(Answered(f"marker:n{number}", name, response.status))
                await asyncio.sleep(self._gap_s)


def markers(text: bytes) -> set[str]:
    """What tells requests and their answers apart."""
    return {found.decode() for found in re.findall(rb"marker:n\d+", text)}
