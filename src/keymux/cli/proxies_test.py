"""``keymux proxies test``: whether providers can be reached through egress proxies.

It stands apart from ``keymux proxies`` because it alone needs the network.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from keymux.cli import options
from keymux.cli.picking import pick_proxies
from keymux.cli.place import Place
from keymux.cli.proxy_trial import ProxyTrial, Tried
from keymux.cli.saying import FAILED, MISUSED, fail, note
from keymux.cli.tables import Column, Row, listing
from keymux.configured import check_plan
from keymux.core.egress import ProxyRecord
from keymux.settings import Settings
from keymux.stores.port import Store
from keymux.upstream.tunnel import Target

app = options.command()

_NAMED = 20
_COLUMNS = (
    Column("proxy", "egress proxy"),
    Column("address"),
    Column("provider", "provider"),
    Column("status", "status", whole=True),
    Column("latencyMs", "ms", right=True, whole=True),
    Column("finding", "finding"),
)


@app.command("test", epilog="Example: keymux proxies test fra-1")
def proxies_test(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Names or ids of egress proxies.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that are not disabled.")] = False,
    provider: Annotated[
        str,
        typer.Option(
            help="Only this one; when left out, those that keys are bound for, or all of them.",
            show_default=False,
        ),
    ] = "",
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds for one test; egress.connect_s of the config when left out.",
            min=0.1,
            max=600,
            show_default=False,
        ),
    ] = None,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Find out whether egress proxies lead to the providers.

    Free of charge: a TLS handshake and no request. What is found is stored, and the gateway goes
    by it. Ends with 1 unless all can be reached.
    """
    if every is bool(names):
        fail("name egress proxies, or give --all", code=MISUSED)
    place = Place(config)
    if provider:
        place.provider(provider)
    targets = _targets(place.settings, provider)
    egress = place.settings.egress
    trial = ProxyTrial(targets, timeout or egress.connect_s, egress.retry_s[0])

    async def work(store: Store) -> list[Tried]:
        records = _chosen(await store.proxies.load(), names or ())
        bindings = {name: await store.bindings.load(name) for name in targets}
        bound = {
            name: Counter(binding.proxy_id for binding in found) for name, found in bindings.items()
        }
        return await trial.run(store, records, bound, place.actor)

    tried = place.use(work)
    rows = [_row(each) for each in tried]
    listing(rows, _COLUMNS, as_json=as_json, nothing="no egress proxy was tested")
    _hint(tried)
    if not all(each.is_good for each in tried):
        raise typer.Exit(FAILED)


def _targets(settings: Settings, provider: str) -> dict[str, Target]:
    """What is to be reached, by provider."""
    asked = [provider] if provider else list(settings.providers)
    targets = check_plan(settings).targets
    if not any(name in targets for name in asked):
        fail(
            f"{', '.join(asked)}: an http base_url; keys never travel through an egress proxy in",
            "plain text, so there is nothing to test; give it an https address",
        )
    return {name: targets[name] for name in asked if name in targets}


def _chosen(records: Sequence[ProxyRecord], names: Sequence[str]) -> list[ProxyRecord]:
    if names:
        return pick_proxies(names, records)
    active = [record for record in records if record.is_active]
    if len(active) < len(records):
        note(f"left alone: {len(records) - len(active)} that are disabled; name one to test it")
    return active


def _row(tried: Tried) -> Row:
    return {
        "proxy": tried.proxy.name,
        "address": tried.proxy.address.shown,
        "provider": tried.provider,
        "status": tried.status,
        "latencyMs": tried.latency_ms,
        "finding": tried.finding,
    }


def _hint(tried: Sequence[Tried]) -> None:
    """What to do about what was found, each advice once."""
    by_advice: dict[str, dict[str, None]] = {}
    for each in tried:
        if each.advice:
            by_advice.setdefault(each.advice, {})[each.proxy.name] = None
    for advice, names in by_advice.items():
        some = ", ".join(list(names)[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        note(f"{some}{more}: {advice}")
