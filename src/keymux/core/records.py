"""What is remembered: the records that pools, ledger and stores hand to each other.

Times are milliseconds since 1970 on the wall clock, because they outlive the process. Field names
that operators know from their databases are spelled as there when a store writes them; here they
are Python names.
"""

from msgspec import Struct

from keymux.core.health import Status
from keymux.core.vocabulary import Quality, Usage, Word


class Shade(Struct, frozen=True, omit_defaults=True):
    """A cooldown that is narrower than a key: for one model.

    Attributes:
        status: why it cools.
        until: end of the cooldown, None when it has no end.
        reason: in words.
        step: waves in a row.
        whole_group: True when it holds for the key's whole quota group.
    """

    status: Status
    until: int | None
    reason: str = ""
    step: int = 0
    whole_group: bool = False


class KeyState(Struct, frozen=True):
    """The health of an upstream key as it is stored."""

    status: Status = Status.HEALTHY
    cooldown_until: int | None = None
    reason: str = ""
    step: int = 0
    generation: int = 0
    failures: int = 0
    suspected_at: int | None = None
    shades: dict[str, Shade] = {}


class KeyRecord(Struct, frozen=True):
    """An upstream key.

    Attributes:
        id: unique within its provider.
        secret: what the provider gave us; never shown.
        group: quota group; empty for a group of its own.
        replaced_by: id of the backup key that took over, empty if none did.
    """

    id: str
    secret: str
    state: KeyState = KeyState()
    label: str = ""
    group: str = ""
    last_error: str = ""
    tokens_used: int = 0
    requests_count: int = 0
    replaced_by: str = ""
    created_at: int = 0
    last_used_at: int | None = None
    updated_at: int = 0

    def __repr__(self) -> str:
        return f"<KeyRecord {self.id}>"


class BackupKeyRecord(Struct, frozen=True):
    """A spare upstream key."""

    id: str
    secret: str
    label: str = ""
    is_used: bool = False
    activated: bool = False
    used_for: str = ""
    used_at: int | None = None
    created_at: int = 0

    def __repr__(self) -> str:
        return f"<BackupKeyRecord {self.id}>"


class ClientKeyRecord(Struct, frozen=True):
    """A client key, of which only the hash is known."""

    id: str
    key_hash: str
    shown: str
    label: str = ""
    models: tuple[str, ...] = ()
    created_at: int = 0
    revoked_at: int | None = None


class ProviderState(Struct, frozen=True):
    """The health of a provider as a whole."""

    status: Status = Status.HEALTHY
    cooldown_until: int | None = None
    reason: str = ""
    step: int = 0
    generation: int = 0


class Transition(Struct, frozen=True, tag="transition"):
    """A change of health, to be stored and audited.

    Exactly one of ``key_state`` and ``provider_state`` is set.

    Attributes:
        id: unique, so that writing it twice does no harm.
        at: when.
        actor: the process or operator that caused it.
        provider: whose.
        key: id of the upstream key, empty for the provider itself.
        model: the model it is limited to, empty for all.
        before: status before.
        after: status after.
        reason: the upstream's status and code, redacted.
    """

    id: str
    at: int
    actor: str
    provider: str
    key: str
    model: str
    before: Status
    after: Status
    reason: str
    key_state: KeyState | None = None
    provider_state: ProviderState | None = None


class Outcome(Word):
    """How an exchange ended."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    CUT = "cut"
    CLIENT_GONE = "client_gone"
    INTERRUPTED = "interrupted"


class AttemptRecord(Struct, frozen=True, omit_defaults=True):
    """One attempt as the ledger keeps it.

    Attributes:
        provider: asked.
        model: its name there.
        key: id of the upstream key.
        egress: the way out.
        outcome: ``ok``, a fault's code, or ``started`` when nothing more is known.
        work: what the upstream can have done: none, unknown or done.
        status: HTTP status it answered, 0 for none.
        reason: what it said, redacted.
        started_ms: after the start of the exchange.
        first_ms: from there to the first event, 0 for none.
        took_ms: from there to its end.
        billing: ``unknown`` for work that may be billed although it came to nothing.
        tokens: estimated tokens at stake then.
    """

    provider: str
    model: str
    key: str
    egress: str = "direct"
    outcome: str = "started"
    work: str = "none"
    status: int = 0
    reason: str = ""
    started_ms: int = 0
    first_ms: int = 0
    took_ms: int = 0
    billing: str = ""
    tokens: int = 0


class ExchangeRow(Struct, frozen=True, omit_defaults=True, tag="settled"):
    """One line of the ledger: an exchange, settled.

    Attributes:
        id: request id.
        at: when it began.
        caller: id of the client key.
        format: of the client.
        operation: see `keymux.core.vocabulary.Operation`.
        asked: the model as the client named it.
        model: public id of the model, empty when none was found.
        stream: whether the client wanted a stream.
        outcome: how it ended.
        fault: code of the fault the client was told, if any.
        status: HTTP status the client got; 0 for none.
        provider: that served it; empty when none did.
        key: id of the upstream key that served it.
        attempts: all of them, in order.
        usage: tokens by class.
        quality: how well they are known.
        cost_micros: in millionths of a dollar; None when unknown.
        bound_micros: highest cost possible where the tokens are unknown.
        first_ms: until the first event went to the client; 0 for none.
        took_ms: until the end.
        upstream_id: the upstream's request id.
        overhead_us: microseconds of it that no attempt was running; for the metrics, not stored.
    """

    id: str
    at: int
    caller: str
    format: str
    operation: str
    asked: str
    model: str
    stream: bool
    outcome: Outcome
    fault: str = ""
    status: int = 0
    provider: str = ""
    key: str = ""
    attempts: tuple[AttemptRecord, ...] = ()
    usage: Usage = Usage()
    quality: Quality = Quality.FINAL
    cost_micros: int | None = None
    bound_micros: int | None = None
    first_ms: int = 0
    took_ms: int = 0
    upstream_id: str = ""
    overhead_us: int = 0


class Reservation(Struct, frozen=True, omit_defaults=True, tag="reserved"):
    """An exchange that was admitted and is not settled yet."""

    id: str
    at: int
    caller: str
    format: str
    operation: str
    asked: str
    model: str
    stream: bool
    prompt_tokens: int = 0
    bound_micros: int | None = None


class AttemptStarted(Struct, frozen=True, omit_defaults=True, tag="attempt"):
    """An attempt is about to be sent."""

    id: str
    attempt: AttemptRecord


class Promotion(Struct, frozen=True):
    """A backup key that took over for a dead key."""

    provider: str
    dead_key: str
    new_key: KeyRecord


class AuditRow(Struct, frozen=True):
    """Who changed what."""

    seq: int
    at: int
    actor: str
    action: str
    provider: str
    subject: str
    before: str
    after: str
    reason: str


class UsageLine(Struct, frozen=True):
    """Usage added up over some exchanges."""

    group: tuple[str, ...]
    exchanges: int
    failed: int
    usage: Usage
    cost_micros: int
    unpriced: int
