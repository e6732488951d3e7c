"""``keymux migrate``: everything from one store to another."""

import asyncio
import os
import re
from typing import Annotated

import typer
from msgspec import Struct

from keymux.cli import options
from keymux.cli.place import Place
from keymux.cli.progress import progress
from keymux.cli.saying import FAILED, MISUSED, fail, note, say_json
from keymux.cli.tables import Column, listing
from keymux.settings import Settings
from keymux.settings.place import check_file, check_server, is_server
from keymux.stores.moving import (
    Compared,
    Mark,
    NotForThis,
    bring,
    claim,
    compare,
    figures,
    look,
    parts,
)
from keymux.stores.opening import SealedStore, open_store
from keymux.stores.port import StoreUnavailable, StoreUnusable

app = options.command()

_VARIABLE = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)")
_COLUMNS = (
    Column("what", whole=True),
    Column("source", right=True, whole=True),
    Column("target", right=True, whole=True),
    Column("same", whole=True),
)


@app.command("migrate", epilog="Example: keymux migrate --to mongodb://db.example/keymux")
def migrate(
    *,
    to: Annotated[str, typer.Option(help="The other store, or env.NAME.", show_default=False)],
    source: Annotated[
        str,
        typer.Option(
            "--from", help="The store to read, or env.NAME; that of the config when left out."
        ),
    ] = "",
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Bring all records to a store of the other kind, then compare both; 1 if they differ.

    The source is not changed. What was interrupted, or found different because the gateway was
    still running, is gone on with when the command is run again.
    """
    place = Place(config)
    here = _settings(place.settings, source, "--from") if source else place.settings
    there = _settings(place.settings, to, "--to")
    if is_server(here.store) == is_server(there.store):
        fail(
            'both stores are of one kind: copy a file with `sqlite3 keymux.db ".backup copy.db"`,',
            "and a database with mongodump and mongorestore; the key ring goes on fitting",
            code=MISUSED,
        )
    if here.database is not None and not here.database.exists():
        fail(f"there is no database at {here.database.absolute()}")
    try:
        found = asyncio.run(_Migration(here, there).run())
    except NotForThis as error:
        fail(f"{error}; none of its records was changed")
    except StoreUnavailable as error:
        fail(f"a store cannot be used now: {error}", "run it again when it can: it goes on")
    except StoreUnusable as error:
        fail(f"a store cannot be used: {error}")
    _tell(found, as_json=as_json)


def _settings(settings: Settings, address: str, option: str) -> Settings:
    """The settings with another store."""
    variable = _VARIABLE.fullmatch(address)
    if variable:
        address = os.environ.get(variable[1], "")
        if not address:
            fail(f"{option}: the environment variable {variable[1]} is not set", code=MISUSED)
    elif is_server(address) and "@" in address:
        fail(
            f"{option}: a password is never taken from an argument: arguments stand in the process",
            "list and in the history of the shell; put the address into a variable, as env.NAME",
            code=MISUSED,
        )
    try:
        (check_server if is_server(address) else check_file)(address)
    except ValueError as error:
        fail(f"{option}: {error}", code=MISUSED)
    return settings.model_copy(update={"store": address})


class _Migration(Struct, frozen=True):
    """From one store to another."""

    source: Settings
    target: Settings

    async def run(self) -> list[Compared]:
        """Bring everything over and compare."""
        source = open_store(self.source, note, may_make_ring=False)
        target = open_store(self.target, note)
        try:
            return await self._bring(source, target)
        finally:
            await source.close()
            await target.close()

    async def _bring(self, source: SealedStore, target: SealedStore) -> list[Compared]:
        known = await source.everything.providers()
        providers = sorted({*known, *self.source.providers})
        await look(source.vault, source.answers, source.secrets, note)
        await target.prepare(providers)
        origin = self._origin()
        if await claim(target.everything, origin, providers):
            note("going on with what was begun before")
        for part in parts(providers):
            with progress(f"bringing {part}", await source.everything.count(part)) as done:
                await bring(source.everything, target.everything, part, done)
        found = compare(
            await figures(source.everything, source.ledger, providers),
            await figures(target.everything, target.ledger, providers),
        )
        if all(each.is_same for each in found):
            await target.everything.set_mark(Mark(origin, done=True))
        return found

    def _origin(self) -> str:
        database = self.source.database
        return self.source.store_shown if database is None else str(database.absolute())


def _tell(found: list[Compared], *, as_json: bool) -> None:
    different = [each.what for each in found if not each.is_same]
    if as_json:
        say_json(found)
    else:
        rows = [
            {
                "what": each.what,
                "source": each.source,
                "target": each.target,
                "same": "yes" if each.is_same else "NO",
            }
            for each in found
        ]
        listing(rows, _COLUMNS, as_json=False, nothing="nothing to compare")
    if different:
        fail(
            f"both stores differ in {', '.join(different)}",
            "stop every gateway that uses them and run it again: it goes on",
            code=FAILED,
        )
    note("everything is there")
