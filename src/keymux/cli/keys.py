"""``keymux keys``: add, show, test and change the upstream keys of a provider."""

from functools import partial
from typing import Annotated

import typer

from keymux.cli import options, standing
from keymux.cli.arguments import refuse_more
from keymux.cli.changing import change_keys, sure
from keymux.cli.handover import handed_over
from keymux.cli.importing import Wish, check_words, import_keys
from keymux.cli.leaving import Ways, ways
from keymux.cli.moments import ago, left, moment, now_ms
from keymux.cli.picking import pick_keys
from keymux.cli.place import Place
from keymux.cli.saying import say, say_json
from keymux.cli.tables import Column, Row, compact, listing
from keymux.core.health import Event, Status
from keymux.core.records import KeyRecord
from keymux.core.secrets import shown
from keymux.stores.port import Store

app = options.group("Add, show, test and change upstream keys.")


@app.command(
    "add",
    epilog="Example: keymux keys add openhands --file keys.txt --label team-a",
    context_settings=options.TAKES_MORE,
)
def add(  # noqa: PLR0913 -- each is an option of the command line
    context: typer.Context,
    provider: options.Provider,
    *,
    file: options.File = None,
    stdin: options.Stdin = False,
    label: Annotated[str, typer.Option(help="For keys that bring no label.")] = "",
    group: Annotated[str, typer.Option(help="Quota group, for keys that bring none.")] = "",
    skip_bad: options.SkipBad = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Add upstream keys to a provider's pool.

    A secret that is known already is left alone. Keys come from --file, --stdin or a hidden
    prompt, never from an argument: one on each line, a JSON list, or CSV with a header (apiKey,
    label, group).
    """
    refuse_more(context.args)
    check_words(label=label, group=group)
    place = Place(config)
    place.provider(provider)
    data = handed_over(file, stdin=stdin, what="upstream key")
    wish = Wish(backups=False, label=label, group=group, skip_bad=skip_bad, as_json=as_json)
    import_keys(place, provider, data, file.name if file else "", wish)


_LIST = (
    Column("id", "id", whole=True),
    Column("label"),
    Column("shown", "key", whole=True),
    Column("quotaGroup"),
    Column("status", "status"),
    Column("reason"),
)


@app.command("list", epilog="Example: keymux keys list openhands --status quarantined")
def show(
    provider: options.Provider,
    *,
    status: Annotated[
        list[Status] | None, typer.Option(help="Only these; may be given more than once.")
    ] = None,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Show a provider's upstream keys and how they are doing."""
    place = Place(config)
    settings = place.settings.providers[place.provider(provider)]

    async def work(store: Store) -> tuple[list[KeyRecord], Ways]:
        return await store.keys.load(provider), await ways(store, provider, settings)

    now = now_ms()
    records, leaving = place.use(work)
    rows = [
        row
        for row in (_row(record, leaving) for record in records)
        if not status or row["status"] in status
    ]
    columns = (
        *_LIST,
        *((Column("egress", "egress", _first_way),) if leaving.by_key else ()),
        Column("cooldownUntil", "left", partial(left, now=now), right=True, whole=True),
        Column("requestsCount", "requests", compact, right=True, whole=True),
        Column("tokensUsed", "tokens", compact, right=True, whole=True),
        Column("lastUsedAt", "used", partial(ago, now=now), right=True, whole=True),
    )
    listing(rows, columns, as_json=as_json, nothing=f"{provider} has no such keys")


def _first_way(names: object) -> str:
    """The way out that is used first, and how many there are behind it."""
    first, *others = names if isinstance(names, tuple) and names else ("none",)
    return f"{first} +{len(others)}" if others else str(first)


def _row(record: KeyRecord, leaving: Ways) -> Row:
    found = standing.of_key(record)
    return {
        "id": record.id,
        "label": record.label,
        "shown": shown(record.secret),
        "quotaGroup": record.group,
        "status": found.status,
        "reason": found.words,
        "cooldownUntil": moment(found.until),
        "requestsCount": record.requests_count,
        "tokensUsed": record.tokens_used,
        "lastUsedAt": moment(record.last_used_at),
        "createdAt": moment(record.created_at),
        "replacedBy": record.replaced_by,
        "egress": leaving.named(record.id),
    }


@app.command("disable", epilog="Example: keymux keys disable openhands key_3f2a --reason rotating")
def disable(
    provider: options.Provider,
    ids: options.KeyIds,
    *,
    reason: options.Reason = "",
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Take keys out of rotation until they are enabled.

    Requests that are running end in peace.
    """
    place = Place(config)
    change_keys(place, place.provider(provider), ids, Event.DISABLE, reason, as_json=as_json)


@app.command("enable", epilog="Example: keymux keys enable openhands key_3f2a")
def enable(
    provider: options.Provider,
    ids: options.KeyIds,
    *,
    reason: options.Reason = "",
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Put disabled keys back into rotation."""
    place = Place(config)
    change_keys(place, place.provider(provider), ids, Event.ENABLE, reason, as_json=as_json)


@app.command("reset", epilog="Example: keymux keys reset openhands key_3f2a")
def reset(
    provider: options.Provider,
    ids: options.KeyIds,
    *,
    reason: options.Reason = "",
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """End cooldowns now.

    For when a limit was raised or an account was topped up.
    """
    place = Place(config)
    change_keys(place, place.provider(provider), ids, Event.RESET, reason, as_json=as_json)


@app.command("restore", epilog="Example: keymux keys restore openhands key_3f2a")
def restore(
    provider: options.Provider,
    ids: options.KeyIds,
    *,
    reason: options.Reason = "",
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Bring quarantined or replaced keys back into the pool.

    For when you know that the provider accepts them again.
    """
    place = Place(config)
    change_keys(place, place.provider(provider), ids, Event.RESTORE, reason, as_json=as_json)


@app.command("remove", epilog="Example: keymux keys remove openhands key_3f2a --yes")
def remove(
    provider: options.Provider,
    ids: options.KeyIds,
    *,
    yes: options.Yes = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Delete keys for good.

    What they served stays in the ledger.
    """
    place = Place(config)
    place.provider(provider)
    records = place.use(lambda store: store.keys.load(provider))
    chosen = pick_keys(ids, records, provider)
    sure([record for record in records if record.id in chosen], yes=yes)

    async def work(store: Store) -> None:
        for key_id in chosen:
            await store.keys.remove(provider, key_id, place.actor)

    place.use(work)
    if as_json:
        say_json([{"id": key_id, "removed": True} for key_id in chosen])
    else:
        say("\n".join(f"{key_id}: removed" for key_id in chosen))
