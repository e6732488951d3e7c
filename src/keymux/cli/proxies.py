"""``keymux proxies``: add, show and change egress proxies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from keymux.cli import options
from keymux.cli.changing import agreed
from keymux.cli.handover import ask_hidden, from_file, from_stdin
from keymux.cli.leaving import Ways, counted, standing, unbound_words
from keymux.cli.moments import ago, moment, now_ms
from keymux.cli.picking import pick_proxies
from keymux.cli.place import Place
from keymux.cli.proxy_import import import_proxies
from keymux.cli.saying import MISUSED, fail, note, say, say_json
from keymux.cli.tables import Column, Row, listing, plain
from keymux.core.egress import (
    BindingRecord,
    ProxyAddress,
    ProxyRecord,
    ProxyStatus,
    ProxyType,
)
from keymux.core.proxy_text import check_credentials, check_name, read_proxy
from keymux.ids import record_id
from keymux.stores.egress import identity
from keymux.stores.port import Store

app = options.group("Add, show, test and change egress proxies.")

_INSTEAD = "add --password-stdin and send the password there, an empty line for none"


@app.command(
    "add",
    epilog="Example: keymux proxies add fra-1 socks5://gateway@proxy.example:1080",
    context_settings=options.TAKES_MORE,
)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="TYPE://[USER@]HOST:PORT; types are http, https and socks5."
        ),
    ],
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Add an egress proxy.

    Of a user without a password in the URL the password is asked for, so that it stands neither
    in the process list nor in the history of the shell.
    """
    if context.args:
        fail(
            "there is more than a name and a URL: a password is asked for, or read with",
            "--password-stdin",
            code=MISUSED,
        )
    address = _address(name, url)
    place = Place(config)
    address = _with_password(name, address, from_input=password_stdin)
    record = ProxyRecord(record_id("proxy"), name, address, created_at=now_ms())
    place.use(lambda store: _add(store, record, place.actor), create=True)
    if as_json:
        say_json({"id": record.id, "name": name, "address": address.shown})
        return
    say(f"{name}: added, {address.shown}")
    say(f"`keymux proxies test {name}` finds out how it is")


def _address(name: str, url: str) -> ProxyAddress:
    if "://" not in url:
        fail(
            "what stands for the URL has no scheme: write http://, https:// or socks5:// first",
            code=MISUSED,
        )
    try:
        check_name(name)
        return read_proxy(url)
    except ValueError as error:
        fail(f"this egress proxy {error}", "nothing was changed", code=MISUSED)


def _with_password(name: str, address: ProxyAddress, *, from_input: bool) -> ProxyAddress:
    if address.password:
        if from_input:
            fail("the URL has a password already: leave it out of one of both", code=MISUSED)
        note("the password stood in the process list, and stays in the history of the shell;")
        note("next time leave it out of the URL: it is asked for then")
        return address
    if not address.username:
        if from_input:
            fail("a password needs a user: write TYPE://USER@HOST:PORT", code=MISUSED)
        return address
    password = _from_input() if from_input else _asked(name)
    whole = replace(address, password=password)
    try:
        check_credentials(whole)
    except ValueError as error:
        fail(f"this egress proxy {error}", "nothing was changed")
    return whole


def _from_input() -> str:
    given = from_stdin("leave --password-stdin out to be asked").rstrip(b"\r\n")
    try:
        return given.decode()
    except UnicodeDecodeError:
        fail("the password is not UTF-8", "nothing was changed")


def _asked(name: str) -> str:
    return ask_hidden(f"password of {name} (hidden; empty for none): ", _INSTEAD)


async def _add(store: Store, record: ProxyRecord, actor: str) -> None:
    there = await store.proxies.load()
    for other in there:
        if identity(other.address) == identity(record.address):
            fail(
                f"this address is known already as {other.name}, {other.address.shown}",
                "nothing was changed",
            )
        if other.name == record.name:
            fail(
                f"{other.name} is the name of {other.address.shown} already; take another",
                "nothing was changed",
            )
    if not await store.proxies.add([record], actor):
        fail("somebody else added this name or address just now; look again")


@app.command("import", epilog="Example: keymux proxies import proxies.txt --type socks5")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Its lines or its CSV; - for standard input.")
    ],
    *,
    kind: Annotated[
        ProxyType, typer.Option("--type", help="Of proxies whose line does not say it.")
    ] = ProxyType.HTTP,
    skip_bad: options.SkipBad = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Add many egress proxies from a file.

    A line each: a URL, host:port, host:port:user:password or user:password@host:port; or CSV with
    a header of name, type, host, port, username, password in any order. Who has no name is called
    by host and port. One bad line and nothing is imported.
    """
    place = Place(config)
    data = from_stdin("name a file") if str(file) == "-" else from_file(file)
    import_proxies(place, data, kind, skip_bad=skip_bad, as_json=as_json)


# -- list ------------------------------------------------------------------------------------------
def _disabled(value: object) -> str:
    return "" if value else "disabled"


def _nothing(value: object) -> str:  # noqa: ARG001 -- the address says it already
    return ""


def _by_provider(value: object) -> str:
    counts = value if isinstance(value, Mapping) else {}
    return ", ".join(f"{name} {count}" for name, count in counts.items())


@app.command("list", epilog="Example: keymux proxies list")
def show(*, config: options.Config = options.DEFAULT_CONFIG, as_json: options.Json = False) -> None:
    """Show all egress proxies and how they are doing."""
    place = Place(config)
    records, bindings = place.use(lambda store: _everything(store, place.settings.providers))
    counts = {
        name: Counter(binding.proxy_id for binding in found) for name, found in bindings.items()
    }
    rows = [_row(record, counts, as_json=as_json) for record in records]
    columns = (
        Column("name", "name"),
        Column("isActive", brief=_disabled),
        Column("type", brief=_nothing),
        Column("address", "address"),
        Column("status", "status"),
        Column("reason"),
        Column("latencyMs", "ms", right=True, whole=True),
        Column("checkedAt", "checked", partial(ago, now=now_ms()), right=True, whole=True),
        Column("bindings", "bindings", plain),
    )
    listing(rows, columns, as_json=as_json, nothing="there are no egress proxies")


async def _everything(
    store: Store, providers: Mapping[str, object]
) -> tuple[list[ProxyRecord], dict[str, list[BindingRecord]]]:
    """All proxies, and the bindings of all providers."""
    bindings = {name: await store.bindings.load(name) for name in providers}
    return await store.proxies.load(), bindings


def _row(record: ProxyRecord, counts: Mapping[str, Counter[str]], *, as_json: bool) -> Row:
    status, reason = standing(record)
    bound = {name: found[record.id] for name, found in counts.items() if found[record.id]}
    return {
        "id": record.id,
        "name": record.name,
        "type": record.address.type,
        "address": record.address.shown,
        "status": status,
        "reason": reason or (record.last_error if status is not ProxyStatus.HEALTHY else ""),
        "latencyMs": record.last_latency_ms,
        "checkedAt": moment(record.last_checked_at),
        "bindings": bound if as_json else _by_provider(bound),
        "isActive": record.is_active,
        "lastError": record.last_error,
        "failCount": record.fail_count,
        "createdAt": moment(record.created_at),
    }


# -- changes ---------------------------------------------------------------------------------------
@app.command("enable", epilog="Example: keymux proxies enable fra-1")
def enable(
    names: options.ProxyNames,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Let egress proxies be used again.

    They are trusted, whatever was found out about them: for one that was disabled, that refused
    our credentials, or that was blocked by a provider.
    """
    place = Place(config)
    chosen = pick_proxies(names, place.use(lambda store: store.proxies.load()))

    async def work(store: Store) -> None:
        for record in chosen:
            await store.proxies.set_active(record.id, active=True, actor=place.actor)

    place.use(work)
    _tell([(record.name, "enabled") for record in chosen], as_json=as_json)


@app.command("set-password", epilog="Example: keymux proxies set-password fra-1")
def set_password(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which one.")],
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Use another password at an egress proxy.

    The proxy is trusted again, and connections that were made with the old password are not used
    any more. Another user or address is another proxy: add it, and bind keys to it.
    """
    place = Place(config)
    (record,) = pick_proxies([name], place.use(lambda store: store.proxies.load()))
    if not record.address.username:
        fail(f"{record.name} has no user, so it takes no password", "nothing was changed")
    address = replace(record.address, password="")
    address = _with_password(record.name, address, from_input=password_stdin)
    place.use(lambda store: store.proxies.set_password(record.id, address.password, place.actor))
    _tell([(record.name, "password changed")], as_json=as_json)


@app.command("disable", epilog="Example: keymux proxies disable fra-1")
def disable(
    names: options.ProxyNames,
    *,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Let egress proxies not be used until they are enabled.

    Keys that are bound to no other one are not used in the meantime: they do not go directly.
    """
    place = Place(config)
    records, bindings = place.use(lambda store: _everything(store, place.settings.providers))
    chosen = pick_proxies(names, records)

    async def work(store: Store) -> None:
        for record in chosen:
            await store.proxies.set_active(record.id, active=False, actor=place.actor)

    place.use(work)
    _tell([(record.name, "disabled") for record in chosen], as_json=as_json)
    stuck = _stuck(place, records, bindings, chosen)
    if stuck:
        note(f"without another egress proxy that can be used: {counted(stuck)}")


def _stuck(
    place: Place,
    records: Sequence[ProxyRecord],
    bindings: Mapping[str, Sequence[BindingRecord]],
    chosen: Sequence[ProxyRecord],
) -> dict[str, int]:
    """How many keys of each provider cannot leave without some proxies."""
    ids = {record.id for record in chosen}
    after = [replace(record, is_active=False) if record.id in ids else record for record in records]
    stuck: dict[str, int] = {}
    for name, found in bindings.items():
        found_ways = Ways(name, place.settings.providers[name], after, found)
        concerned = {binding.key_id for binding in found if binding.proxy_id in ids}
        stuck[name] = sum(not found_ways.of_key(key_id).is_open for key_id in concerned)
    return {name: count for name, count in stuck.items() if count}


@app.command("remove", epilog="Example: keymux proxies remove fra-1 --with-bindings")
def remove(
    names: options.ProxyNames,
    *,
    with_bindings: Annotated[
        bool, typer.Option("--with-bindings", help="Remove the bindings to them, too.")
    ] = False,
    yes: options.Yes = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Delete egress proxies for good.

    Refused as long as keys are bound to them.
    """
    place = Place(config)
    records, bindings = place.use(lambda store: _everything(store, place.settings.providers))
    chosen = pick_proxies(names, records)
    ids = {record.id for record in chosen}
    bound = {
        name: [binding for binding in found if binding.proxy_id in ids]
        for name, found in bindings.items()
    }
    if any(bound.values()) and not with_bindings:
        _refuse(chosen, bound)
    for line in _consequences(place, bindings, ids):
        note(line)
    lines = [f"  {record.name}  {record.address.shown}" for record in chosen]
    agreed(f"Delete {len(chosen)} for good?", lines, "this deletes egress proxies", yes=yes)

    async def work(store: Store) -> None:
        for record in chosen:  # first: a binding without its proxy keeps its key from leaving
            await store.proxies.remove(record.id, place.actor)
        for name, found in bound.items():
            await store.bindings.remove(name, [binding.id for binding in found], place.actor)

    place.use(work)
    _tell([(record.name, "removed") for record in chosen], as_json=as_json)


def _refuse(chosen: Sequence[ProxyRecord], bound: Mapping[str, Sequence[BindingRecord]]) -> None:
    for record in chosen:
        counts = {
            name: sum(binding.proxy_id == record.id for binding in found)
            for name, found in bound.items()
        }
        if any(counts.values()):
            note(f"{record.name} is what {counted(counts)} must use")
    fail(
        "bind these keys to another egress proxy first, or remove their bindings with",
        "--with-bindings; nothing was changed",
    )


def _consequences(
    place: Place, bindings: Mapping[str, Sequence[BindingRecord]], ids: set[str]
) -> list[str]:
    """What becomes of the keys whose last bindings go, in lines."""
    lines = []
    for name, found in bindings.items():
        left = {binding.key_id for binding in found if binding.proxy_id not in ids}
        count = len({binding.key_id for binding in found if binding.proxy_id in ids} - left)
        if count:
            lines.append(unbound_words(name, place.settings.providers[name], count))
    return lines


def _tell(done: Sequence[tuple[str, str]], *, as_json: bool) -> None:
    if as_json:
        say_json([{"name": name, "done": words} for name, words in done])
        return
    for name, words in done:
        say(f"{name}: {words}")
