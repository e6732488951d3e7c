"""Gateways whose keys are bound to proxies, with TLS upstreams of both dialects.

A site has islands, so that many stories can be told on one gateway: each has keys, bindings and
mostly proxies of its own, a provider of each dialect, and a model for each and for both.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from keymux.core.egress import BindingRecord, ProxyAddress, ProxyRecord, ProxyStatus
from keymux.core.records import ExchangeRow, KeyRecord
from keymux.sandbox.apart import SandboxChild
from keymux.sandbox.record import Seen
from keymux.stores.opening import SealedStore
from tests.egress.certificates import Authority
from tests.scenarios.hosts import Host
from tests.scenarios.rig import Keys, key_id, pause
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Response, ask, chat, post

DIALECTS = ("openhands", "ohmygpt")
UPSTREAM_NAME = "upstream.test.invalid"
HERE = "127.0.0.1"
EFFECTIVE_S = 1.0
"""Within which everybody has heard of a change in the store."""
OPERATOR = "operator"
WAYS = [(path, stream) for path in (OPENAI_PATH, ANTHROPIC_PATH) for stream in (False, True)]
QUICK_CHECKS = {"retry_s": [0.5], "check_every_s": 1, "connect_s": 5}
NO_CHECKS = {"retry_s": [600], "check_every_s": 3600, "connect_s": 1}
"""What attempts find out is all that is found out."""


class Island(Struct, frozen=True):
    """Keys of a provider, the same for each dialect, and what they are bound to.

    Attributes:
        bindings: key → proxies with their priorities; empty for those that are not bound.
        backups: spare keys.
        host: of the upstream, as the config says it.
        settings: further ones of the providers.
        dialects: for which there is a provider.
    """

    bindings: Mapping[str, Mapping[str, int]]
    backups: Sequence[str] = ()
    host: str = HERE
    settings: Mapping[str, Any] = {}
    dialects: Sequence[str] = DIALECTS

    def providers(self, name: str) -> dict[str, str]:
        """The names of its providers, with their dialects."""
        return {f"{name}_{dialect}": dialect for dialect in self.dialects}


def secret_of(provider: str, key: str) -> str:
    """The secret of a key; the sandbox takes it."""
    return f"sk-sandbox-k-{provider}-{key}"


def proxy_id(name: str) -> str:
    """The id under which a proxy is stored."""
    return f"proxy_{name}"


def binding_of(provider: str, key: str, proxy: str, priority: int = 1) -> BindingRecord:
    """A binding as it is stored."""
    key_is = key_id(secret_of(provider, key))
    return BindingRecord(
        id=f"binding_{key_is}_{proxy}",
        proxy_id=proxy_id(proxy),
        key_id=key_is,
        priority=priority,
        created_at=1000,
    )


def proxy_record(name: str, address: ProxyAddress) -> ProxyRecord:
    """A proxy as it is stored."""
    return ProxyRecord(id=proxy_id(name), name=name, address=address, created_at=1000)


class Upstream:
    """The sandbox with TLS, in a process of its own."""

    def __init__(self, sandbox: SandboxChild, authority: Authority) -> None:
        self.sandbox = sandbox
        self.authority = authority
        self.port = int(sandbox.url().rpartition(":")[2])

    @property
    def names(self) -> dict[str, tuple[str, int]]:
        """What a proxy has to know so that it finds the upstream by its name."""
        return {UPSTREAM_NAME: (HERE, self.port)}

    def url(self, dialect: str, host: str = HERE) -> str:
        """The base URL of a dialect."""
        return f"https://{host}:{self.port}/{dialect}"

    def seen(self, secret: str) -> list[Seen]:
        """The requests that bore a key."""
        return [one for one in self.sandbox.seen if one.key == secret]

    def sources(self, secret: str) -> set[str]:
        """From where they came."""
        return {one.source for one in self.seen(secret)}


@contextmanager
def upstream(folder: Path) -> Iterator[Upstream]:
    """One, listening."""
    authority = Authority(folder)
    certificate = authority.issue(HERE, UPSTREAM_NAME)
    with SandboxChild(certificate=certificate) as sandbox:
        yield Upstream(sandbox, authority)


def config_for(
    islands: Mapping[str, Island],
    up: Upstream,
    egress: Mapping[str, Any],
    *,
    routes: Mapping[str, Sequence[str]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A provider for each island and dialect; a model for each, one for both, and some more."""
    providers: dict[str, dict[str, Any]] = {}
    models = dict(routes or {})
    for name, island in islands.items():
        for provider, dialect in island.providers(name).items():
            providers[provider] = {
                "kind": dialect,
                "base_url": up.url(dialect, island.host),
                "ca_file": str(up.authority.ca_file),
                **island.settings,
            }
            models[provider] = [provider]
        models[name] = list(island.providers(name))
    return {
        "providers": providers,
        "models": [
            {
                "id": model,
                "route": [{"provider": name, "model": model} for name in route],
                "price": {"input": 3.0, "output": 15.0},
            }
            for model, route in models.items()
        ],
        "egress": dict(egress),
        "retry": {"queue_s": 0, "budget_floor": 10_000, "attempts": 8},
        **changes,
    }


class Site:
    """Gateways on one store.

    Attributes:
        hosts: the gateways.
        up: the upstream of all providers.
    """

    def __init__(self, hosts: Sequence[Host], up: Upstream) -> None:
        self.hosts = hosts
        self.up = up

    # -- asking --------------------------------------------------------------------------------
    def post(
        self, model: str, path: str = OPENAI_PATH, *, stream: bool = False, host: int = 0
    ) -> Response:
        """One request."""
        return post(self.hosts[host].port, path, chat(model=model, stream=stream))

    def in_all_ways(self, model: str) -> list[Response]:
        """One request in each format, as a stream and not."""
        return [self.post(model, path, stream=stream) for path, stream in WAYS]

    def at_once(self, model: str, number: int) -> list[Response]:
        """Some requests at the same time."""

        async def all_of_them() -> list[Response]:
            port = self.hosts[0].port
            body = chat(model=model)
            return await asyncio.gather(*(ask(port, OPENAI_PATH, body) for _ in range(number)))

        return asyncio.run(all_of_them())

    def comes_to(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Whether something comes to hold in time."""
        give_up = time.monotonic() + within_s
        while not (holds := condition()) and time.monotonic() < give_up:
            pause(0.1)
        return holds

    # -- looking at and changing what is stored ------------------------------------------------
    def change(self, change: Callable[[SealedStore], Awaitable[object]]) -> None:
        """Change something behind the gateways' back."""
        self.hosts[0].ask_store(change)

    def rows(self, responses: Sequence[Response]) -> list[ExchangeRow]:
        """The ledger's rows of some exchanges, once all of them are there."""
        names = [response.headers["x-keymux-request-id"] for response in responses]
        return self.hosts[0].ask_store(lambda store: find_rows(store, names))

    def row(self, response: Response) -> ExchangeRow:
        """The row of one."""
        return self.rows([response])[0]

    def attempts(self, response: Response) -> list[tuple[str, str, str]]:
        """Key, egress and outcome of each attempt of an exchange."""
        return [(one.key, one.egress, one.outcome) for one in self.row(response).attempts]

    def key(self, provider: str, key: str) -> KeyRecord:
        """A key as it is stored."""
        return self.hosts[0].stored_keys(provider)[key_id(secret_of(provider, key))]

    def proxy(self, name: str) -> ProxyRecord:
        """A proxy as it is stored."""
        [found] = self.hosts[0].ask_store(lambda store: store.proxies.find_some([proxy_id(name)]))
        return found

    def becomes(self, name: str, status: ProxyStatus, within_s: float = 10.0) -> bool:
        """Whether a proxy comes to have a status in time."""
        return self.comes_to(lambda: self.proxy(name).status is status, within_s)

    def is_well(self, name: str, within_s: float = 10.0) -> bool:
        """Whether a check from now on finds a proxy well, in time."""
        begun = int(time.time() * 1000)

        def is_found_well() -> bool:
            found = self.proxy(name)
            return (found.last_checked_at or 0) > begun and not found.last_error

        return self.comes_to(is_found_well, within_s)


async def find_rows(store: SealedStore, names: Sequence[str]) -> list[ExchangeRow]:
    """The rows of these exchanges, in order; rows are booked a moment later."""
    rows: list[ExchangeRow] = []
    async with asyncio.timeout(5.0):
        for name in names:
            while (row := await store.ledger.find(name)) is None:  # noqa: ASYNC110 -- in another process
                await asyncio.sleep(0.05)
            rows.append(row)
    return rows


async def fill(
    store: SealedStore, islands: Mapping[str, Island], proxies: Mapping[str, ProxyAddress]
) -> None:
    """Put the proxies and bindings of islands into a store whose keys are there already."""
    await store.proxies.add([proxy_record(*item) for item in proxies.items()], "rig")
    for name, island in islands.items():
        for provider in island.providers(name):
            records = [
                binding_of(provider, key, proxy, priority)
                for key, bound in island.bindings.items()
                for proxy, priority in bound.items()
            ]
            await store.bindings.add(provider, records, "rig")


@contextmanager
def site(
    folder: Path,
    address: str,
    up: Upstream,
    islands: Mapping[str, Island],
    proxies: Mapping[str, ProxyAddress],
    *,
    egress: Mapping[str, Any],
    number: int = 1,
    **changes: Any,
) -> Iterator[Site]:
    """Gateways with these islands, all of them up.

    Args:
        folder: for all their files.
        address: of the store.
        up: the upstream of all providers.
        islands: by name.
        proxies: that the islands are bound to.
        egress: the section of the config.
        number: of hosts.
        changes: routes of further models, and further sections of the config.
    """
    shared = {"store": address, "secrets": {"key_ring": str(folder / "ring.json")}}
    config = config_for(islands, up, egress, **changes)
    keys = {
        provider: Keys(
            [secret_of(provider, key) for key in island.bindings],
            [secret_of(provider, key) for key in island.backups],
        )
        for name, island in islands.items()
        for provider in island.providers(name)
    }
    with ExitStack() as running:
        found = [Host(folder / f"host{one}", config, shared) for one in range(number)]
        found[0].fill(keys)
        found[0].ask_store(lambda store: fill(store, islands, proxies))
        for host in found:
            host.launch()
            running.callback(host.__exit__)
        for host in found:
            host.wait_until_ready()
        yield Site(found, up)
