"""Where a request for a model would go, told from what the store knows.

The servers decide from memory, which is at most a batch ahead of the store; so a key that is spent
at this moment may still look ready here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from keymux.cli import standing
from keymux.cli.leaving import WayOut, Ways
from keymux.cli.moments import moment
from keymux.cli.standing import Standing
from keymux.core.egress import BindingRecord, ProxyRecord
from keymux.core.health import Status
from keymux.core.records import KeyRecord, ProviderState
from keymux.core.secrets import shown
from keymux.core.vocabulary import Price, Target, WireFormat
from keymux.providers import CATALOGUE
from keymux.settings import ProviderSettings


class Stock(Struct, frozen=True):
    """What the store knows of a provider."""

    state: ProviderState
    keys: Sequence[KeyRecord]
    spare: int
    proxies: Sequence[ProxyRecord] = ()
    bindings: Sequence[BindingRecord] = ()


class KeyOutlook(Struct, frozen=True, rename="camel"):
    """One key, for one model.

    Attributes:
        id: of the key.
        shown: the ends of its secret.
        label: the operator's name for it.
        status: how it is doing.
        reason: for that.
        until: end of its cooldown.
        ready: whether it could be leased now.
        egress: the egress proxies that it would leave by, in turn, or ``direct``; none when it
            cannot leave.
        egress_reason: why it cannot.
    """

    id: str
    shown: str
    label: str
    status: Status
    reason: str
    until: datetime | None
    ready: bool
    egress: tuple[str, ...]
    egress_reason: str


class TargetOutlook(Struct, frozen=True, rename="camel"):
    """One target of a route.

    Attributes:
        provider: its name.
        kind: its dialect.
        url: its address.
        model: the model's name there.
        formats: it speaks.
        status: of the provider.
        reason: for that.
        until: end of its cooldown.
        is_open: whether the provider may be asked at all.
        ready: number of keys that could be leased now.
        next_key: the one whose turn it is, empty for none.
        spare: unused backup keys.
        keys: all of them, those first that are ready.
    """

    provider: str
    kind: str
    url: str
    model: str
    formats: tuple[str, ...]
    status: Status
    reason: str
    until: datetime | None
    is_open: bool
    ready: int
    next_key: str
    spare: int
    keys: tuple[KeyOutlook, ...]


class ModelOutlook(Struct, frozen=True, rename="camel"):
    """A model and its route.

    Attributes:
        asked: the name that was asked for.
        model: public id.
        name: for people.
        aliases: other names it answers to.
        price: dollars per million tokens, None when there is none.
        first: provider that would be asked first, empty when none can be.
        targets: in the order of the route.
    """

    asked: str
    model: str
    name: str
    aliases: tuple[str, ...]
    price: Price | None
    first: str
    targets: tuple[TargetOutlook, ...]


def target_outlook(
    target: Target, settings: ProviderSettings, stock: Stock, now: int
) -> TargetOutlook:
    """How one target is doing."""
    health = standing.of_provider(stock.state)
    is_open = health.status is Status.HEALTHY or health.is_over(now)
    shared = standing.shared_shades(stock.keys)
    ways = Ways(target.provider, settings, stock.proxies, stock.bindings)
    ready: list[KeyRecord] = []
    keys: list[KeyOutlook] = []
    for record in stock.keys:
        found = standing.for_model(record, target.model, shared.get(record.group, {}))
        way = ways.of_key(record.id)
        is_ready = way.is_open and is_key_ready(record, found, now)
        if is_ready:
            ready.append(record)
        keys.append(_key(record, found, way, is_ready=is_ready))
    dialect = CATALOGUE[settings.kind]
    return TargetOutlook(
        provider=target.provider,
        kind=settings.kind,
        url=settings.url,
        model=target.model,
        formats=tuple(str(one) for one in WireFormat if dialect.speaks(one)),
        status=health.status,
        reason=health.reason,
        until=moment(health.until),
        is_open=is_open,
        ready=len(ready),
        next_key=_next_key(ready) if is_open else "",
        spare=stock.spare,
        keys=tuple(sorted(keys, key=lambda key: not key.ready)),
    )


def is_key_ready(record: KeyRecord, found: Standing, now: int) -> bool:
    """Whether the health of a key lets it be leased: it is well, or a probe may find out."""
    if record.replaced_by:
        return False
    return found.status is Status.HEALTHY or found.is_over(now)


def _key(record: KeyRecord, found: Standing, way: WayOut, *, is_ready: bool) -> KeyOutlook:
    return KeyOutlook(
        id=record.id,
        shown=shown(record.secret),
        label=record.label,
        status=found.status,
        reason=found.words,
        until=moment(found.until),
        ready=is_ready,
        egress=way.names,
        egress_reason=way.reason,
    )


def _next_key(ready: Sequence[KeyRecord]) -> str:
    """Keys take turns, so it is the one that was used longest ago."""
    if not ready:
        return ""
    return min(ready, key=lambda one: (one.last_used_at or 0, one.created_at, one.id)).id


def first_provider(targets: Sequence[TargetOutlook]) -> str:
    """The first of a route that can be asked now."""
    return next((one.provider for one in targets if one.is_open and one.ready), "")


def by_status(target: TargetOutlook) -> Mapping[Status, int]:
    """How many keys of a target are in which state."""
    return {
        status: count
        for status in Status
        if (count := sum(key.status is status for key in target.keys))
    }
