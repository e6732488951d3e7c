"""What a store can do; every implementation passes `tests/contract/test_stores.py`."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from keymux.core.egress import BindingRecord, Observation, ProxyRecord, Repaired
from keymux.core.health import Event
from keymux.core.records import (
    AuditRow,
    BackupKeyRecord,
    ClientKeyRecord,
    ExchangeRow,
    KeyRecord,
    ProviderState,
    Transition,
    UsageLine,
)


class StoreUnavailable(Exception):  # noqa: N818 -- names the state, as the faults do
    """The store cannot be reached or written now; trying again later may help."""


class StoreUnusable(Exception):  # noqa: N818 -- as above
    """The store can never work like this: wrong file, wrong rights, a newer schema."""


class NoSuchRecord(Exception):  # noqa: N818 -- as above
    """There is no record by that id."""


class Batch(Struct, frozen=True):
    """Settled exchanges and transitions to be written together."""

    rows: tuple[ExchangeRow, ...] = ()
    transitions: tuple[Transition, ...] = ()


class UsageQuery(Struct, frozen=True):
    """Which exchanges to add up, and by what.

    Attributes:
        by: any of day, model, provider, key, caller, in order.
        since: milliseconds since 1970, included.
        until: milliseconds since 1970, excluded; None for no end.
    """

    by: tuple[str, ...]
    since: int = 0
    until: int | None = None


class Keys(Protocol):
    """Upstream keys of one provider."""

    async def load(self, provider: str) -> list[KeyRecord]:
        """All of them, oldest first."""

    async def find(self, provider: str, key_id: str) -> KeyRecord | None:
        """One of them."""

    async def find_some(self, provider: str, key_ids: Collection[str]) -> list[KeyRecord]:
        """Those of some that are there, in any order."""

    async def add(self, provider: str, records: Sequence[KeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is not known yet; gives the ids that were inserted."""

    async def change(
        self, provider: str, key_id: str, event: Event, *, actor: str, reason: str
    ) -> KeyRecord:
        """An operator's DISABLE, ENABLE, RESET or RESTORE; raises NoSuchRecord.

        A key that is healthy afterwards is in rotation again, even if a backup key had taken over.
        """

    async def remove(self, provider: str, key_id: str, actor: str) -> None:
        """Delete one; raises NoSuchRecord.

        Its bindings go to the key that took over for it, but for those that one has already; if
        there is none, they are deleted.
        """


class BackupKeys(Protocol):
    """Spare keys of one provider."""

    async def load(self, provider: str) -> list[BackupKeyRecord]:
        """All of them, oldest first."""

    async def count(self, provider: str) -> tuple[int, int]:
        """How many are spare, and how many were used."""

    async def add(self, provider: str, records: Sequence[BackupKeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is known neither as key nor as backup key; gives their ids."""

    async def promote(self, provider: str, dead_key: str, *, at: int, actor: str) -> str | None:
        """Let the oldest unused one take over for a dead key; gives the new key's id.

        It happens once: whoever asks again for the same dead key is given the same id. A spare
        whose secret is in the pool already is of no use and is passed over for good. The new key
        has the dead key's bindings from the moment it is in the pool; the dead key keeps its own,
        because an operator may trust it again.
        """

    async def restore(self, provider: str, backup_id: str, actor: str) -> None:
        """Make a used one a spare again and take its key out of the pool; raises NoSuchRecord.

        The bindings of that key are deleted.
        """

    async def remove(self, provider: str, backup_id: str, actor: str) -> None:
        """Delete one; raises NoSuchRecord."""


class Proxies(Protocol):
    """Egress proxies, shared by all providers."""

    async def load(self) -> list[ProxyRecord]:
        """All of them, oldest first."""

    async def find_some(self, proxy_ids: Collection[str]) -> list[ProxyRecord]:
        """Those of some that are there, in any order."""

    async def add(self, records: Sequence[ProxyRecord], actor: str) -> list[str]:
        """Insert those whose name is free and whose address is not known yet; gives their ids.

        Of an address, type, host, port and user count. Audited as ``proxy.add``.
        """

    async def set_active(self, proxy_id: str, *, active: bool, actor: str) -> None:
        """Let it be used, or not; raises NoSuchRecord. Audited as ``proxy.enable``, ``.disable``.

        Being enabled it is trusted again: each of its exits is healthy, in a new generation.
        """

    async def set_password(self, proxy_id: str, password: str, actor: str) -> None:
        """Use another password; raises NoSuchRecord. Audited as ``proxy.password``.

        Each of its exits is healthy then, in a new generation. Whether it is active stays.
        """

    async def observe(self, proxy_id: str, seen: Observation, actor: str) -> None:
        """Note what was found out; nothing happens if the proxy is gone.

        An exit is changed only by a later generation. Each change of an exit's status is audited
        as ``proxy.transition`` of the exit's provider, with status before and after and the reason.
        """

    async def remove(self, proxy_id: str, actor: str) -> None:
        """Delete one, whatever is bound to it; raises NoSuchRecord. Audited as ``proxy.remove``."""


class Bindings(Protocol):
    """Which proxies the upstream keys of one provider must use.

    The audit names the key as the subject of all that happens to its bindings.
    """

    async def load(self, provider: str) -> list[BindingRecord]:
        """All of them, oldest first."""

    async def of_keys(self, provider: str, key_ids: Collection[str]) -> list[BindingRecord]:
        """Those of some keys, oldest first."""

    async def add(self, provider: str, records: Sequence[BindingRecord], actor: str) -> list[str]:
        """Insert those whose pair of proxy and key is not there yet; gives their ids.

        Audited as ``binding.add``, after: the proxy's id.
        """

    async def set_priority(self, provider: str, binding_id: str, priority: int, actor: str) -> None:
        """Change a priority; raises NoSuchRecord. Audited as ``binding.priority``."""

    async def set_active(self, provider: str, binding_id: str, *, active: bool, actor: str) -> None:
        """Let it be used, or not; raises NoSuchRecord.

        Audited as ``binding.enable`` and ``binding.disable``.
        """

    async def remove(self, provider: str, binding_ids: Sequence[str], actor: str) -> None:
        """Delete some, those that are there. Audited as ``binding.remove``, before: the proxy."""

    async def repair(self, provider: str, actor: str) -> Repaired:
        """Look for bindings whose key is gone.

        They are moved to the key that took over for it, as the backup keys tell, or else deleted.
        Audited as ``binding.repair`` for each key that gains or loses one.
        """


class ClientKeys(Protocol):
    """Client keys, known by their hash."""

    async def load(self) -> list[ClientKeyRecord]:
        """All of them, oldest first, revoked ones too."""

    async def add(self, record: ClientKeyRecord, actor: str) -> bool:
        """Insert one; False if its hash is known already."""

    async def revoke(self, key_id: str, *, at: int, actor: str) -> None:
        """Never accept it again; raises NoSuchRecord."""


class Ledger(Protocol):
    """Settled exchanges, and the counters that follow from them."""

    async def write(self, batch: Batch) -> None:
        """Write a batch in one transaction; what is there already is left alone.

        A row adds to the counters of its keys: a request for each attempt, and its tokens for the
        key that served it. A transition is audited, and changes the health of its key or provider
        unless an operator decided otherwise, or a later generation is there. One that is about a
        model changes the cooldown of that model alone; one that is not leaves those of models
        alone. Of two deadlines in one generation the later holds.
        """

    async def tidy(self) -> None:
        """Do what writes have left for later, if anything; called about once a second."""

    async def find(self, exchange_id: str) -> ExchangeRow | None:
        """One exchange."""

    async def latest(self, limit: int) -> list[ExchangeRow]:
        """The last ones, newest first."""

    async def usage(self, query: UsageQuery) -> list[UsageLine]:
        """Usage added up."""


class Audit(Protocol):
    """Who changed what, in order."""

    async def last(self) -> int:
        """The highest sequence number, 0 for none."""

    async def since(self, seq: int, limit: int) -> list[AuditRow]:
        """What came after a sequence number, oldest first."""

    async def latest(self, limit: int) -> list[AuditRow]:
        """The last ones, newest first."""


class Claims(Protocol):
    """Who alone may try something for a while, among all processes."""

    async def claim(self, scope: str, owner: str, seconds: float) -> bool:
        """Hold a scope alone from now on; False while another owner does.

        Whoever holds it may ask again and holds it for so much longer. It ends by itself.
        """


class Store(Protocol):
    """A store, open."""

    @property
    def keys(self) -> Keys:
        """Upstream keys."""

    @property
    def backups(self) -> BackupKeys:
        """Backup keys."""

    @property
    def proxies(self) -> Proxies:
        """Egress proxies."""

    @property
    def bindings(self) -> Bindings:
        """Which proxies keys must use."""

    @property
    def clients(self) -> ClientKeys:
        """Client keys."""

    @property
    def ledger(self) -> Ledger:
        """Settled exchanges."""

    @property
    def audit(self) -> Audit:
        """Who changed what."""

    @property
    def claims(self) -> Claims:
        """Who alone may try something for a while."""

    async def prepare(self, providers: Sequence[str]) -> list[str]:
        """Create what is missing, bring the schema up to date; says what was done.

        Raises:
            StoreUnusable: it is no database of ours, or a newer one.
        """

    async def provider_state(self, provider: str) -> ProviderState:
        """Health of a provider as a whole."""

    async def reset_provider(self, provider: str, actor: str) -> None:
        """An operator's word that a provider may be asked again."""

    async def close(self) -> None:
        """Give everything back."""
