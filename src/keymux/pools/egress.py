"""The ways out of this host for the keys of one provider.

An *exit* is a provider seen through one proxy, or without any. A key with bindings leaves by their
exits and by no other; all other keys leave directly. An exit that was closed by a failure opens
when a check has found it well, so no client's request ever finds out.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Protocol

from msgspec import Struct

from keymux.core.egress import DIRECT, BindingRecord, ProxyAddress, ProxyRecord
from keymux.core.faults import UpstreamFault
from keymux.core.health import Status
from keymux.pools.gate import Gate

_numbers = count(1)


class Leaver(Hashable, Protocol):
    """An upstream key, as far as its exits go."""

    exits: "Exits"


class Exit:
    """A provider through one proxy, or directly.

    Attributes:
        id: of the proxy.
        name: of the proxy, for people; ``direct`` without one.
        address: None without a proxy.
        way: unlike those of all other addresses, and of earlier ones of this proxy.
        gate: open unless it is known to lead nowhere.
        is_active: whether an operator lets it be used.
        is_plain: whether the provider has no TLS, so that a proxy would read what is sent.
        keys: those bound to it, by id.
        waiting: keys of the lanes that wait until it opens.
        doubt: what was lost on this way and not looked into yet, with the provider's generation.
        latency_s: of the last check that succeeded; None if there was none.
    """

    __slots__ = (
        "address",
        "doubt",
        "gate",
        "id",
        "is_active",
        "is_plain",
        "keys",
        "latency_s",
        "name",
        "waiting",
        "way",
    )

    def __init__(self, proxy_id: str, name: str, address: ProxyAddress | None) -> None:
        self.id = proxy_id
        self.name = name
        self.address = address
        self.way = f"{name}/{next(_numbers)}"
        self.gate = Gate()
        self.is_active = True
        self.is_plain = False
        self.keys: set[str] = set()
        self.waiting: dict[Leaver, None] = {}
        self.doubt: tuple[UpstreamFault, int] | None = None
        self.latency_s: float | None = None

    def __repr__(self) -> str:
        return f"<Exit {self.name} {self.gate.condition.status}>"

    @property
    def is_open(self) -> bool:
        """Whether requests may leave by it."""
        return self.is_active and not self.is_plain and self.gate.is_free

    @property
    def is_blocked(self) -> bool:
        """Whether the provider itself refuses those who come this way."""
        return self.gate.condition.status is Status.QUARANTINED

    @property
    def is_misconfigured(self) -> bool:
        """Whether the proxy refuses our credentials: an operator has to act."""
        condition = self.gate.condition
        return condition.status is Status.ERROR and condition.until is None

    def move(self, name: str, address: ProxyAddress | None) -> None:
        """From now on it is there; connections to another address are not used again."""
        if (name, address) != (self.name, self.address):
            self.name, self.address = name, address
            self.way = f"{name}/{next(_numbers)}"


class Exits:
    """The exits of one key, those with the lowest priority first.

    Args:
        tiers: exits of one priority each, in order.
        is_bound: whether these are the key's bindings, or it has none.
    """

    __slots__ = ("_turn", "is_bound", "tiers")

    def __init__(self, tiers: Sequence[Sequence[Exit]], *, is_bound: bool) -> None:
        self.tiers = tuple(tuple(tier) for tier in tiers)
        self.is_bound = is_bound
        self._turn = 0

    def __iter__(self) -> Iterator[Exit]:
        return (found for tier in self.tiers for found in tier)

    @property
    def is_open(self) -> bool:
        """Whether the key can leave."""
        for tier in self.tiers:
            for found in tier:
                if found.is_open:
                    return True
            if any(found.is_blocked for found in tier):
                return False
        return False

    def choose(self, avoid: frozenset[str]) -> Exit | None:
        """The exit whose turn it is among the first that are open.

        What a provider has blocked is not answered with the next best way to it.

        Args:
            avoid: names of proxies that are not wanted.
        """
        for tier in self.tiers:
            size, turn = len(tier), self._turn
            for step in range(size):
                found = tier[(turn + step) % size]
                if found.is_open and found.name not in avoid:
                    self._turn = turn + step + 1
                    return found
            if any(found.is_blocked for found in tier):
                return None
        return None


class Hope(Struct, frozen=True):
    """What keys may hope for that wait for an exit.

    Attributes:
        until: when the first closed exit is checked; None when none will be.
        is_open: it is being checked just now.
    """

    until: float | None
    is_open: bool


class WaysOut:
    """All exits of one provider, and which of them its keys must use.

    Attributes:
        direct: the way out without a proxy.
        is_plain: whether the provider is spoken to without TLS, which no proxy shall read.
        by_proxy: the exits through proxies, by the proxy's id.
        bindings: of each key that has any, by its id.

    Args:
        wake: called with a key that may be able to leave again.
    """

    def __init__(self, wake: Callable[[Leaver], None]) -> None:
        self._wake = wake
        self.direct = Exit(DIRECT, DIRECT, None)
        self.is_plain = False
        self.by_proxy: dict[str, Exit] = {}
        self.bindings: dict[str, tuple[BindingRecord, ...]] = {}
        self.unbound = Exits(((self.direct,),), is_bound=False)

    @property
    def is_shut(self) -> bool:
        """True when nobody can leave, which shows without a look at the keys."""
        return not self.bindings and not self.direct.is_open

    def __iter__(self) -> Iterator[Exit]:
        yield self.direct
        yield from self.by_proxy.values()

    # -- what operators say --------------------------------------------------------------------
    def configure(self, *, required: bool, is_plain: bool) -> None:
        """What the config says: keys without a binding are not used, a provider has no TLS."""
        self.is_plain = is_plain
        self.direct.is_active = not required
        for found in self.by_proxy.values():
            found.is_plain = is_plain
        for found in self:
            self.opened(found)

    def put_proxy(self, record: ProxyRecord) -> Exit:
        """A proxy as it is now."""
        found = self._exit(record.id)
        found.move(record.name, record.address)
        found.is_active = record.is_active
        self.opened(found)
        return found

    def drop_proxy(self, proxy_id: str) -> None:
        """A proxy is gone; keys that are bound to it stay bound."""
        found = self.by_proxy.get(proxy_id)
        if found is None:
            return
        found.is_active = False
        found.move(found.name, None)
        if not found.keys:
            del self.by_proxy[proxy_id]

    def bind(self, key_id: str, records: Iterable[BindingRecord]) -> None:
        """From now on these are the bindings of a key; none at all for those without."""
        for old in self.bindings.pop(key_id, ()):
            self._exit(old.proxy_id).keys.discard(key_id)
        found = tuple(records)
        for new in found:
            self._exit(new.proxy_id).keys.add(key_id)
        if found:
            self.bindings[key_id] = found

    def of_key(self, key_id: str) -> Exits:
        """The exits of a key, according to its bindings."""
        records = self.bindings.get(key_id)
        if not records:
            return self.unbound
        tiers: dict[int, list[Exit]] = {}
        for record in sorted(records, key=lambda one: (one.priority, one.created_at, one.id)):
            if record.is_active:
                tiers.setdefault(record.priority, []).append(self._exit(record.proxy_id))
        return Exits(tuple(tiers.values()), is_bound=True)

    def _exit(self, proxy_id: str) -> Exit:
        found = self.by_proxy.get(proxy_id)
        if found is None:
            found = self.by_proxy[proxy_id] = Exit(proxy_id, proxy_id, None)
            found.is_active = False  # until the proxy itself is known
            found.is_plain = self.is_plain
        return found

    # -- waiting -------------------------------------------------------------------------------
    def wait(self, key: Leaver) -> None:
        """A key is kept by its exits alone: it is woken when one of them opens."""
        for found in key.exits:
            found.waiting[key] = None

    def forget(self, key: Leaver) -> None:
        """A key is gone, or has other exits now."""
        for found in key.exits:
            found.waiting.pop(key, None)

    def opened(self, found: Exit) -> None:
        """An exit may have opened."""
        if found.is_open:
            waiting, found.waiting = found.waiting, {}
            for key in waiting:
                self._wake(key)

    def hope(self, now: float) -> Hope | None:
        """What keys may hope for that wait for an exit; None when no key does."""
        waited_for = [found for found in self if found.waiting]
        if not waited_for:
            return None
        ends = [
            found.gate.condition.until
            for found in waited_for
            if found.is_active and found.gate.condition.until is not None
        ]
        coming = [end for end in ends if end > now]
        return Hope(min(coming, default=None), is_open=len(coming) < len(ends))

    def census(self) -> Mapping[str, Exit]:
        """The exits that keys are bound to, by the proxy's name."""
        return {found.name: found for found in self.by_proxy.values() if found.keys}
