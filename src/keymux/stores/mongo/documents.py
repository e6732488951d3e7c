"""Documents and the records they stand for; the only place where an upstream key is in the clear.

Unknown fields stay in the database and are never read; missing ones have their defaults. Moments
are dates in the database and milliseconds in records.
"""

from typing import Any

from bson import ObjectId

from keymux.core.health import Status
from keymux.core.records import (
    BackupKeyRecord,
    ClientKeyRecord,
    KeyRecord,
    KeyState,
    ProviderState,
    Shade,
)
from keymux.core.secrets import hash_of
from keymux.stores.mongo.fields import (
    Document,
    WrongField,
    date,
    flag,
    moment,
    name_of,
    number,
    text,
    texts,
)
from keymux.stores.states import Seen, seen, status_of, unseen

Id = str | ObjectId


# -- secrets ---------------------------------------------------------------------------------------
def read_secret(collection: str, document: Document) -> str:  # noqa: ARG001 -- what a seal is bound to
    """The upstream key in a document."""
    secret = text(document, "apiKey")
    if not secret:
        raise WrongField("apiKey")
    return secret


def with_secret(collection: str, record_id: Id, secret: str) -> dict[str, Any]:  # noqa: ARG001 -- as above
    """The fields that keep an upstream key, and find it again."""
    return {"apiKey": secret, "keyHash": hash_of(secret)}


# -- upstream keys ---------------------------------------------------------------------------------
def key_record(collection: str, document: Document) -> KeyRecord:
    """An upstream key.

    Raises:
        WrongField: the document cannot be understood.
    """
    return KeyRecord(
        id=_id(document),
        secret=read_secret(collection, document),
        state=_key_state(document),
        label=text(document, "label"),
        group=text(document, "quotaGroup"),
        last_error=text(document, "lastError"),
        tokens_used=number(document, "tokensUsed"),
        requests_count=number(document, "requestsCount"),
        replaced_by=name_of(document, "replacedBy"),
        created_at=moment(document, "createdAt") or 0,
        last_used_at=moment(document, "lastUsedAt"),
        updated_at=moment(document, "updatedAt") or 0,
    )


def _id(document: Document) -> str:
    name = name_of(document)
    if not name:
        raise WrongField("_id")
    return name


def _key_state(document: Document) -> KeyState:
    status, until = _status(document), moment(document, "cooldownUntil")
    shades = _shades(document)
    own = unseen(Seen(status, until, text(document, "statusReason")), shades)
    return KeyState(
        status=own.status,
        cooldown_until=own.until,
        reason=own.reason,
        step=number(document, "step"),
        generation=number(document, "generation"),
        failures=number(document, "consecutiveFailures"),
        suspected_at=moment(document, "suspectedAt"),
        shades=shades,
    )


def _status(document: Document) -> Status:
    word = text(document, "status")
    return status_of(word) if word else Status.HEALTHY


def _shades(document: Document) -> dict[str, Shade]:
    """The cooldowns of single models; those that somebody changed into nonsense are passed over."""
    found: dict[str, Shade] = {}
    listed = document.get("modelCooldowns")
    for each in listed if isinstance(listed, list) else []:
        try:
            found[text(each, "model")] = _shade(each)
        except (WrongField, AttributeError):
            continue
    return found


def _shade(document: Document) -> Shade:
    return Shade(
        status=status_of(text(document, "status")),
        until=moment(document, "until"),
        reason=text(document, "reason"),
        step=number(document, "step"),
        whole_group=flag(document, "wholeGroup"),
    )


def key_document(collection: str, record_id: Id, record: KeyRecord, now: int) -> dict[str, Any]:
    """A new upstream key."""
    created = record.created_at or now
    return {
        "_id": record_id,
        **with_secret(collection, record_id, record.secret),
        "label": record.label,
        "quotaGroup": record.group,
        **state_fields(KeyRecord(record.id, "")),
        "tokensUsed": 0,
        "requestsCount": 0,
        "createdAt": date(created),
        "lastUsedAt": None,
        "updatedAt": date(created),
    }


def state_fields(record: KeyRecord) -> dict[str, Any]:
    """The fields that change with the health of a key."""
    state, shown = record.state, seen(record.state)
    return {
        "status": shown.status.value,
        "statusReason": shown.reason,
        "cooldownUntil": date(shown.until),
        "modelCooldowns": [_shade_document(*item) for item in state.shades.items()],
        "step": state.step,
        "generation": state.generation,
        "consecutiveFailures": state.failures,
        "suspectedAt": date(state.suspected_at),
        "lastError": record.last_error,
        "replacedBy": record.replaced_by,
        "updatedAt": date(record.updated_at),
    }


def _shade_document(model: str, shade: Shade) -> dict[str, Any]:
    # in a list, because names of models have dots, which mean something else in names of fields
    return {
        "model": model,
        "status": shade.status.value,
        "until": date(shade.until),
        "reason": shade.reason,
        "step": shade.step,
        "wholeGroup": shade.whole_group,
    }


# -- backup keys -----------------------------------------------------------------------------------
def backup_record(collection: str, document: Document) -> BackupKeyRecord:
    """A backup key.

    Raises:
        WrongField: the document cannot be understood.
    """
    return BackupKeyRecord(
        id=_id(document),
        secret=read_secret(collection, document),
        label=text(document, "label"),
        is_used=flag(document, "isUsed"),
        activated=flag(document, "activated"),
        used_for=name_of(document, "usedFor"),
        used_at=moment(document, "usedAt"),
        created_at=moment(document, "createdAt") or 0,
    )


def backup_document(collection: str, record: BackupKeyRecord, now: int) -> dict[str, Any]:
    """A new backup key."""
    return {
        "_id": record.id,
        **with_secret(collection, record.id, record.secret),
        "label": record.label,
        "isUsed": False,
        "activated": False,
        "usedFor": None,
        "usedAt": None,
        "createdAt": date(record.created_at or now),
    }


# -- client keys -----------------------------------------------------------------------------------
def client_record(collection: str, document: Document) -> ClientKeyRecord:  # noqa: ARG001 -- as the others
    """A client key.

    Raises:
        WrongField: the document cannot be understood.
    """
    digest = text(document, "keyHash")
    if not digest:
        raise WrongField("keyHash")
    return ClientKeyRecord(
        id=_id(document),
        key_hash=digest,
        shown=text(document, "shown"),
        label=text(document, "label"),
        models=texts(document, "models"),
        created_at=moment(document, "createdAt") or 0,
        revoked_at=moment(document, "revokedAt"),
    )


def client_document(record: ClientKeyRecord, now: int) -> dict[str, Any]:
    """A new client key."""
    return {
        "_id": record.id,
        "keyHash": record.key_hash,
        "shown": record.shown,
        "label": record.label,
        "models": list(record.models),
        "createdAt": date(record.created_at or now),
        "revokedAt": None,
    }


# -- providers -------------------------------------------------------------------------------------
def provider_state(collection: str, document: Document) -> ProviderState:  # noqa: ARG001 -- as above
    """The health of a provider as a whole.

    Raises:
        WrongField: the document cannot be understood.
    """
    return ProviderState(
        status=_status(document),
        cooldown_until=moment(document, "cooldownUntil"),
        reason=text(document, "statusReason"),
        step=number(document, "step"),
        generation=number(document, "generation"),
    )


def provider_fields(state: ProviderState, at: int) -> dict[str, Any]:
    """The fields that change with the health of a provider."""
    return {
        "status": state.status.value,
        "cooldownUntil": date(state.cooldown_until),
        "statusReason": state.reason,
        "step": state.step,
        "generation": state.generation,
        "updatedAt": date(at),
    }
