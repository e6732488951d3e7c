"""``keymux backup-keys``: add, show and change the spare keys of a provider."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from keymux.cli import options
from keymux.cli.arguments import refuse_more
from keymux.cli.changing import sure
from keymux.cli.handover import handed_over
from keymux.cli.importing import Wish, check_words, import_keys
from keymux.cli.moments import ago, moment, now_ms
from keymux.cli.picking import pick
from keymux.cli.place import Place
from keymux.cli.saying import say, say_json
from keymux.cli.tables import Column, Row, listing
from keymux.core.records import BackupKeyRecord
from keymux.core.secrets import shown
from keymux.stores.port import Store

app = options.group("Add, show and change backup keys.")


@app.command(
    "add",
    epilog="Example: keymux backup-keys add openhands --stdin < spare.txt",
    context_settings=options.TAKES_MORE,
)
def add(  # noqa: PLR0913 -- each is an option of the command line
    context: typer.Context,
    provider: options.Provider,
    *,
    file: options.File = None,
    stdin: options.Stdin = False,
    label: Annotated[str, typer.Option(help="For keys that bring no label.")] = "",
    skip_bad: options.SkipBad = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Add spare keys to a provider.

    The oldest takes over when a key of the pool is spent or revoked. Input as for `keymux keys
    add`; of a file with keys and backupKeys, the backupKeys.
    """
    refuse_more(context.args)
    check_words(label=label)
    place = Place(config)
    place.provider(provider)
    data = handed_over(file, stdin=stdin, what="backup key")
    wish = Wish(keys=False, label=label, skip_bad=skip_bad, as_json=as_json)
    import_keys(place, provider, data, file.name if file else "", wish)


@app.command("list", epilog="Example: keymux backup-keys list openhands")
def show(
    provider: options.Provider,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Show a provider's backup keys, spare and used."""
    place = Place(config)
    place.provider(provider)
    brief_ago = partial(ago, now=now_ms())
    columns = (
        Column("id", "id", whole=True),
        Column("label"),
        Column("shown", "key", whole=True),
        Column("state", "state"),
        Column("usedFor", "took over for", whole=True),
        Column("usedAt", "when", brief_ago, right=True),
        Column("createdAt", "added", brief_ago, right=True),
    )
    rows = [_row(record) for record in place.use(lambda store: store.backups.load(provider))]
    listing(rows, columns, as_json=as_json, nothing=f"{provider} has no backup keys")


def _row(record: BackupKeyRecord) -> Row:
    return {
        "id": record.id,
        "label": record.label,
        "shown": shown(record.secret),
        "state": "used" if record.is_used else "spare",
        "usedFor": record.used_for,
        "usedAt": moment(record.used_at),
        "createdAt": moment(record.created_at),
    }


@app.command("restore", epilog="Example: keymux backup-keys restore openhands key_3f2a")
def restore(
    provider: options.Provider,
    ids: options.KeyIds,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Make used backup keys spare again.

    They leave the pool; the keys that they took over for stay as they are.
    """
    place = Place(config)
    place.provider(provider)
    chosen = _picked(place, provider, ids)

    async def work(store: Store) -> None:
        for record in chosen:
            if record.is_used:
                await store.backups.restore(provider, record.id, place.actor)

    place.use(work)
    _tell(chosen, "spare again", "spare already", as_json=as_json)


@app.command("remove", epilog="Example: keymux backup-keys remove openhands key_3f2a --yes")
def remove(
    provider: options.Provider,
    ids: options.KeyIds,
    *,
    yes: options.Yes = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Delete backup keys for good.

    One that took over already stays in the pool, as an upstream key.
    """
    place = Place(config)
    place.provider(provider)
    chosen = _picked(place, provider, ids)
    sure(chosen, yes=yes)

    async def work(store: Store) -> None:
        for record in chosen:
            await store.backups.remove(provider, record.id, place.actor)

    place.use(work)
    _tell(chosen, "removed", "removed", as_json=as_json)


def _picked(place: Place, provider: str, ids: Sequence[str]) -> list[BackupKeyRecord]:
    records = place.use(lambda store: store.backups.load(provider))
    command = f"keymux backup-keys list {provider}"
    chosen = pick(ids, records, what="backup key", of=provider, command=command)
    return [record for record in records if record.id in chosen]


def _tell(records: Sequence[BackupKeyRecord], used: str, spare: str, *, as_json: bool) -> None:
    done = [(record.id, used if record.is_used else spare) for record in records]
    if as_json:
        say_json([{"id": key_id, "done": words} for key_id, words in done])
        return
    for key_id, words in done:
        say(f"{key_id}: {words}")
