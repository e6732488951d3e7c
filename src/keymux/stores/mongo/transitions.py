"""Changes of health that processes report: of keys and of providers."""

from collections.abc import Iterable, Sequence

from pymongo import UpdateOne

from keymux.core.records import KeyRecord, Transition
from keymux.stores.mongo import audit, keys
from keymux.stores.mongo.database import Database, Stored, collection_name
from keymux.stores.mongo.documents import key_record, provider_fields
from keymux.stores.mongo.fields import any_named
from keymux.stores.mongo.reading import Reader
from keymux.stores.port import StoreUnavailable, StoreUnusable
from keymux.stores.states import after_transition, reason_of

PROVIDERS = "provider_states"
_TRIES = 20
_DECIDED = ["quarantined", "disabled"]


async def apply(database: Database, reader: Reader, transitions: Sequence[Transition]) -> None:
    """Change what transitions are about, then audit them; those that were audited are left alone.

    In this order, so that whoever reads the audit finds the change. There is no transaction: each
    step may be repeated, and many processes that change keys at once would only abort each other.
    """
    known = await audit.known(database, [one.id for one in transitions], None)
    fresh = {one.id: one for one in transitions if one.id not in known}
    for provider, those in _by_provider(fresh.values()).items():
        await _change_keys(database, reader, provider, those)
    for one in fresh.values():
        await _change_provider(database, one)
    await audit.write(database, [_entry(one) for one in fresh.values()], None)


def _by_provider(transitions: Iterable[Transition]) -> dict[str, list[Transition]]:
    found: dict[str, list[Transition]] = {}
    for one in transitions:
        if one.provider_state is None:
            found.setdefault(one.provider, []).append(one)
    return found


def _entry(transition: Transition) -> audit.Entry:
    of_key = transition.provider_state is None
    return audit.Entry(
        id=transition.id,
        at=transition.at,
        actor=transition.actor,
        action="key.transition" if of_key else "provider.transition",
        provider=transition.provider,
        subject=transition.key if of_key else transition.provider,
        before=transition.before.value,
        after=transition.after.value,
        reason=reason_of(transition) if of_key else transition.reason,
    )


# -- keys ------------------------------------------------------------------------------------------
async def _change_keys(
    database: Database,
    reader: Reader,
    provider: str,
    transitions: Sequence[Transition],
) -> None:
    try:
        name = collection_name(provider, "keys")
    except StoreUnusable:
        return  # from a config of long ago
    collection = database.collection(name)
    for _ in range(_TRIES):
        wanted = any_named({one.key for one in transitions})
        documents = await collection.find(wanted).to_list()
        updates = list(_updates(reader, name, documents, transitions))
        if not updates:
            return
        done = await collection.bulk_write(updates, ordered=False)
        if done.matched_count == len(updates):
            return
        # somebody changed a key in between: what was written is found as it is now
    raise StoreUnavailable(f"{database.where}: too many others change the keys of {provider}")


def _updates(
    reader: Reader, name: str, documents: Iterable[Stored], transitions: Sequence[Transition]
) -> Iterable[UpdateOne]:
    for document in documents:
        record = reader.record(name, key_record, document)
        if record is None:
            continue
        after = _after_all(record, transitions)
        if after != record:
            yield keys.state_update(document, after, reader.resealed(name, document))


def _after_all(record: KeyRecord, transitions: Sequence[Transition]) -> KeyRecord:
    for one in transitions:
        if one.key == record.id:
            record = after_transition(record, one) or record
    return record


# -- providers -------------------------------------------------------------------------------------
async def _change_provider(database: Database, transition: Transition) -> None:
    state = transition.provider_state
    if state is None:
        return
    await database.collection(PROVIDERS).update_one(
        {
            "_id": transition.provider,
            "generation": {"$lte": state.generation},
            "status": {"$nin": _DECIDED},
        },
        {"$set": provider_fields(state, transition.at)},
    )
