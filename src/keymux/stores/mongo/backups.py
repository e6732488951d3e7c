"""Backup keys: a collection for each provider, and what operators do with them."""

from collections.abc import Sequence
from functools import partial

from keymux.core.records import BackupKeyRecord
from keymux.stores.mongo import audit, keys
from keymux.stores.mongo.database import Database, Session, Stored, collection_name
from keymux.stores.mongo.documents import backup_document, backup_record
from keymux.stores.mongo.fields import named
from keymux.stores.mongo.keys import now_ms
from keymux.stores.mongo.promotion import UNUSED, USED, Promoter
from keymux.stores.mongo.reading import Reader, sealed
from keymux.stores.mongo.writing import (
    IN_ONE_TRANSACTION,
    insert_new,
    names_in,
    portions,
    without_known,
)
from keymux.stores.port import NoSuchRecord

_FREE = {"isUsed": False, "activated": False, "usedFor": None, "usedAt": None}


class MongoBackupKeys:
    """See `keymux.stores.port.BackupKeys`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader
        self._promoter = Promoter(database, reader)

    async def load(self, provider: str) -> list[BackupKeyRecord]:
        """All of them, oldest first."""
        name = collection_name(provider, "backup_keys")

        async def work() -> list[BackupKeyRecord]:
            documents = await self._database.collection(name).find().to_list()
            found = self._reader.records(name, backup_record, documents)
            return sorted(found, key=lambda record: (record.created_at, record.id))

        return await self._database.run(work)

    async def count(self, provider: str) -> tuple[int, int]:
        """How many are spare, and how many were used."""
        collection = self._database.collection(collection_name(provider, "backup_keys"))

        async def work() -> tuple[int, int]:
            return await collection.count_documents(UNUSED), await collection.count_documents(USED)

        return await self._database.run(work)

    async def add(self, provider: str, records: Sequence[BackupKeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is known neither as key nor as backup key; gives their ids."""
        name, now = collection_name(provider, "backup_keys"), now_ms()
        documents = [backup_document(name, record, now) for record in records]

        async def work(portion: Sequence[Stored], session: Session) -> list[str]:
            useful = await self._useful(provider, portion, session)
            fresh = sealed(self._database.vault, name, useful)
            inserted = await insert_new(self._database.collection(name), fresh, session)
            done = [str(document["_id"]) for document in inserted]
            await self._audit(actor, "backup.add", provider, done, session)
            return done

        done: list[str] = []
        for portion in portions(documents, IN_ONE_TRANSACTION):
            done += await self._database.transact(partial(work, portion))
        return done

    async def _useful(
        self, provider: str, documents: Sequence[Stored], session: Session
    ) -> list[Stored]:
        pool = self._database.collection(collection_name(provider, "keys"))
        spares = self._database.collection(collection_name(provider, "backup_keys"))
        _, in_pool = await names_in(pool, session)
        useful = [one for one in documents if one["keyHash"] not in in_pool]
        return await without_known(spares, useful, session)

    async def promote(self, provider: str, dead_key: str, *, at: int, actor: str) -> str | None:
        """Let the oldest unused one take over for a dead key, once; gives the new key's id."""
        return await self._database.run(
            lambda: self._promoter.promote(provider, dead_key, (at, actor))
        )

    async def finish_promotions(self, provider: str) -> None:
        """Audit promotions that a process made and did not live to audit."""
        await self._database.run(lambda: self._promoter.finish(provider))

    async def restore(self, provider: str, backup_id: str, actor: str) -> None:
        """Make a used one a spare again and take its key out of the pool.

        Raises:
            NoSuchRecord: there is no such backup key.
        """
        spares = collection_name(provider, "backup_keys")

        async def work(session: Session) -> None:
            collection = self._database.collection(spares)
            found = await collection.find_one(named(backup_id), session=session)
            if found is None:
                raise NoSuchRecord(backup_id)
            same = {"keyHash": found.get("keyHash", "")}
            await keys.delete(self._database, provider, same, actor, session)
            await collection.update_one(
                named(backup_id), {"$set": _FREE, "$unset": {"claim": True}}, session=session
            )
            await self._audit(actor, "backup.restore", provider, [backup_id], session)

        await self._database.transact(work)

    async def remove(self, provider: str, backup_id: str, actor: str) -> None:
        """Delete one.

        Raises:
            NoSuchRecord: there is no such backup key.
        """
        spares = collection_name(provider, "backup_keys")

        async def work(session: Session) -> None:
            collection = self._database.collection(spares)
            done = await collection.delete_one(named(backup_id), session=session)
            if done.deleted_count != 1:
                raise NoSuchRecord(backup_id)
            await self._audit(actor, "backup.remove", provider, [backup_id], session)

        await self._database.transact(work)

    async def _audit(
        self, actor: str, action: str, provider: str, ids: Sequence[str], session: Session
    ) -> None:
        now = now_ms()
        entries = [
            audit.Entry(at=now, actor=actor, action=action, provider=provider, subject=backup_id)
            for backup_id in ids
        ]
        await audit.write(self._database, entries, session)
