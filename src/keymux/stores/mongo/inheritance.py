"""What becomes of bindings when a backup key takes over for a key, or when a key goes.

A key that lost its bindings would go directly. So a key has them before it is in the pool, and they
are deleted after it is gone. Where that is cut off there is a binding too many, and none missing.
"""

from hashlib import sha256

from keymux.ids import record_id
from keymux.stores.mongo.database import Collection, Database, Session, Stored, collection_name
from keymux.stores.mongo.documents import Id
from keymux.stores.mongo.egress_documents import key_field, key_of, proxy_of
from keymux.stores.mongo.fields import date, named
from keymux.stores.mongo.writing import insert_new


async def bequeath(
    database: Database, provider: str, source: str, target: Id, death: tuple[str, int]
) -> None:
    """Give a key that is about to join the bindings of a dead one.

    Whoever does it again for the same death makes nothing twice.

    Args:
        database: where.
        provider: of both keys.
        source: the dead key.
        target: the key that joins.
        death: its name, and when the key joins.
    """
    claim, at = death
    documents = [
        {**one, "_id": _id_for(claim, target, one["_id"]), "createdAt": date(at)}
        for one in await _lacking(database, provider, source, target, None)
    ]
    await insert_new(_bindings(database, provider), documents, None)


def _id_for(claim: str, target: Id, binding: object) -> str:
    return f"bnd_{sha256(f'{claim}/{target}/{binding}'.encode()).hexdigest()[:20]}"


async def hand_over(
    database: Database, provider: str, source: str, target: Id, session: Session
) -> list[str]:
    """Give a key the bindings of another one that it lacks; gives their proxies."""
    documents = [
        {**one, "_id": record_id("bnd")}
        for one in await _lacking(database, provider, source, target, session)
    ]
    done = await insert_new(_bindings(database, provider), documents, session)
    return [proxy_of(document) for document in done]


async def drop(database: Database, provider: str, key_id: str, session: Session) -> int:
    """Delete the bindings of a key; gives how many there were."""
    done = await _bindings(database, provider).delete_many(
        named(key_id, key_field(provider)), session=session
    )
    return done.deleted_count


async def _lacking(
    database: Database, provider: str, source: str, target: Id, session: Session
) -> list[Stored]:
    """The documents of one key's bindings as another one's, without those that are there."""
    known = {proxy_of(one) for one in await _of(database, provider, str(target), session)}
    found: list[Stored] = []
    for document in await _of(database, provider, source, session):
        proxy = proxy_of(document)
        if proxy not in known:
            known.add(proxy)
            found.append({**document, key_field(provider): target})
    return found


async def _of(database: Database, provider: str, key_id: str, session: Session) -> list[Stored]:
    wanted = named(key_id, key_field(provider))
    found = await _bindings(database, provider).find(wanted, session=session).to_list()
    return [document for document in found if key_of(provider, document) == key_id]


def _bindings(database: Database, provider: str) -> Collection:
    return database.collection(collection_name(provider, "bindings"))
