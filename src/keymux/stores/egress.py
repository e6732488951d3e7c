"""What becomes of egress proxies and bindings; the same in every store.

Pure: a store reads a record, asks here what follows, and writes that so that nobody comes between.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from keymux.core.egress import (
    DIRECT,
    FIRST_PRIORITY,
    LAST_PRIORITY,
    ExitState,
    Observation,
    ProxyAddress,
    ProxyRecord,
)
from keymux.core.health import Status

_STATUSES = {one.value: one for one in (Status.HEALTHY, Status.ERROR, Status.QUARANTINED)}


class Change(Struct, frozen=True):
    """A change of how a provider can be reached through a proxy."""

    provider: str
    before: ExitState
    after: ExitState

    @property
    def is_seen(self) -> bool:
        """Whether the status is another one: that is audited."""
        return self.before.status is not self.after.status


# -- proxies ---------------------------------------------------------------------------------------
def after_observation(record: ProxyRecord, seen: Observation) -> tuple[ProxyRecord, list[Change]]:
    """A proxy after something was found out about it, and which of its exits that changes.

    An exit that nothing was known of is taken as it is told; any other by a later generation only.
    """
    changes = [
        Change(provider, record.exits.get(provider, ExitState()), told)
        for provider, told in seen.exits.items()
        if provider not in record.exits or told.generation > record.exits[provider].generation
    ]
    checked = max(seen.at, record.last_checked_at or 0) if seen.is_check else record.last_checked_at
    latency = record.last_latency_ms if seen.latency_ms is None else seen.latency_ms
    after = replace(
        record,
        exits={**record.exits, **{one.provider: one.after for one in changes}},
        last_latency_ms=latency,
        last_checked_at=checked,
        last_error=seen.error,
        fail_count=record.fail_count + 1 if seen.error else 0,
    )
    return after, changes


def trusted(exits: Mapping[str, ExitState]) -> dict[str, ExitState]:
    """The exits of a proxy that an operator trusts again."""
    return {
        provider: ExitState(generation=state.generation + 1) for provider, state in exits.items()
    }


def exit_status(word: str) -> Status:
    """A stored status of an exit; a word that means nothing keeps the traffic away."""
    return _STATUSES.get(word, Status.QUARANTINED) if word else Status.HEALTHY


def identity(address: ProxyAddress) -> tuple[str, str, int, str]:
    """By what an address is known: the password may change."""
    return address.type.value, address.host.lower(), address.port, address.username


def named_apart(records: Iterable[ProxyRecord]) -> list[ProxyRecord]:
    """Proxies, oldest first, each with a name of its own: others may have written one twice."""
    taken = {DIRECT, ""}
    found: list[ProxyRecord] = []
    for record in sorted(records, key=lambda one: (one.created_at, one.id)):
        name = record.name
        if name in taken:
            name = f"{name} ({record.id})" if name else record.id
        taken.add(name)
        found.append(replace(record, name=name))
    return found


# -- bindings --------------------------------------------------------------------------------------
def clamped(priority: int) -> int:
    """A priority that there is."""
    return min(max(priority, FIRST_PRIORITY), LAST_PRIORITY)


class Successor(Struct, frozen=True):
    """A backup key that took over for a key.

    Attributes:
        backup: its id.
        used_for: the key it took over for.
        key: the key that it is in the pool, empty if it is not there.
        used_at: when it took over.
    """

    backup: str
    used_for: str
    key: str
    used_at: int


def heir(gone: str, successors: Sequence[Successor]) -> str:
    """The key in the pool that took over for one that is gone, or for its successor; or empty."""
    by_key: dict[str, list[Successor]] = {}
    for one in sorted(successors, key=lambda one: one.used_at, reverse=True):
        by_key.setdefault(one.used_for, []).append(one)
    seen, waiting = {gone}, list(by_key.get(gone, ()))
    while waiting:
        one = waiting.pop(0)
        if one.key and one.key != gone:
            return one.key
        if one.backup not in seen:  # it was a key of that name, which may have been replaced too
            seen.add(one.backup)
            waiting += by_key.get(one.backup, ())
    return ""
