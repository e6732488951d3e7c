"""Client keys, of which only the hash is kept."""

from keymux.core.records import ClientKeyRecord
from keymux.stores.mongo import audit
from keymux.stores.mongo.database import Database, Session
from keymux.stores.mongo.documents import client_document, client_record
from keymux.stores.mongo.fields import date, named
from keymux.stores.mongo.keys import now_ms
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.writing import insert_new, without_known
from keymux.stores.port import NoSuchRecord

CLIENTS = "client_keys"


class MongoClientKeys:
    """See `keymux.stores.port.ClientKeys`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def load(self) -> list[ClientKeyRecord]:
        """All of them, oldest first, revoked ones too."""

        async def work() -> list[ClientKeyRecord]:
            documents = await self._database.collection(CLIENTS).find().to_list()
            found = self._reader.records(CLIENTS, client_record, documents)
            return sorted(found, key=lambda record: (record.created_at, record.id))

        return await self._database.run(work)

    async def add(self, record: ClientKeyRecord, actor: str) -> bool:
        """Insert one; False if its hash is known already."""

        async def work(session: Session) -> bool:
            collection = self._database.collection(CLIENTS)
            documents = [client_document(record, now_ms())]
            fresh = await without_known(collection, documents, session)
            if not await insert_new(collection, fresh, session):
                return False
            await self._audit(actor, "client.add", record.id, session)
            return True

        return await self._database.transact(work)

    async def revoke(self, key_id: str, *, at: int, actor: str) -> None:
        """Never accept it again.

        Raises:
            NoSuchRecord: there is no such client key.
        """

        async def work(session: Session) -> None:
            collection = self._database.collection(CLIENTS)
            done = await collection.update_one(
                {**named(key_id), "revokedAt": None},
                {"$set": {"revokedAt": date(at)}},
                session=session,
            )
            if not done.matched_count and not await collection.find_one(
                named(key_id), session=session
            ):
                raise NoSuchRecord(key_id)
            await self._audit(actor, "client.revoke", key_id, session)

        await self._database.transact(work)

    async def _audit(self, actor: str, action: str, subject: str, session: Session) -> None:
        entry = audit.Entry(at=now_ms(), actor=actor, action=action, provider="", subject=subject)
        await audit.write(self._database, [entry], session)
