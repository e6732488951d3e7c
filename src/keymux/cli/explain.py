"""``keymux explain``: where a model goes, or what became of a request."""

from typing import Annotated

import typer

from keymux.cli import options
from keymux.cli.arguments import mention
from keymux.cli.moments import now_ms
from keymux.cli.outlook import ModelOutlook, Stock, first_provider, target_outlook
from keymux.cli.place import Place
from keymux.cli.saying import fail, say, say_json
from keymux.cli.story import exchange_json, story
from keymux.cli.telling import tell_model
from keymux.core.records import ExchangeRow
from keymux.core.routing import Model
from keymux.stores.port import Store

_REQUEST_ID = "req_"

app = options.command()


@app.command("explain", epilog="Example: keymux explain claude-sonnet-4-5")
def explain(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|REQUEST_ID", help="A model by any name, or req_...")
    ],
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Say where a request for a model would go and why, or what became of a request.

    A request id stands in the answer's header x-keymux-request-id.
    """
    place = Place(config)
    if what.startswith(_REQUEST_ID):
        _explain_exchange(place, what, as_json=as_json)
    else:
        _explain_model(place, what, as_json=as_json)


def _explain_exchange(place: Place, exchange_id: str, *, as_json: bool) -> None:
    async def work(store: Store) -> tuple[ExchangeRow | None, dict[str, str]]:
        clients = await store.clients.load()
        return await store.ledger.find(exchange_id), {one.id: one.label for one in clients}

    row, labels = place.use(work)
    if row is None:
        fail(
            f"the ledger has no exchange {mention(exchange_id)}: it is still running, or it was",
            "refused before its caller was known, which leaves no row",
        )
    if as_json:
        say_json(exchange_json(row))
        return
    for line in story(row, labels.get(row.caller, "")):
        say(line)


def _explain_model(place: Place, asked: str, *, as_json: bool) -> None:
    routes = place.settings.routes()
    model = routes.find(asked)
    if model is None:
        fail(
            f"no model is called {mention(asked)}: a client is told 404 model_not_found",
            f"the config has {', '.join(routes.models)}",
        )
    outlook = _outlook(place, model, asked)
    if as_json:
        say_json(outlook)
    else:
        for line in tell_model(outlook, now_ms()):
            say(line)


def _outlook(place: Place, model: Model, asked: str) -> ModelOutlook:
    settings = place.settings

    async def work(store: Store) -> list[Stock]:
        proxies = await store.proxies.load()
        return [
            Stock(
                await store.provider_state(target.provider),
                await store.keys.load(target.provider),
                sum(not one.is_used for one in await store.backups.load(target.provider)),
                proxies,
                await store.bindings.load(target.provider),
            )
            for target in model.route.targets
        ]

    now = now_ms()
    targets = tuple(
        target_outlook(target, settings.providers[target.provider], stock, now)
        for target, stock in zip(model.route.targets, place.use(work), strict=True)
    )
    aliases = next(one.aliases for one in settings.models if one.id == model.id)
    return ModelOutlook(
        asked=asked,
        model=model.id,
        name=model.name,
        aliases=tuple(aliases),
        price=model.route.price,
        first=first_provider(targets),
        targets=targets,
    )
