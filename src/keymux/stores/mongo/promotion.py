"""Promotion: a backup key takes over for a dead key, once, whoever asks how often.

Each death of a key has a name, its *claim*: the key and how many times it was replaced before. A
spare takes the claim first, and a unique index lets only one spare have it. Then the spare's key
gets the dead key's bindings and joins the pool, then the dead key is marked, then it is audited.
Whoever asks next finds the claim and goes on from where a process died. Only the line of the audit
can be left over, which `Promoter.finish` writes. There is no transaction around it: with many dead
keys in several processes, most of them would be aborted and begin again.
"""

from msgspec import Struct
from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from keymux.core.records import BackupKeyRecord, KeyRecord
from keymux.core.secrets import hash_of
from keymux.ids import record_id
from keymux.stores.mongo import audit, counters, inheritance, keys
from keymux.stores.mongo.database import Database, Stored, collection_name
from keymux.stores.mongo.documents import Id, backup_record, key_document
from keymux.stores.mongo.fields import date, moment, name_of, named
from keymux.stores.mongo.reading import Reader, sealed
from keymux.stores.mongo.writing import as_found, insert_new

UNUSED = {"isUsed": {"$nin": [True, 1]}}
USED = {"isUsed": {"$in": [True, 1]}}
_AGE = [("createdAt", ASCENDING), ("_id", ASCENDING)]
_FEW = 10
_KEEPER = "keymux"


class _Death(Struct, frozen=True):
    """A dead key that is to be replaced.

    Attributes:
        record: the key.
        document: as it was found.
        claim: the name of this death.
        at: when it is replaced.
        actor: by whom.
    """

    provider: str
    record: KeyRecord
    document: Stored
    claim: str
    at: int
    actor: str


class Promoter:
    """Lets backup keys take over.

    Args:
        database: where they are.
        reader: of documents.
    """

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def promote(self, provider: str, dead_key: str, when: tuple[int, str]) -> str | None:
        """Let the oldest unused spare take over; gives the new key's id, None without one."""
        found = await keys.find(self._database, self._reader, provider, dead_key)
        if found is None:
            return None
        record, document = found
        if record.replaced_by:
            return record.replaced_by
        claim = _claim(record, keys.replacements(document))
        death = _Death(provider, record, document, claim, *when)
        heir = await self._heir(death)
        if heir is None and "replacements" not in document:
            heir = await self._earlier_heir(death)
        if heir is not None:
            await self._mark_the_dead(death, heir)
            await self._audit(death, heir)
            return heir
        while (spare := await self._claimed(death)) is not None:
            spare_id, backup = spare
            key_id = await self._joined(death, spare_id, backup)
            if key_id is not None:
                await self._mark_the_dead(death, key_id)
                await self._audit(death, key_id)
                return key_id
            await self._pass_over(death, spare_id)
        return None

    async def _heir(self, death: _Death) -> str | None:
        """The key that has joined for this death already; None without one."""
        pool = self._database.collection(collection_name(death.provider, "keys"))
        heir = await pool.find_one(_with(death.claim), projection={"_id": True})
        return None if heir is None else name_of(heir)

    async def _earlier_heir(self, death: _Death) -> str | None:
        """The key that took over before there was keymux, as the spares tell; None without one."""
        spares = self._database.collection(collection_name(death.provider, "backup_keys"))
        pool = self._database.collection(collection_name(death.provider, "keys"))
        used = {**named(death.record.id, "usedFor"), **USED, "claim": None}
        async for spare in spares.find(used):
            if digest := spare.get("keyHash"):
                same = {"keyHash": {"$eq": digest, "$type": "string"}}
                heir = await pool.find_one(same, projection={"_id": True})
                if heir is not None and heir["_id"] != death.document["_id"]:
                    return name_of(heir)
        return None

    # -- the spare -----------------------------------------------------------------------------
    async def _claimed(self, death: _Death) -> tuple[Id, BackupKeyRecord] | None:
        """The spare that has the claim; the oldest one gets it now if none has."""
        name = collection_name(death.provider, "backup_keys")
        collection = self._database.collection(name)
        while True:
            claimed = await collection.find_one(_with(death.claim))
            if claimed is not None:
                record = self._reader.record(name, backup_record, claimed)
                if record is not None:
                    return claimed["_id"], record
                await self._pass_over(death, claimed["_id"])
            oldest = await self._oldest(name)
            if oldest is None:
                return None
            document, record = oldest
            if await self._takes(death, document):
                return document["_id"], record

    async def _oldest(self, name: str) -> tuple[Stored, BackupKeyRecord] | None:
        """The oldest spare that can be used; no other secret is opened."""
        spares = self._database.collection(name).find(UNUSED, sort=_AGE, batch_size=_FEW)
        async with spares:
            async for document in spares:
                record = self._reader.record(name, backup_record, document)
                if record is not None:
                    return document, record
        return None

    async def _takes(self, death: _Death, document: Stored) -> bool:
        """Give the claim to a spare; False if somebody else came first, here or there."""
        name = collection_name(death.provider, "backup_keys")
        used = {
            "claim": death.claim,
            "isUsed": True,
            "activated": True,
            "usedFor": death.document["_id"],
            "usedAt": date(death.at),
        }
        try:
            done = await self._database.collection(name).update_one(
                as_found(document, "isUsed", "claim"), {"$set": used}
            )
        except DuplicateKeyError:
            return False
        return done.matched_count == 1

    async def _joined(self, death: _Death, spare_id: Id, spare: BackupKeyRecord) -> str | None:
        """Put the spare's key into the pool; None if its secret was there before."""
        name = collection_name(death.provider, "keys")
        pool = self._database.collection(name)
        while True:
            digest = hash_of(spare.secret)
            same = {"keyHash": {"$eq": digest, "$type": "string"}}
            wanted = {"$or": [same, {"_id": spare_id}, _with(death.claim)]}
            found = await pool.find(wanted).to_list()
            for known in found:
                if known.get("claim") == death.claim:
                    return name_of(known)
                if known.get("keyHash") == digest:
                    return None
            key_id = record_id("key") if found else spare_id
            fresh = KeyRecord(
                id=str(key_id), secret=spare.secret, label=spare.label, created_at=death.at
            )
            document = {**key_document(name, key_id, fresh, death.at), "claim": death.claim}
            await self._bequeath(death, key_id)
            if await insert_new(pool, sealed(self._database.vault, name, [document]), None):
                await self._bequeath(death, key_id)  # should they be mended away in between

    async def _bequeath(self, death: _Death, key_id: Id) -> None:
        when = (death.claim, death.at)
        await inheritance.bequeath(self._database, death.provider, death.record.id, key_id, when)

    async def _pass_over(self, death: _Death, spare_id: Id) -> None:
        """It would bring nothing, now and later."""
        name = collection_name(death.provider, "backup_keys")
        await self._database.collection(name).update_one(
            {"_id": spare_id, "claim": death.claim},
            {"$set": {"activated": False, "usedFor": ""}, "$unset": {"claim": True}},
        )

    # -- the dead key --------------------------------------------------------------------------
    async def _mark_the_dead(self, death: _Death, key_id: str) -> None:
        pool = self._database.collection(collection_name(death.provider, "keys"))
        marked = {
            "replacedBy": {"$literal": key_id},
            "updatedAt": date(death.at),
            "replacements": keys.replacements(death.document) + 1,
            "revision": counters.raised("$revision", 1),
        }
        await pool.update_one(as_found(death.document, "replacements"), [{"$set": marked}])

    async def _audit(self, death: _Death, key_id: str) -> None:
        promoted = audit.Entry(
            id=_audit_id(death.provider, death.claim),
            at=death.at,
            actor=death.actor,
            action="backup.promote",
            provider=death.provider,
            subject=key_id,
            before=death.record.id,
            after=key_id,
            reason=death.record.state.reason,
        )
        joined = audit.Entry(
            id=f"joined:{death.provider}:{death.claim}",
            at=death.at,
            actor=death.actor,
            action="key.add",
            provider=death.provider,
            subject=key_id,
        )
        await audit.write(self._database, [joined, promoted], None)

    # -- what a process left -------------------------------------------------------------------
    async def finish(self, provider: str) -> None:
        """Audit promotions that are done but were never audited."""
        pool = self._database.collection(collection_name(provider, "keys"))
        joined = {
            _audit_id(provider, document["claim"]): document
            async for document in pool.find({"claim": {"$type": "string"}})
        }
        for entry_id in await audit.known(self._database, joined, None):
            del joined[entry_id]
        names = [name_of(document) for document in joined.values()]
        replaced = {
            document["replacedBy"]: document
            async for document in pool.find({"replacedBy": {"$in": names}})
        }
        entries = [
            audit.Entry(
                id=entry_id,
                at=moment(document, "createdAt") or keys.now_ms(),
                actor=_KEEPER,
                action="backup.promote",
                provider=provider,
                subject=name_of(document),
                before=name_of(replaced[name_of(document)]),
                after=name_of(document),
            )
            for entry_id, document in joined.items()
            if name_of(document) in replaced
        ]
        await audit.write(self._database, entries, None)


def _claim(record: KeyRecord, replacements: int) -> str:
    return f"{record.id}/{record.created_at}/{replacements}"


def _with(claim: str) -> Stored:
    """What finds a claim by its index, which covers texts alone."""
    return {"claim": {"$eq": claim, "$type": "string"}}


def _audit_id(provider: str, claim: str) -> str:
    return f"promotion:{provider}:{claim}"
