"""``keymux bindings auto``: bind the keys that have no egress proxy yet."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from keymux.cli.changing import agreed
from keymux.cli.importing import in_chunks
from keymux.cli.leaving import plural
from keymux.cli.moments import now_ms
from keymux.cli.picking import pick_proxies
from keymux.cli.place import Place
from keymux.cli.progress import progress
from keymux.cli.saying import fail, note, say, say_json
from keymux.cli.tables import Column, Row, listing
from keymux.core.egress import BindingRecord, ProxyRecord, ProxyStatus
from keymux.core.records import KeyRecord
from keymux.core.spreading import Load, TooFewProxies, spread
from keymux.ids import record_id
from keymux.stores.port import Store

_AT_ONCE = 1000
_COLUMNS = (
    Column("proxy", "egress proxy"),
    Column("status", "status", whole=True),
    Column("now", "bindings now", right=True),
    Column("after", "after", right=True),
    Column("first", "used first by", right=True),
)


class AutoWish(Struct, frozen=True):
    """How keys are to be spread.

    Attributes:
        proxies: the names of those to use, none for all.
        per_key: how many each key gets.
        include_unknown: whether those are used that nobody has tested.
        dry_run: only print the plan.
        yes: whether not to ask.
        as_json: whether a program reads the plan.
    """

    proxies: tuple[str, ...] = ()
    per_key: int = 1
    include_unknown: bool = False
    dry_run: bool = False
    yes: bool = False
    as_json: bool = False


class Plan(Struct, frozen=True):
    """Which keys get which proxies.

    Attributes:
        chosen: by key, the ids of its proxies in order.
        before: by proxy, what it carries now.
        after: the same when the plan is carried out.
    """

    chosen: Mapping[str, tuple[str, ...]]
    before: Mapping[str, Load]
    after: Mapping[str, Load]


def planned(
    keys: Sequence[KeyRecord],
    bindings: Sequence[BindingRecord],
    proxies: Sequence[ProxyRecord],
    per_key: int,
) -> Plan:
    """Spread the keys that have no binding over some proxies.

    Args:
        keys: the pool, in the order of their turns. One that was replaced counts for nothing: its
            bindings went with the key that took over.
        bindings: of the provider.
        proxies: to be used.
        per_key: how many each key gets.

    Raises:
        TooFewProxies: there are fewer than that.
    """
    bound: dict[str, list[BindingRecord]] = {}
    for binding in bindings:
        bound.setdefault(binding.key_id, []).append(binding)
    living = [key.id for key in keys if not key.replaced_by]
    existing = [
        (one.proxy_id, one.priority == min(other.priority for other in bound[key_id]))
        for key_id in living
        if key_id in bound
        for one in bound[key_id]
    ]
    before = _with(dict.fromkeys((record.id for record in proxies), Load()), existing)
    chosen = spread([key_id for key_id in living if key_id not in bound], before, per_key)
    gained = [
        (proxy_id, not place) for ids in chosen.values() for place, proxy_id in enumerate(ids)
    ]
    return Plan(chosen, before, _with(before, gained))


def _with(loads: Mapping[str, Load], more: Sequence[tuple[str, bool]]) -> dict[str, Load]:
    """Loads with further bindings: to which proxy, and whether it is the first of its key."""
    found = dict(loads)
    for proxy_id, is_first in more:
        if proxy_id in found:
            load = found[proxy_id]
            found[proxy_id] = Load(load.first + is_first, load.all + 1)
    return found


def usable(records: Sequence[ProxyRecord], *, include_unknown: bool) -> list[ProxyRecord]:
    """Those that are well: what is down, misconfigured, blocked or disabled gets no new keys."""
    wanted = {ProxyStatus.HEALTHY} | ({ProxyStatus.UNKNOWN} if include_unknown else set())
    return [record for record in records if record.is_active and record.status in wanted]


def bind_unbound(place: Place, provider: str, wish: AutoWish) -> None:
    """Make a plan, say it, ask, and write it."""
    keys, bindings, every = place.use(lambda store: _read(store, provider))
    chosen = pick_proxies(wish.proxies, every) if wish.proxies else every
    proxies = usable(chosen, include_unknown=wish.include_unknown)
    left_out = len(chosen) - len(proxies)
    if left_out:
        note(f"left out, because not healthy: {plural(left_out, 'egress proxy')}")
    try:
        plan = planned(keys, bindings, proxies, wish.per_key)
    except TooFewProxies:
        fail(
            f"each key is to have {plural(wish.per_key, 'egress proxy')}, and there are "
            f"{len(proxies)} to choose from:",
            "`keymux proxies test --all` finds out how they are, `keymux proxies list` shows it;",
            "--include-unknown uses those that nobody has tested; nothing was changed",
        )
    _tell(provider, plan, proxies, wish)
    count = len(plan.chosen)
    if not count or wish.dry_run:
        return
    question = f"Bind {plural(count, 'key')} of {provider}?"
    agreed(question, (), f"this binds {plural(count, 'key')}", yes=wish.yes)
    records = _records(plan)
    place.use(lambda store: _write(store, provider, records, wish.per_key, place.actor))
    if not wish.as_json:
        say(f"{provider}: {plural(count, 'key')} bound")


async def _read(
    store: Store, provider: str
) -> tuple[list[KeyRecord], list[BindingRecord], list[ProxyRecord]]:
    return (
        await store.keys.load(provider),
        await store.bindings.load(provider),
        await store.proxies.load(),
    )


def _tell(provider: str, plan: Plan, proxies: Sequence[ProxyRecord], wish: AutoWish) -> None:
    if not plan.chosen and not wish.as_json:
        say(f"{provider}: no key is without a binding")
        return
    rows: list[Row] = [
        {
            "proxy": record.name,
            "status": record.status,
            "now": plan.before[record.id].all,
            "after": plan.after[record.id].all,
            "first": plan.after[record.id].first,
        }
        for record in proxies
    ]
    if not wish.as_json:
        listing(rows, _COLUMNS, as_json=False)
        return
    names = {record.id: record.name for record in proxies}
    bindings = [
        {"keyId": key_id, "proxy": names[proxy_id], "priority": priority}
        for key_id, ids in plan.chosen.items()
        for priority, proxy_id in enumerate(ids, 1)
    ]
    say_json({"provider": provider, "proxies": rows, "bindings": bindings})


def _records(plan: Plan) -> list[BindingRecord]:
    at = now_ms()
    return [
        BindingRecord(record_id("binding"), proxy_id, key_id, priority, created_at=at)
        for key_id, ids in plan.chosen.items()
        for priority, proxy_id in enumerate(ids, 1)
    ]


async def _write(
    store: Store, provider: str, records: Sequence[BindingRecord], per_key: int, actor: str
) -> None:
    with progress("binding", len(records)) as done:
        await in_chunks(
            records,
            lambda chunk: store.bindings.add(provider, chunk, actor),
            done,
            at_once=_AT_ONCE - _AT_ONCE % per_key,  # a key and its spares are never apart
        )
