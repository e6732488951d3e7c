"""``keymux serve``: check everything that can be checked, then run the server."""

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from keymux import ids
from keymux.app import Application, open_store
from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of, shown
from keymux.ingress.server import Listen, Server
from keymux.settings import BadConfig, Settings, load
from keymux.stores.port import Store, StoreUnavailable, StoreUnusable

DEFAULT_CONFIG = Path("config/config-failover.json")


def serve(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The config file.", envvar="KEYMUX_CONFIG")
    ] = DEFAULT_CONFIG,
) -> None:
    """Run the gateway until it is told to stop."""
    try:
        settings = load(config)
    except BadConfig as error:
        _refuse(error.problems)
    problems = [*_port_problems(settings), *_journal_problems(settings)]
    first_key, store_problems = asyncio.run(_open(settings))
    if problems or store_problems:
        _refuse([*problems, *store_problems])
    _greet(settings, first_key)
    _raise_the_limit_of_files()
    listen = Listen(
        settings.host, settings.port, settings.limits.exchanges, settings.timeouts.drain_s
    )
    Server(listen, lambda: Application(settings, config).front()).run()


def _refuse(problems: list[str]) -> NoReturn:
    for problem in problems:
        typer.echo(f"keymux: {problem}", err=True)
    typer.echo("keymux: not started; mend the above and try again.", err=True)
    sys.exit(1)


def _port_problems(settings: Settings) -> Iterator[str]:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            yield f"$.port: cannot listen on {settings.host}:{settings.port}: {error.strerror}"


def _journal_problems(settings: Settings) -> Iterator[str]:
    folder = settings.journal_folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        yield f"$.journal: cannot make the folder {folder}: {error.strerror}"
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield f"$.journal: cannot write into the folder {folder}"


async def _open(settings: Settings) -> tuple[str, list[str]]:
    """Bring the store up to date, and make the first client key if there is none."""
    store = open_store(settings)
    try:
        await store.prepare(list(settings.providers))
        return await _first_client_key(store), []
    except (StoreUnavailable, StoreUnusable) as error:
        return "", [f"$.store: {error}"]
    finally:
        await store.close()


async def _first_client_key(store: Store) -> str:
    if await store.clients.load():
        return ""
    secret = ids.client_key()
    record = ClientKeyRecord(
        id=ids.record_id("client"), key_hash=hash_of(secret), shown=shown(secret), label="first"
    )
    await store.clients.add(record, "keymux serve")
    return secret


def _raise_the_limit_of_files() -> None:
    """A connection is a file: take as many as the system gives without asking."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _greet(settings: Settings, first_key: str) -> None:
    typer.echo(f"keymux listens on http://{settings.host}:{settings.port}")
    if first_key:
        typer.echo(f"client key (shown this once): {first_key}")
