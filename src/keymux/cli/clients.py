"""``keymux clients``: make, show and revoke the keys that clients send us."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from keymux import ids as new
from keymux.cli import options
from keymux.cli.arguments import mention, refuse_more
from keymux.cli.handover import ask_hidden, from_stdin
from keymux.cli.importing import check_words
from keymux.cli.intake import key_objections
from keymux.cli.moments import ago, moment, now_ms
from keymux.cli.picking import pick
from keymux.cli.place import Place
from keymux.cli.saying import FAILED, MISUSED, fail, note, say, say_json
from keymux.cli.tables import Column, Row, listing, plain
from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of, shown
from keymux.settings import Settings
from keymux.stores.port import Store

_SHORTEST = 20

app = options.group("Make, show and revoke client keys.")


@app.command(
    "add",
    epilog="Example: keymux clients add --label laptop --model claude-haiku-4-5",
    context_settings=options.TAKES_MORE,
)
def add(
    context: typer.Context,
    *,
    label: Annotated[str, typer.Option(help="Whose it is.")] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model it may use, by any name; all when never given."),
    ] = None,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Take the secret from standard input.")
    ] = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Make a client key and print it.

    It is printed this once: only its hash is kept. A secret of your own has to have at least 20
    characters.
    """
    refuse_more(context.args)
    check_words(label=label)
    place = Place(config)
    models = _models(place.settings, model or [])
    secret = _brought() if secret_stdin else new.client_key()
    record = ClientKeyRecord(
        id=new.record_id("client"),
        key_hash=hash_of(secret),
        shown=shown(secret),
        label=label,
        models=models,
    )
    if not place.use(lambda store: store.clients.add(record, place.actor), create=True):
        fail("this secret is a client key already; nothing is changed")
    _tell(record, "" if secret_stdin else secret, as_json=as_json)


def _models(settings: Settings, asked: Sequence[str]) -> tuple[str, ...]:
    routes = settings.routes()
    found = {name: routes.find(name) for name in asked}
    unknown = [mention(name) for name, model in found.items() if model is None]
    if unknown:
        known = ", ".join(routes.models)
        fail(f"no model is called {', '.join(unknown)}; the config has {known}", code=MISUSED)
    return tuple(dict.fromkeys(model.id for model in found.values() if model))


def _brought() -> str:
    if sys.stdin.isatty():
        secret = ask_hidden("client key (hidden): ")
    else:
        secret = from_stdin().decode(errors="replace").strip("\r\n")
    objection = next(key_objections(secret), "")
    if objection:
        fail(f"the secret {objection}", code=FAILED)
    if len(secret) < _SHORTEST:
        fail(f"the secret has {len(secret)} characters and needs at least {_SHORTEST}", code=FAILED)
    return secret


def _tell(record: ClientKeyRecord, secret: str, *, as_json: bool) -> None:
    if as_json:
        made = {"id": record.id, "shown": record.shown, "label": record.label}
        say_json({**made, "models": record.models, "secret": secret or None})
        return
    note(f"{record.id} {record.shown} may use {', '.join(record.models) or 'all models'}")
    if secret:
        note("the client key, shown this once:")
        say(secret)


@app.command("list", epilog="Example: keymux clients list")
def show(*, config: options.Config = options.DEFAULT_CONFIG, as_json: options.Json = False) -> None:
    """Show client keys, those that were revoked too."""
    place = Place(config)
    brief_ago = partial(ago, now=now_ms())
    columns = (
        Column("id", "id", whole=True),
        Column("label"),
        Column("shown", "key", whole=True),
        Column("models", "models", _brief_models),
        Column("createdAt", "made", brief_ago, right=True, whole=True),
        Column("revokedAt", "revoked", brief_ago, right=True, whole=True),
    )
    rows = [_row(record) for record in place.use(lambda store: store.clients.load())]
    listing(rows, columns, as_json=as_json, nothing="there are no client keys yet")


def _row(record: ClientKeyRecord) -> Row:
    return {
        "id": record.id,
        "label": record.label,
        "shown": record.shown,
        "models": list(record.models),
        "createdAt": moment(record.created_at),
        "revokedAt": moment(record.revoked_at),
    }


def _brief_models(value: object) -> str:
    return plain(value) or "all"


@app.command("revoke", epilog="Example: keymux clients revoke client_0193")
def revoke(
    ids: options.KeyIds,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Never accept these client keys again.

    Requests that are running end in peace.
    """
    place = Place(config)

    async def work(store: Store) -> list[tuple[str, str]]:
        records = await store.clients.load()
        chosen = pick(ids, records, what="client key", command="keymux clients list")
        already = {record.id for record in records if record.revoked_at is not None}
        for key_id in chosen:
            if key_id not in already:
                await store.clients.revoke(key_id, at=now_ms(), actor=place.actor)
        return [
            (key_id, "revoked already" if key_id in already else "revoked") for key_id in chosen
        ]

    done = place.use(work)
    if as_json:
        say_json([{"id": key_id, "done": words} for key_id, words in done])
        return
    for key_id, words in done:
        say(f"{key_id}: {words}")
