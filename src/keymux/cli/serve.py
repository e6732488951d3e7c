"""``keymux serve``: check everything that can be checked, then run the server."""

import asyncio
import resource
from contextlib import ExitStack
from pathlib import Path

import typer
from msgspec import Struct

from keymux import ids
from keymux.app import Application
from keymux.cli import options
from keymux.cli.demo import NoSandbox, give_keys, sandbox_for
from keymux.cli.greeting import greeting
from keymux.cli.place import open_store, read_config
from keymux.cli.preflight import problems
from keymux.cli.saying import fail
from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of, shown
from keymux.ingress.front import Front
from keymux.ingress.server import Listen, Server
from keymux.settings import Settings
from keymux.stores.port import Store, StoreUnavailable, StoreUnusable

_ACTOR = "keymux serve"


def serve(*, config: options.Config = options.DEFAULT_CONFIG) -> None:
    """Run the gateway until it is told to stop.

    SIGTERM and Ctrl-C let running requests finish, a second one ends them now. SIGHUP reads the
    config again.
    """
    settings = read_config(config)
    with ExitStack() as beside:
        found = problems(settings)
        try:
            beside.enter_context(sandbox_for(settings))
        except NoSandbox as error:
            found.append(str(error))
        ready = _Ready()
        try:
            ready = asyncio.run(_make_ready(settings))
        except (StoreUnavailable, StoreUnusable) as error:
            found.append(f"$.store: {error}")
        if found:
            fail(*found, "not started; mend the above and try again")
        for line in greeting(settings, config, ready.client_key, ready.pools):
            typer.echo(line)
        _raise_the_limit_of_files()
        limits, drain_s = settings.limits, settings.timeouts.drain_s
        listen = Listen(settings.host, settings.port, limits.exchanges, drain_s)
        Server(listen, lambda: _application(settings, config)).run()


def _application(settings: Settings, config: Path) -> Front:
    """The application of a worker; a worker that cannot begin says why and ends."""
    try:
        return Application(settings, config).front()
    except StoreUnavailable as error:
        raise SystemExit(f"keymux: $.journal: {error}") from None


class _Ready(Struct, frozen=True):
    """The store as it is found, or made.

    Attributes:
        client_key: the first one, if there was none.
        pools: how many keys each provider has.
    """

    client_key: str = ""
    pools: dict[str, int] = {}


async def _make_ready(settings: Settings) -> _Ready:
    """Bring the store up to date, and see to it that there is a client key."""
    store = open_store(settings)
    try:
        await store.prepare(list(settings.providers))
        await give_keys(settings, store, _ACTOR)
        pools = {name: len(await store.keys.load(name)) for name in settings.providers}
        return _Ready(await _first_client_key(store), pools)
    finally:
        await store.close()


async def _first_client_key(store: Store) -> str:
    if await store.clients.load():
        return ""
    secret = ids.client_key()
    record = ClientKeyRecord(
        id=ids.record_id("client"), key_hash=hash_of(secret), shown=shown(secret), label="first"
    )
    await store.clients.add(record, _ACTOR)
    return secret


def _raise_the_limit_of_files() -> None:
    """A connection is a file: take as many as the system gives without asking."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
