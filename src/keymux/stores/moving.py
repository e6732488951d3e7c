"""Bringing everything from one store to another.

Records are read and written in parts: egress proxies, each provider's bindings, keys and backup
keys, then what belongs to no provider. So a key is never there without its bindings. Whatever is
there already is written again or passed over, so the work may end anywhere and be begun anew. A
*mark* in the target says where its records come from; without it, a target that has any records is
somebody else's.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Protocol

from msgspec import Struct

from keymux.core.egress import BindingRecord, ProxyRecord
from keymux.core.records import (
    AuditRow,
    BackupKeyRecord,
    ClientKeyRecord,
    ExchangeRow,
    KeyRecord,
    ProviderState,
)
from keymux.core.secrets import hash_of
from keymux.core.vocabulary import Usage
from keymux.stores.egress import identity
from keymux.stores.port import Ledger, UsageQuery
from keymux.stores.sealing.port import Answers, Secrets
from keymux.stores.sealing.unlocking import unlock
from keymux.stores.sealing.vault import Vault

PAGE = 1000


class Kind(StrEnum):
    """Kinds of records, in the order in which they are brought over."""

    PROXIES = "proxies"
    BINDINGS = "bindings"
    KEYS = "keys"
    BACKUP_KEYS = "backup_keys"
    STATES = "provider_states"
    CLIENTS = "client_keys"
    AUDIT = "audit"
    EXCHANGES = "exchanges"


class Part(Struct, frozen=True):
    """Records of one kind.

    Attributes:
        provider: whose; empty for those that belong to none.
    """

    kind: Kind
    provider: str = ""

    def __str__(self) -> str:
        return f"{self.provider}_{self.kind}" if self.provider else str(self.kind)


class StateCopy(Struct, frozen=True):
    """The health of a provider, with its name."""

    provider: str
    state: ProviderState


class AuditCopy(Struct, frozen=True):
    """A line of the audit, with its id."""

    id: str
    row: AuditRow


Copied = (
    ProxyRecord
    | BindingRecord
    | KeyRecord
    | BackupKeyRecord
    | StateCopy
    | ClientKeyRecord
    | AuditCopy
    | ExchangeRow
)


class Mark(Struct, frozen=True):
    """Where the records of a target come from.

    Attributes:
        source: the address of the other store.
        done: whether all of them are there.
    """

    source: str
    done: bool = False


class Everything(Protocol):
    """All records of a store."""

    async def providers(self) -> list[str]:
        """Those that have records here; raises StoreUnusable for another schema."""

    async def count(self, part: Part) -> int:
        """How many records there are, also those that cannot be read."""

    async def read(self, part: Part, after: str, limit: int) -> tuple[list[Copied], str]:
        """Some records after a place, and the place after them, empty at the end."""


class Target(Everything, Protocol):
    """All records of a store, to be written."""

    async def write(self, part: Part, records: Sequence[Copied]) -> None:
        """Write records; exchanges and lines of the audit that are there stay as they are."""

    async def mark(self) -> Mark | None:
        """Where the records come from, if they come from another store."""

    async def set_mark(self, mark: Mark) -> None:
        """Say where they come from."""


class NotForThis(Exception):  # noqa: N818 -- names the state
    """The target must not be written to; the message says why."""


class Compared(Struct, frozen=True):
    """One figure on both sides."""

    what: str
    source: str
    target: str

    @property
    def is_same(self) -> bool:
        """Whether both sides have it."""
        return self.source == self.target


def parts(providers: Iterable[str]) -> list[Part]:
    """All parts, in their order."""
    kinds = (Kind.BINDINGS, Kind.KEYS, Kind.BACKUP_KEYS)
    own = [Part(kind, name) for name in providers for kind in kinds]
    shared = [Part(kind) for kind in (Kind.STATES, Kind.CLIENTS, Kind.AUDIT, Kind.EXCHANGES)]
    return [Part(Kind.PROXIES), *own, *shared]


async def look(
    vault: Vault, answers: Answers, secrets: Secrets, tell: Callable[[str], None]
) -> None:
    """Check that the secrets of a source can be opened, without changing anything there."""
    await unlock(vault, answers, secrets, tell, may_write=False)


async def claim(target: Target, source: str, providers: Sequence[str]) -> bool:
    """See to it that a target is written to from one source only; True if it was begun before.

    Raises:
        NotForThis: it has records of its own, or those of another source, or all of them.
    """
    mark = await target.mark()
    if mark is None:
        for part in parts(providers):
            if part.kind is not Kind.STATES and await target.count(part):
                raise NotForThis(f"the target has records of its own in {part}")
        await target.set_mark(Mark(source))
        return False
    if mark.source != source:
        raise NotForThis(f"the target is being filled from {mark.source}")
    if mark.done:
        raise NotForThis(f"the target was filled from {mark.source} before, and may be in use")
    return True


async def bring(
    source: Everything, target: Target, part: Part, told: Callable[[int], None]
) -> None:
    """Bring the records of one part over."""
    after = ""
    while True:
        records, after = await source.read(part, after, PAGE)
        if records:
            await target.write(part, records)
            told(len(records))
        if not after:
            return


async def figures(side: Everything, ledger: Ledger, providers: Sequence[str]) -> dict[str, str]:
    """What has to be the same on both sides."""
    counted = [part for part in parts(providers) if part.kind is not Kind.STATES]
    found = {str(part): str(await side.count(part)) for part in counted}
    for part in counted:
        if part.kind in _HASHED:
            records, _ = await side.read(part, "", PAGE)
            found[f"{part}: {_HASHED[part.kind]}"] = _fingerprint(records)
            if part.kind is Kind.KEYS:
                found[f"{part}: tokens used"] = str(_tokens(records))
    lines = await ledger.usage(UsageQuery(by=()))
    usage = lines[0].usage if lines else Usage()
    for word in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning"):
        found[f"exchanges: {word} tokens"] = str(getattr(usage, word))
    found["exchanges: cost in micro-dollars"] = str(lines[0].cost_micros if lines else 0)
    return found


def compare(source: dict[str, str], target: dict[str, str]) -> list[Compared]:
    """Both sides, figure by figure."""
    return [Compared(what, value, target.get(what, "")) for what, value in source.items()]


_HASHED = {
    Kind.PROXIES: "hash of addresses",
    Kind.BINDINGS: "hash of pairs",
    Kind.KEYS: "hash of secrets",
    Kind.BACKUP_KEYS: "hash of secrets",
}
"""Kinds that are few enough to be compared one by one, and what it is that is compared."""


def _fingerprint(records: Sequence[Copied]) -> str:
    """A short text that differs if any secret does, or where a key may go."""
    known = sorted(repr(_essence(record)) for record in records)
    return sha256("\n".join(known).encode()).hexdigest()[:16]


def _essence(record: Copied) -> tuple[object, ...]:
    """What must not differ."""
    match record:
        case KeyRecord() | BackupKeyRecord():
            return record.id, hash_of(record.secret)
        case ProxyRecord():
            return record.id, *identity(record.address), hash_of(record.address.password)
        case BindingRecord():
            return record.id, record.proxy_id, record.key_id, record.priority, record.is_active
        case _:
            return ()


def _tokens(records: Sequence[Copied]) -> int:
    return sum(record.tokens_used for record in records if isinstance(record, KeyRecord))
