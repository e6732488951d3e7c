"""Secrets as they are stored, and the known answers that prove a key ring."""

import time
from collections.abc import Sequence

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from keymux.stores.mongo import audit
from keymux.stores.mongo.database import Database, Session, Stored, collection_name
from keymux.stores.mongo.fields import named
from keymux.stores.mongo.layout import META
from keymux.stores.mongo.transitions import PROVIDERS
from keymux.stores.sealing.port import OF_PROVIDERS, SHARED, Change, Secret
from keymux.stores.sealing.vault import Place, is_sealed, key_id_of

_PREFIX = "key/"
_FIRST = "first_key"
_ENDINGS = tuple(f"_{kind}" for kind in OF_PROVIDERS)


class MongoAnswers:
    """See `keymux.stores.sealing.port.Answers`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[str, str]:
        """By key id."""

        async def work() -> dict[str, str]:
            found = self._database.lasting(META).find({"_id": {"$regex": f"^{_PREFIX}"}})
            return {one["_id"].removeprefix(_PREFIX): one["answer"] async for one in found}

        return await self._database.run(work)

    async def add(self, kid: str, answer: str, *, is_first: bool, actor: str) -> bool:
        """Add one; False if it was to be the first and somebody else's is there."""

        async def work() -> bool:
            if is_first and not await self._is_first(kid):
                return False
            await self._database.collection(META).update_one(
                {"_id": _PREFIX + kid}, {"$setOnInsert": {"answer": answer}}, upsert=True
            )
            return True

        done = await self._database.run(work)
        if done and actor:
            await _audit(self._database, "secrets.key", kid, actor)
        return done

    async def _is_first(self, kid: str) -> bool:
        """Whether a key is the first of all, which only one can be."""
        meta = self._database.collection(META)
        try:
            await meta.insert_one({"_id": _FIRST, "kid": kid})
        except DuplicateKeyError:
            found = await meta.find_one({"_id": _FIRST, "kid": kid})
            return found is not None
        return True

    async def remove(self, kid: str, actor: str) -> bool:
        """Remove one, and audit it; False if a secret is sealed with that key."""
        secrets = MongoSecrets(self._database)
        for collection in await secrets.collections():
            if any(key_id_of(secret.stored) == kid for secret in await secrets.load(collection)):
                return False

        async def work() -> bool:
            gone = await self._database.collection(META).delete_one({"_id": _PREFIX + kid})
            return gone.deleted_count == 1

        if await self._database.run(work):
            await _audit(self._database, "secrets.retire", kid, actor)
        return True


class MongoSecrets:
    """See `keymux.stores.sealing.port.Secrets`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._others: frozenset[str] = frozenset()

    async def collections(self) -> list[str]:
        """Those that hold secrets, also of providers that no config names."""

        async def work() -> list[str]:
            listed = self._database.collection(PROVIDERS).find(projection={"_id": True})
            names = sorted([str(one["_id"]) async for one in listed])
            own = [collection_name(name, kind) for name in names for kind in OF_PROVIDERS]
            listing = await self._database.database.list_collections()
            every = [one["name"] async for one in listing if one.get("type") == "collection"]
            others = [name for name in every if name not in own and await self._has_keys(name)]
            self._others = frozenset(others)
            return [*own, *sorted(others), *SHARED]

        return await self._database.run(work)

    async def _has_keys(self, name: str) -> bool:
        if not name.endswith(_ENDINGS) or name in SHARED:
            return False
        wanted = {"apiKey": {"$type": "string"}}
        return await self._database.collection(name).find_one(wanted) is not None

    async def load(self, collection: str) -> list[Secret]:
        """The secrets of one, but for documents that keymux does not use."""
        field = SHARED.get(collection, "apiKey")
        return [
            Secret(Place(collection, str(one["_id"]), field), one[field])
            for one in await self._documents(collection, field)
            if _is_ours(one, field) and not self._is_foreign(collection, one[field])
        ]

    def _is_foreign(self, collection: str, stored: str) -> bool:
        """Whether it may be somebody else's: no provider has that name, and we never sealed it."""
        return collection in self._others and not is_sealed(stored)

    async def passed_over(self, collection: str) -> list[str]:
        """Documents that have a secret and are not used, a line each."""
        field = SHARED.get(collection, "apiKey")
        documents = await self._documents(collection, field)
        foreign = sum(
            _is_ours(one, field) and self._is_foreign(collection, one[field]) for one in documents
        )
        unknown = (
            f"{collection}: {foreign} secrets are not sealed: no provider of that name is in the "
            "config; name it there, or remove the collection"
        )
        return [unknown] * bool(foreign) + [
            f"{collection}: the document {one['_id']!r} is not used, its {field} left as it is: "
            "the _id must be a text or an ObjectId, the secret a text"
            for one in documents
            if not _is_ours(one, field)
        ]

    async def _documents(self, collection: str, field: str) -> list[Stored]:
        """Those with a text, or a list of texts, in a field."""
        wanted = {field: {"$type": "string"}}
        return await self._database.run(
            lambda: (
                self._database.collection(collection)
                .find(wanted, projection={field: True})
                .to_list()
            )
        )

    async def replace(self, changes: Sequence[Change]) -> int:
        """Store secrets otherwise; gives how many were as they should be before."""
        by_collection: dict[str, list[UpdateOne]] = {}
        for change in changes:
            place = change.place
            update = UpdateOne(
                {**named(place.id), place.field: change.before},
                {"$set": {place.field: change.after}},
            )
            by_collection.setdefault(place.collection, []).append(update)

        async def work() -> int:
            done = 0
            for name, updates in by_collection.items():
                found = self._database.collection(name)
                done += (await found.bulk_write(updates, ordered=False)).matched_count
            return done

        return await self._database.run(work)

    async def wipe(self) -> str:
        """Nothing can be wiped from outside of the server."""
        return (
            "the server's oplog, journal and files until it writes over them, and earlier backups"
        )

    async def audit(self, action: str, subject: str, actor: str) -> None:
        """Write down what an operator did."""
        await _audit(self._database, action, subject, actor)


def _is_ours(document: Stored, field: str) -> bool:
    return isinstance(document["_id"], str | ObjectId) and isinstance(document[field], str)


async def _audit(database: Database, action: str, subject: str, actor: str) -> None:
    entry = audit.Entry(
        at=time.time_ns() // 1_000_000, actor=actor, action=action, provider="", subject=subject
    )

    async def work(session: Session) -> None:
        await audit.write(database, [entry], session)

    await database.transact(work)
