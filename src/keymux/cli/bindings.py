"""``keymux bindings``: which egress proxies the upstream keys of a provider must use."""

from collections.abc import Sequence
from typing import Annotated

import typer
from msgspec import Struct

from keymux.cli import options
from keymux.cli.binding_plan import AutoWish, bind_unbound
from keymux.cli.changing import agreed
from keymux.cli.leaving import GONE, Ways, plural, standing, unbound_words, ways
from keymux.cli.moments import moment, now_ms
from keymux.cli.picking import candidate, pick_labelled, pick_proxies
from keymux.cli.place import Place
from keymux.cli.saying import MISUSED, fail, note, say, say_json
from keymux.cli.tables import Column, Row, listing
from keymux.core.egress import (
    FIRST_PRIORITY,
    LAST_PRIORITY,
    BindingRecord,
    ProxyRecord,
    ProxyStatus,
    Repaired,
)
from keymux.core.records import KeyRecord
from keymux.core.secrets import shown
from keymux.ids import record_id
from keymux.stores.port import Store

app = options.group("Bind upstream keys to egress proxies.")

Priority = Annotated[
    int,
    typer.Option(
        help="The lowest is used first; equal ones take turns.",
        min=FIRST_PRIORITY,
        max=LAST_PRIORITY,
    ),
]
_NAMED = 10


class _Found(Struct, frozen=True):
    """What the store has of a provider."""

    provider: str
    keys: Sequence[KeyRecord]
    proxies: Sequence[ProxyRecord]
    bindings: Sequence[BindingRecord]

    def pick_key(self, words: str) -> KeyRecord:
        """The key that is meant; the program ends here if it is unclear."""
        (key_id,) = pick_labelled([words], self.keys, self.provider)
        return next(key for key in self.keys if key.id == key_id)

    def pick_binding(self, key: str, proxy: str) -> BindingRecord:
        """The binding of a key to a proxy; the program ends here if there is none."""
        key_id = self.pick_key(key).id
        bound = [one for one in self.bindings if one.key_id == key_id]
        gone = next((one for one in bound if one.proxy_id == proxy), None)
        if gone is not None:  # named by its id, which is all that is left of a proxy that is gone
            return gone
        (record,) = pick_proxies([proxy], self.proxies)
        binding = next((one for one in bound if one.proxy_id == record.id), None)
        if binding is None:
            fail(
                f"{key_id} is not bound to {record.name};",
                f"`keymux bindings list {self.provider} --key {key_id}` shows its bindings",
            )
        return binding

    def name(self, binding: BindingRecord) -> str:
        """The name of a binding's proxy, or its id."""
        names = {record.id: record.name for record in self.proxies}
        return names.get(binding.proxy_id, binding.proxy_id)


async def _found(store: Store, provider: str) -> _Found:
    return _Found(
        provider,
        await store.keys.load(provider),
        await store.proxies.load(),
        await store.bindings.load(provider),
    )


def refuse_plain(place: Place, provider: str) -> None:
    """End the program if a provider is reached in plain text: no key goes through a proxy then."""
    if place.settings.providers[provider].is_plain:
        fail(
            f"{provider} has an http base_url: keys never travel through an egress proxy in plain",
            "text, so there is nothing to bind; give it an https address",
        )


# -- add -------------------------------------------------------------------------------------------
@app.command("add", epilog="Example: keymux bindings add openhands --key key_3f2a --proxy fra-1")
def add(
    provider: options.Provider,
    *,
    keys: Annotated[
        list[str],
        typer.Option(
            "--key",
            help="A key: its id, the beginning of it, its label, or its last four characters; "
            "may be given more than once.",
        ),
    ],
    proxy: Annotated[str, typer.Option("--proxy", help="Name or id of the egress proxy.")],
    priority: Priority = FIRST_PRIORITY,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Bind keys to an egress proxy.

    From then on they leave through it, or through others they are bound to, and never directly.
    """
    place = Place(config)
    place.provider(provider)
    refuse_plain(place, provider)
    found = place.use(lambda store: _found(store, provider))
    key_ids = pick_labelled(keys, found.keys, provider)
    (chosen,) = pick_proxies([proxy], found.proxies)
    there = {one.key_id for one in found.bindings if one.proxy_id == chosen.id}
    if there & set(key_ids):
        fail(
            *(f"{key} is bound to {chosen.name} already" for key in key_ids if key in there),
            f"`keymux bindings set-priority {provider} KEY {chosen.name} N` changes its priority;",
            "nothing was changed",
        )
    at = now_ms()
    records = [
        BindingRecord(record_id("binding"), chosen.id, key_id, priority, created_at=at)
        for key_id in key_ids
    ]
    place.use(lambda store: store.bindings.add(provider, records, place.actor))
    status, reason = standing(chosen, provider)
    if not chosen.is_active or status not in {ProxyStatus.HEALTHY, ProxyStatus.UNKNOWN}:
        note(f"{chosen.name} cannot be used now: {reason or 'it is disabled'}")
    done = [(key_id, chosen.name, f"bound, priority {priority}") for key_id in key_ids]
    _tell(done, as_json=as_json)


# -- list ------------------------------------------------------------------------------------------
def _yes_no(value: object) -> str:
    return "yes" if value else "no"


_LIST = (
    Column("keyId", "id", whole=True),
    Column("label"),
    Column("key", "key", whole=True),
    Column("proxy", "egress proxy"),
    Column("priority", "priority", right=True, whole=True),
    Column("isActive", "active", _yes_no, whole=True),
    Column("proxyStatus", "status", whole=True),
    Column("reason"),
)


@app.command("list", epilog="Example: keymux bindings list openhands --proxy fra-1")
def show(
    provider: options.Provider,
    *,
    key: Annotated[str, typer.Option("--key", help="Only those of this key.")] = "",
    proxy: Annotated[str, typer.Option("--proxy", help="Only those to this egress proxy.")] = "",
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Show which keys are bound to which egress proxies."""
    place = Place(config)
    place.provider(provider)
    found = place.use(lambda store: _found(store, provider))
    key_id = found.pick_key(key).id if key else ""
    proxy_id = pick_proxies([proxy], found.proxies)[0].id if proxy else ""
    settings = place.settings.providers[provider]
    leaving = Ways(provider, settings, found.proxies, found.bindings)
    rows = [
        _row(binding, found, leaving)
        for each in {**dict.fromkeys(one.id for one in found.keys), **leaving.by_key}
        for binding in leaving.by_key.get(each, ())
        if binding.key_id == (key_id or binding.key_id)
        and binding.proxy_id == (proxy_id or binding.proxy_id)
    ]
    listing(rows, _LIST, as_json=as_json, nothing=f"{provider} has no such bindings")
    if not key and not proxy:
        _note_unbound(found, leaving)


def _row(binding: BindingRecord, found: _Found, leaving: Ways) -> Row:
    key = next((one for one in found.keys if one.id == binding.key_id), None)
    proxy = leaving.proxy(binding)
    status, reason = standing(proxy, found.provider) if proxy else (GONE, "")
    return {
        "id": binding.id,
        "keyId": binding.key_id,
        "label": key.label if key else "",
        "key": shown(key.secret) if key else GONE,
        "proxyId": binding.proxy_id,
        "proxy": leaving.name(binding),
        "priority": binding.priority,
        "isActive": binding.is_active,
        "proxyStatus": "disabled" if proxy and not proxy.is_active else status,
        "reason": reason,
        "createdAt": moment(binding.created_at),
    }


def _note_unbound(found: _Found, leaving: Ways) -> None:
    """What a list of bindings cannot show: the keys and the proxies without any."""
    unbound = [key.id for key in found.keys if key.id not in leaving.by_key and not key.replaced_by]
    if unbound:
        what = (
            "not used, because the egress is required" if leaving.is_required else "used directly"
        )
        note(f"{plural(len(unbound), 'key')} without a binding: {what}")
        note(f"`keymux bindings auto {found.provider}` spreads them over the healthy proxies")
    used = {binding.proxy_id for binding in found.bindings}
    unused = [record.name for record in found.proxies if record.id not in used]
    if unused:
        more = f" and {len(unused) - _NAMED} more" if len(unused) > _NAMED else ""
        note(f"used by no key of {found.provider}: {', '.join(unused[:_NAMED])}{more}")


# -- changes ---------------------------------------------------------------------------------------
@app.command("set-priority", epilog="Example: keymux bindings set-priority openhands 3f2a fra-1 2")
def set_priority(
    provider: options.Provider,
    key: options.KeyId,
    proxy: options.BoundTo,
    priority: Annotated[
        int,
        typer.Argument(
            metavar="N",
            help="The lowest is used first; equal ones take turns.",
            min=FIRST_PRIORITY,
            max=LAST_PRIORITY,
        ),
    ],
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Say which of its egress proxies a key uses first."""
    place = Place(config)
    place.provider(provider)

    async def work(store: Store) -> tuple[str, str, str]:
        found = await _found(store, provider)
        binding = found.pick_binding(key, proxy)
        await store.bindings.set_priority(provider, binding.id, priority, place.actor)
        words = f"priority {binding.priority} -> {priority}"
        return binding.key_id, found.name(binding), words

    _tell([place.use(work)], as_json=as_json)


@app.command("enable", epilog="Example: keymux bindings enable openhands key_3f2a fra-1")
def enable(
    provider: options.Provider,
    key: options.KeyId,
    proxy: options.BoundTo,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Let a key leave through an egress proxy again."""
    _set_active(Place(config), (provider, key, proxy), active=True, as_json=as_json)


@app.command("disable", epilog="Example: keymux bindings disable openhands key_3f2a fra-1")
def disable(
    provider: options.Provider,
    key: options.KeyId,
    proxy: options.BoundTo,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Keep a key from leaving through an egress proxy.

    It stays bound: if no other binding can be used it is not used, and does not go directly.
    """
    _set_active(Place(config), (provider, key, proxy), active=False, as_json=as_json)


def _set_active(place: Place, which: tuple[str, str, str], *, active: bool, as_json: bool) -> None:
    provider, key, proxy = which
    settings = place.settings.providers[place.provider(provider)]
    word = "enabled" if active else "disabled"

    async def work(store: Store) -> tuple[str, str, str]:
        found = await _found(store, provider)
        binding = found.pick_binding(key, proxy)
        if binding.is_active is active:
            return binding.key_id, found.name(binding), f"{word} already"
        await store.bindings.set_active(provider, binding.id, active=active, actor=place.actor)
        way = (await ways(store, provider, settings)).of_key(binding.key_id)
        if not way.is_open:
            note(f"{binding.key_id} cannot leave now: {way.reason}")
        return binding.key_id, found.name(binding), word

    _tell([place.use(work)], as_json=as_json)


@app.command("remove", epilog="Example: keymux bindings remove openhands key_3f2a fra-1")
def remove(
    provider: options.Provider,
    key: options.KeyId,
    proxy: Annotated[
        str,
        typer.Argument(
            metavar="PROXY", help="Name or id of an egress proxy; all of them when left out."
        ),
    ] = "",
    *,
    yes: options.Yes = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Remove the bindings of a key, all or one.

    A key without any leaves this host directly, unless the egress of its provider is required.
    """
    place = Place(config)
    settings = place.settings.providers[place.provider(provider)]
    found = place.use(lambda store: _found(store, provider))
    key_id = found.pick_key(key).id
    bound = [one for one in found.bindings if one.key_id == key_id]
    if not bound:
        fail(f"{key_id} is bound to no egress proxy; nothing was changed")
    chosen = [found.pick_binding(key, proxy)] if proxy else bound
    if len(chosen) == len(bound):
        record = next(one for one in found.keys if one.id == key_id)
        lines = [f"  {candidate(record)}", unbound_words(provider, settings, 1)]
        agreed("Remove its last binding?", lines, "its last binding would be gone", yes=yes)
    ids = [binding.id for binding in chosen]
    place.use(lambda store: store.bindings.remove(provider, ids, place.actor))
    _tell([(key_id, found.name(binding), "removed") for binding in chosen], as_json=as_json)


def _tell(done: Sequence[tuple[str, str, str]], *, as_json: bool) -> None:
    """What became of the binding of a key to a proxy."""
    if as_json:
        say_json(
            [{"keyId": key_id, "proxy": proxy, "done": words} for key_id, proxy, words in done]
        )
        return
    for key_id, proxy, words in done:
        say(f"{key_id} - {proxy}: {words}")


# -- repair ----------------------------------------------------------------------------------------
@app.command("repair", epilog="Example: keymux bindings repair --all")
def repair(
    provider: Annotated[
        str, typer.Argument(metavar="PROVIDER", help="Name of a provider of the config.")
    ] = "",
    *,
    every: Annotated[bool, typer.Option("--all", help="Of all providers.")] = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Move or delete bindings whose key is gone.

    They go to the backup key that took over for it, or else away. The gateway does the same at
    every start.
    """
    if every is bool(provider):
        fail("name a provider, or give --all", code=MISUSED)
    place = Place(config)
    names = list(place.settings.providers) if every else [place.provider(provider)]

    async def work(store: Store) -> list[Repaired]:
        return [await store.bindings.repair(name, place.actor) for name in names]

    rows: list[Row] = [
        {
            "provider": name,
            "checked": done.checked,
            "repaired": done.repaired,
            "deleted": done.deleted,
            "withoutProxy": done.without_proxy,
        }
        for name, done in zip(names, place.use(work), strict=True)
    ]
    columns = (
        Column("provider", "provider"),
        Column("checked", "checked", right=True),
        Column("repaired", "repaired", right=True),
        Column("deleted", "deleted", right=True),
        Column("withoutProxy", "without proxy", right=True),
    )
    listing(rows, columns, as_json=as_json)
    lonely = [str(row["provider"]) for row in rows if row["withoutProxy"]]
    if lonely:
        note("the proxy of some bindings is gone; they are kept, because without them their keys")
        note("would leave directly. Look at them, bind the keys elsewhere, then remove them:")
        for name in lonely:
            note(f"`keymux bindings list {name}`, `keymux bindings remove {name} KEY PROXY_ID`")


# -- auto ------------------------------------------------------------------------------------------
@app.command("auto", epilog="Example: keymux bindings auto openhands --per-key 2 --dry-run")
def auto(  # noqa: PLR0913 -- each is an option of the command line
    provider: options.Provider,
    *,
    proxies: Annotated[
        list[str] | None,
        typer.Option("--proxy", help="Only this egress proxy; may be given more than once."),
    ] = None,
    per_key: Annotated[
        int,
        typer.Option(help="How many each key gets: one to use, others to spare.", min=1, max=10),
    ] = 1,
    include_unknown: Annotated[
        bool, typer.Option("--include-unknown", help="Use proxies that nobody has tested, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = (
        False
    ),
    yes: options.Yes = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Spread unbound keys evenly over healthy egress proxies.

    Prints the plan and asks before it writes. What is bound already counts and stays.
    """
    place = Place(config)
    place.provider(provider)
    refuse_plain(place, provider)
    wish = AutoWish(
        tuple(proxies or ()),
        per_key,
        include_unknown=include_unknown,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )
    bind_unbound(place, provider, wish)
