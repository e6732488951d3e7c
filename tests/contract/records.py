"""Records to put into stores."""

from msgspec.structs import replace

from keymux.core.egress import BindingRecord, ProxyAddress, ProxyRecord, ProxyType
from keymux.core.health import Status
from keymux.core.records import (
    AttemptRecord,
    BackupKeyRecord,
    ExchangeRow,
    KeyRecord,
    KeyState,
    Outcome,
    ProviderState,
    Shade,
    Transition,
)
from keymux.core.vocabulary import Quality, Usage
from keymux.ids import first_id_at
from keymux.stores.port import Store

ACME, OTHER = "acme", "other"
OPERATOR = "operator:alice"
NOON = 1_763_000_000_000
DAY_MS = 86_400_000


def key(name: str, **fields: object) -> KeyRecord:
    """An upstream key."""
    return replace(KeyRecord(name, f"secret-{name}", created_at=NOON), **fields)


def spare(name: str, created_at: int = NOON) -> BackupKeyRecord:
    """A backup key."""
    return BackupKeyRecord(name, f"secret-{name}", created_at=created_at)


def proxy(proxy_id: str, **fields: object) -> ProxyRecord:
    """An egress proxy, at an address of its own."""
    address = ProxyAddress(ProxyType.HTTP, f"{proxy_id}.example", 3128, "ann", f"pass-{proxy_id}")
    return replace(ProxyRecord(proxy_id, f"name-{proxy_id}", address, created_at=NOON), **fields)


def binding(proxy_id: str, key_id: str, name: str = "", **fields: object) -> BindingRecord:
    """A binding, called after its proxy and key unless it is named."""
    record = BindingRecord(name or f"{proxy_id}-{key_id}", proxy_id, key_id, created_at=NOON)
    return replace(record, **fields)


def attempt(key_id: str = "k1", provider: str = ACME, started_ms: int = 0) -> AttemptRecord:
    """An attempt that went well."""
    return AttemptRecord(provider, "sonnet", key_id, outcome="ok", started_ms=started_ms)


def exchange(number: int = 0, at: int = NOON, **fields: object) -> ExchangeRow:
    """An exchange that went well at its first attempt."""
    row = ExchangeRow(
        id=f"{first_id_at(at)}{number:016x}",
        at=at,
        caller="client_1",
        format="openai",
        operation="generate",
        asked="sonnet-latest",
        model="sonnet",
        stream=True,
        outcome=Outcome.OK,
        status=200,
        provider=ACME,
        key="k1",
        attempts=(attempt(),),
        usage=Usage(10, 20, 30, 40, 50, 5),
        quality=Quality.FINAL,
        cost_micros=1000,
    )
    return replace(row, **fields)


def transition(name: str, state: KeyState, model: str = "", **fields: object) -> Transition:
    """A change of the health of the key ``k1``."""
    status = state.shades[model].status if model in state.shades else state.status
    found = Transition(
        id=name,
        at=NOON,
        actor="host:1",
        provider=ACME,
        key="k1",
        model=model,
        before=Status.HEALTHY,
        after=status,
        reason=f"reason of {name}",
        key_state=state,
    )
    return replace(found, **fields)


def provider_transition(name: str, state: ProviderState) -> Transition:
    """A change of the health of the provider."""
    return transition(
        name, KeyState(), key="", key_state=None, provider_state=state, after=state.status
    )


def cooling(seconds: int, generation: int = 1, status: Status = Status.RATE_LIMITED) -> KeyState:
    """A key that cools for so long."""
    return KeyState(status, NOON + seconds * 1000, f"for {seconds} s", 1, generation)


def shaded(model: str, seconds: int, generation: int = 0) -> KeyState:
    """A key that cools for one model."""
    shade = Shade(Status.RATE_LIMITED, NOON + seconds * 1000, "too fast", 1, whole_group=True)
    return KeyState(generation=generation, shades={model: shade})


async def state_of(store: Store, key_id: str = "k1") -> KeyState:
    """The stored health of a key."""
    record = await store.keys.find(ACME, key_id)
    assert record is not None
    return record.state


async def pairs_in(store: Store, provider: str = ACME) -> list[tuple[str, str]]:
    """All bindings: the key and its proxy."""
    return sorted((one.key_id, one.proxy_id) for one in await store.bindings.load(provider))


async def actions_in(store: Store) -> list[tuple[str, str]]:
    """What was audited, in order: the action and its subject."""
    return [(row.action, row.subject) for row in await store.audit.since(0, 1000)]
