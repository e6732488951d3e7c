"""How the keys of a provider leave this host, from what the store knows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from msgspec import Struct

from keymux.core.egress import DIRECT, BindingRecord, ProxyRecord, ProxyStatus, status_of
from keymux.settings import ProviderSettings
from keymux.stores.port import Store

GONE = "gone"
"""What is said of a proxy or key that a binding names and that is not there."""


class WayOut(Struct, frozen=True):
    """How one key leaves.

    Attributes:
        names: the egress proxies that would be used now, in turn, or ``direct``; none at all when
            the key cannot leave.
        reason: why it cannot.
    """

    names: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the key can leave."""
        return bool(self.names)

    @property
    def words(self) -> str:
        """The same, as part of a sentence."""
        if self.names == (DIRECT,):
            return DIRECT
        if not self.names:
            return "cannot leave this host"
        return f"via {' and '.join(self.names)}{' in turn' if len(self.names) > 1 else ''}"


class Ways:
    """The ways out for the keys of one provider.

    Attributes:
        by_key: the bindings of each key that has any, those that are used first in front.
        is_required: whether keys without a binding are kept from going directly.

    Args:
        provider: its name.
        settings: of the provider.
        proxies: all of them.
        bindings: of this provider.
    """

    def __init__(
        self,
        provider: str,
        settings: ProviderSettings,
        proxies: Iterable[ProxyRecord],
        bindings: Iterable[BindingRecord],
    ) -> None:
        self._provider = provider
        self._proxies = {record.id: record for record in proxies}
        self._is_plain = settings.is_plain
        self.is_required = settings.egress == "required"
        self.by_key: dict[str, list[BindingRecord]] = {}
        for binding in sorted(bindings, key=lambda one: (one.priority, one.created_at, one.id)):
            self.by_key.setdefault(binding.key_id, []).append(binding)

    def of_key(self, key_id: str) -> WayOut:
        """How a key would leave now: by the first of its bindings that lead anywhere.

        Where a provider refuses those who come one way, the next best way is not tried.
        """
        bindings = self.by_key.get(key_id)
        if not bindings:
            if self.is_required:
                return WayOut(reason="has no binding, and this provider's egress is required")
            return WayOut((DIRECT,))
        if self._is_plain:
            return WayOut(reason="is bound, and no key goes through a proxy to an http base_url")
        for _, tier in groupby(bindings, key=lambda one: one.priority):
            same = list(tier)
            names = tuple(self.name(one) for one in same if not self.objection(one))
            if names:
                return WayOut(names)
            if any(one.is_active and self._is_blocked(one) for one in same):
                break
        return WayOut(reason="; ".join(self._objections(bindings)))

    def proxy_named(self, name: str) -> ProxyRecord | None:
        """A proxy by its name; None for ``direct``."""
        return next((one for one in self._proxies.values() if one.name == name), None)

    def named(self, key_id: str) -> tuple[str, ...]:
        """All proxies that a key is bound to, in order; ``direct`` or nothing for one without."""
        bindings = self.by_key.get(key_id, ())
        if not bindings and not self.is_required:
            return (DIRECT,)
        return tuple(self.name(binding) for binding in bindings)

    def proxy(self, binding: BindingRecord) -> ProxyRecord | None:
        """The proxy of a binding, if it is there."""
        return self._proxies.get(binding.proxy_id)

    def name(self, binding: BindingRecord) -> str:
        """The name of a binding's proxy, its id if it is gone."""
        proxy = self.proxy(binding)
        return proxy.name if proxy else binding.proxy_id

    def objection(self, binding: BindingRecord) -> str:
        """Why a binding leads nowhere now; empty if it does."""
        proxy = self.proxy(binding)
        if proxy is None:
            return GONE
        if not binding.is_active:
            return "this binding is disabled"
        if not proxy.is_active:
            return "disabled"
        status, reason = standing(proxy, self._provider)
        if status in {ProxyStatus.HEALTHY, ProxyStatus.UNKNOWN}:
            return ""
        return f"{status}, {reason}" if reason else str(status)

    def _objections(self, bindings: Sequence[BindingRecord]) -> Iterator[str]:
        for binding in bindings:
            why = self.objection(binding)
            if why:
                yield f"{self.name(binding)}: {why}"

    def _is_blocked(self, binding: BindingRecord) -> bool:
        proxy = self.proxy(binding)
        return proxy is not None and standing(proxy, self._provider)[0] is ProxyStatus.BLOCKED


def standing(proxy: ProxyRecord, provider: str = "") -> tuple[ProxyStatus, str]:
    """How a proxy is doing and why, for one provider; without one, for all of them together."""
    if provider:
        state = proxy.exits.get(provider)
        return (ProxyStatus.UNKNOWN, "") if state is None else (status_of([state]), state.reason)
    status = proxy.status
    if status in {ProxyStatus.HEALTHY, ProxyStatus.UNKNOWN}:
        return status, ""
    found = {
        name: state.reason for name, state in proxy.exits.items() if status_of([state]) is status
    }
    reasons = set(found.values())
    if len(reasons) == 1 and len(found) == len(proxy.exits):
        return status, reasons.pop()
    return status, "; ".join(f"{name}: {reason}" for name, reason in found.items())


async def ways(store: Store, provider: str, settings: ProviderSettings) -> Ways:
    """The ways out for the keys of a provider."""
    proxies = await store.proxies.load()
    return Ways(provider, settings, proxies, await store.bindings.load(provider))


def counted(counts: Mapping[str, int], what: str = "key") -> str:
    """How many of what, provider by provider, as part of a sentence."""
    return ", ".join(f"{plural(count, what)} of {name}" for name, count in counts.items() if count)


def plural(count: int, what: str) -> str:
    """A number of things."""
    if count == 1:
        return f"{count} {what}"
    return f"{count} {what[:-1]}ies" if what.endswith("xy") else f"{count} {what}s"


def unbound_words(provider: str, settings: ProviderSettings, count: int) -> str:
    """What becomes of keys that lose their last binding."""
    keys = f"{plural(count, 'key')} of {provider}"
    if settings.egress == "required":
        return f"{keys} would have no binding left and not be used: its egress is required"
    return f"{keys} would have no binding left and leave this host directly"
