"""``keymux serve``: check everything that can be checked, then run the server."""

import asyncio
import resource
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

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
from keymux.configured import keeping_until_restart
from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of, shown
from keymux.ingress.front import Front
from keymux.ingress.server import Events, Listen, Server
from keymux.settings import BadConfig, Settings, load
from keymux.settings.sections import MOST_WORKERS
from keymux.stores.port import Store, StoreUnavailable, StoreUnusable
from keymux.telemetry.siblings import Siblings

_ACTOR = "keymux serve"


Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_WORKERS,
        help="Processes that share the port; the config says how many when left out.",
        show_default=False,
    ),
]


def serve(*, config: options.Config = options.DEFAULT_CONFIG, workers: Workers = None) -> None:
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
        number = workers or settings.workers
        plan = _Plan(settings, config)
        if number > 1:
            plan.siblings = Siblings(Path(beside.enter_context(_meeting_place())))
        Server(_listen(settings, number), plan.application, plan.events()).run()


def _listen(settings: Settings, workers: int) -> Listen:
    limits, drain_s = settings.limits, settings.timeouts.drain_s
    return Listen(settings.host, settings.port, workers, limits.exchanges, drain_s)


def _meeting_place() -> TemporaryDirectory[str]:
    """A folder for what workers share while they run; nobody needs it afterwards."""
    return TemporaryDirectory(prefix="keymux-")


class _Plan:
    """What a worker begins with; one that replaces a dead one begins with what its siblings have.

    Args:
        settings: as they were at the start.
        config: the file they come from.

    Attributes:
        siblings: where the workers meet, if there are several.
    """

    def __init__(self, settings: Settings, config: Path) -> None:
        self._settings = self._started_with = settings
        self._config = config
        self.siblings: Siblings | None = None

    def events(self) -> Events:
        """What is to be done when something happens."""
        bury = self.siblings.bury if self.siblings else lambda _pid: None
        return Events(died=bury, reloading=self._reload)

    def application(self) -> Front:
        """The application of a worker; a worker that cannot begin says why and ends."""
        try:
            return Application(self._settings, self._config, self.siblings).front()
        except StoreUnavailable as error:
            raise SystemExit(f"keymux: $.journal: {error}") from None

    def _reload(self) -> None:
        """As the workers do it; a change that takes a restart waits for one."""
        with suppress(BadConfig):  # the workers tell
            self._settings = keeping_until_restart(self._started_with, load(self._config))


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
