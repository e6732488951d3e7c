"""The outlook of a model, in lines."""

from collections.abc import Iterator

from keymux.cli.leaving import WayOut
from keymux.cli.moments import left
from keymux.cli.outlook import KeyOutlook, ModelOutlook, TargetOutlook, by_status
from keymux.cli.tables import plain
from keymux.core.egress import DIRECT
from keymux.core.health import Status
from keymux.core.vocabulary import Price

_NAMED = 10
_PRICES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


def tell_model(outlook: ModelOutlook, now: int) -> Iterator[str]:
    """Where a request for a model goes, and why.

    Args:
        outlook: of the model.
        now: milliseconds since 1970.
    """
    yield f"{outlook.asked} is {outlook.model} ({outlook.name})"
    if outlook.aliases:
        yield f"also called: {', '.join(outlook.aliases)}"
    yield _price(outlook.price)
    for number, target in enumerate(outlook.targets, 1):
        yield ""
        yield f"{number}. {target.provider}, as {target.model}: {_turn(outlook, target)}"
        yield from _target(target, now)
    if not outlook.first:
        yield ""
        yield "No target can be asked now: a client waits a little, then is told 503 or 429."


def _price(price: Price | None) -> str:
    if price is None:
        return "no price: tokens are booked, the cost stays unknown"
    each = ", ".join(f"{name} ${getattr(price, name):g}" for name in _PRICES)
    return f"price for a million tokens: {each}"


def _turn(outlook: ModelOutlook, target: TargetOutlook) -> str:
    if target.provider == outlook.first:
        return "asked first"
    if not target.is_open:
        return "not asked now"
    if not target.ready:
        return "no key is ready"
    return f"asked when {outlook.first} cannot serve"


def _target(target: TargetOutlook, now: int) -> Iterator[str]:
    yield f"   {target.url} ({target.kind}; speaks {', '.join(target.formats)})"
    if target.status is not Status.HEALTHY:
        yield f"   the provider is {target.status}{_until(target.until, now)}: {target.reason}"
    counts = ", ".join(f"{count} {status}" for status, count in by_status(target).items())
    yield f"   keys: {target.ready} of {len(target.keys)} ready; {counts or 'none'}"
    if target.spare:
        yield f"   backup keys: {target.spare} spare"
    for key in target.keys:
        if key.id == target.next_key:
            yield f"   next: {_name(key)}{_way(target, key)}"
    yield from _held(target, now)


def _held(target: TargetOutlook, now: int) -> Iterator[str]:
    held = [key for key in target.keys if not key.ready]
    for key in held[:_NAMED]:
        until = _until(key.until, now)
        yield f"   held: {_name(key)}: {key.status}{until}{_way(target, key)}"
        if key.reason:
            yield f"         {key.reason}"
        if key.egress_reason:
            yield f"         {key.egress_reason}"
    if len(held) > _NAMED:
        yield f"   held: and {len(held) - _NAMED} more; `keymux keys list {target.provider}`"


def _until(until: object, now: int) -> str:
    if until is None:
        return ""
    wait = left(until, now)
    return ", due for a probe" if wait == "due" else f" for {wait}, until {plain(until)}"


def _way(target: TargetOutlook, key: KeyOutlook) -> str:
    """By which way a key leaves, where that is not the same plain way for all."""
    if all(other.egress == (DIRECT,) for other in target.keys):
        return ""
    return f", {WayOut(key.egress).words}"


def _name(key: KeyOutlook) -> str:
    return " ".join(part for part in (key.id, key.shown, key.label) if part)
