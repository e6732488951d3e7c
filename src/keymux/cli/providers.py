"""``keymux providers``: how the providers of the config are doing as a whole."""

from collections import Counter
from functools import partial

from msgspec import Struct

from keymux.cli import options, standing
from keymux.cli.moments import left, moment, now_ms
from keymux.cli.place import Place
from keymux.cli.saying import say, say_json
from keymux.cli.tables import Column, Row, listing
from keymux.core.health import Status
from keymux.core.records import BackupKeyRecord, KeyRecord, ProviderState
from keymux.settings import ProviderSettings
from keymux.stores.port import Store

app = options.group("Show providers, or let one be asked again.")


class _Found(Struct, frozen=True):
    state: ProviderState
    keys: list[KeyRecord]
    backups: list[BackupKeyRecord]


@app.command("list", epilog="Example: keymux providers list")
def show(*, config: options.Config = options.DEFAULT_CONFIG, as_json: options.Json = False) -> None:
    """Show all providers and how they are doing."""
    place = Place(config)
    names = list(place.settings.providers)

    async def work(store: Store) -> list[_Found]:
        return [
            _Found(
                await store.provider_state(name),
                await store.keys.load(name),
                await store.backups.load(name),
            )
            for name in names
        ]

    rows = [
        _row(name, place.settings.providers[name], found)
        for name, found in zip(names, place.use(work), strict=True)
    ]
    columns = (
        Column("name", "provider", whole=True),
        Column("kind"),
        Column("status", "status", whole=True),
        Column("reason"),
        Column("cooldownUntil", "left", partial(left, now=now_ms()), right=True, whole=True),
        Column("keys", "keys"),
        Column("spareKeys", "spare", right=True, whole=True),
        Column("url", "address"),
    )
    listing(rows, columns, as_json=as_json)


def _row(name: str, settings: ProviderSettings, found: _Found) -> Row:
    health = standing.of_provider(found.state)
    counts = Counter(standing.of_key(record).status for record in found.keys)
    return {
        "name": name,
        "kind": settings.kind,
        "status": health.status,
        "reason": health.reason,
        "cooldownUntil": moment(health.until),
        "keys": ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]),
        "spareKeys": sum(not backup.is_used for backup in found.backups),
        "url": settings.url,
    }


@app.command("reset", epilog="Example: keymux providers reset openhands")
def reset(
    provider: options.Provider,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """End a provider's cooldown or block now."""
    place = Place(config)
    place.provider(provider)

    async def work(store: Store) -> ProviderState:
        before = await store.provider_state(provider)
        await store.reset_provider(provider, place.actor)
        return before

    before = place.use(work).status
    if as_json:
        say_json({"name": provider, "before": before, "after": Status.HEALTHY})
    else:
        say(f"{provider}: {before} -> {Status.HEALTHY}")
