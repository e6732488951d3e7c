"""Upstream keys: a collection for each provider."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pymongo import UpdateOne

from keymux.core.health import Event, Status
from keymux.core.records import KeyRecord
from keymux.stores.mongo import audit, inheritance
from keymux.stores.mongo.booking import Booking
from keymux.stores.mongo.database import Database, Session, Stored, collection_name
from keymux.stores.mongo.documents import key_document, key_record, state_fields
from keymux.stores.mongo.fields import WrongField, any_named, name_of, named, number
from keymux.stores.mongo.reading import Reader, sealed
from keymux.stores.mongo.writing import (
    IN_ONE_TRANSACTION,
    as_found,
    insert_new,
    portions,
    without_known,
)
from keymux.stores.port import NoSuchRecord, StoreUnavailable
from keymux.stores.states import after_operator, seen

_TRIES = 20


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class MongoKeys:
    """See `keymux.stores.port.Keys`."""

    def __init__(self, database: Database, reader: Reader, booking: Booking) -> None:
        self._database = database
        self._reader = reader
        self._booking = booking

    async def load(self, provider: str) -> list[KeyRecord]:
        """All of them, oldest first; of several documents with one secret the oldest."""
        name = collection_name(provider, "keys")

        async def work() -> list[KeyRecord]:
            wanted = self._database.collection(name).find(projection={"counting": False})
            found = self._reader.records(name, key_record, await wanted.to_list())
            return self._each_secret_once(name, sorted(found, key=_age))

        await self._booking.add_before_reading()
        return await self._database.run(work)

    def _each_secret_once(self, name: str, records: Iterable[KeyRecord]) -> list[KeyRecord]:
        """A provider counts by secret: used as two keys, one would be sent to while it cools."""
        first: dict[str, KeyRecord] = {}
        for record in records:
            twin = first.setdefault(record.secret, record)
            if twin is not record:
                self._reader.tell(
                    f"{name}: the document {record.id!r} is left out: "
                    f"{twin.id!r} holds the same upstream key"
                )
        return list(first.values())

    async def find(self, provider: str, key_id: str) -> KeyRecord | None:
        """One of them."""

        async def work() -> KeyRecord | None:
            found = await find(self._database, self._reader, provider, key_id)
            return None if found is None else found[0]

        await self._booking.add_before_reading()
        return await self._database.run(work)

    async def find_some(self, provider: str, key_ids: Collection[str]) -> list[KeyRecord]:
        """Those of some that are there and can be opened, in any order."""
        name = collection_name(provider, "keys")

        async def work() -> list[KeyRecord]:
            documents = await self._database.collection(name).find(any_named(key_ids)).to_list()
            return self._reader.records(name, key_record, documents)

        return await self._database.run(work)

    async def add(self, provider: str, records: Sequence[KeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is not known yet; gives the ids that were inserted."""
        name, now = collection_name(provider, "keys"), now_ms()
        documents = [key_document(name, record.id, record, now) for record in records]

        async def work(portion: Sequence[Stored], session: Session) -> list[str]:
            return await insert(self._database, provider, portion, actor, session)

        done: list[str] = []
        for portion in portions(documents, IN_ONE_TRANSACTION):
            done += await self._database.transact(partial(work, portion))
        return done

    async def change(
        self, provider: str, key_id: str, event: Event, *, actor: str, reason: str
    ) -> KeyRecord:
        """An operator's DISABLE, ENABLE, RESET or RESTORE.

        Raises:
            NoSuchRecord: there is no such key.
        """

        async def work(session: Session) -> KeyRecord:
            before, after = await self._decide(provider, key_id, event, reason, session)
            entry = audit.Entry(
                at=after.updated_at,
                actor=actor,
                action=f"key.{event}",
                provider=provider,
                subject=key_id,
                before=seen(before.state).status,
                after=seen(after.state).status,
                reason=reason,
            )
            await audit.write(self._database, [entry], session)
            return after

        return await self._database.transact(work)

    async def _decide(
        self, provider: str, key_id: str, event: Event, reason: str, session: Session
    ) -> tuple[KeyRecord, KeyRecord]:
        """Change a key; gives how it was and how it is."""
        for _ in range(_TRIES):
            found = await find(self._database, self._reader, provider, key_id, session)
            if found is None:
                raise NoSuchRecord(key_id)
            before, document = found
            after = after_operator(before, event, reason=reason, at=now_ms())
            if await self._put(provider, document, after, session):
                return before, after
        raise StoreUnavailable(f"{self._database.where}: too many others change {key_id}")

    async def _put(
        self, provider: str, document: Stored, after: KeyRecord, session: Session
    ) -> bool:
        name = collection_name(provider, "keys")
        done = await self._database.collection(name).bulk_write(
            [
                state_update(
                    document,
                    after,
                    self._reader.resealed(name, document),
                    is_new_life=after.state.status is Status.HEALTHY,
                )
            ],
            session=session,
        )
        return done.matched_count == 1

    async def remove(self, provider: str, key_id: str, actor: str) -> None:
        """Delete one.

        Raises:
            NoSuchRecord: there is no such key.
        """

        async def work(session: Session) -> None:
            await self._hand_over(provider, key_id, actor, session)
            if not await delete(self._database, provider, named(key_id), actor, session):
                raise NoSuchRecord(key_id)

        await self._database.transact(work)

    async def _hand_over(self, provider: str, key_id: str, actor: str, session: Session) -> None:
        """Give the key that took over the bindings that it lacks."""
        pool = self._database.collection(collection_name(provider, "keys"))
        document = await pool.find_one(named(key_id), session=session)
        try:
            new = name_of(document, "replacedBy") if document else ""
        except WrongField:
            new = ""
        heir = await pool.find_one(named(new), {"_id": True}, session=session) if new else None
        if heir is None:
            return
        proxies = await inheritance.hand_over(
            self._database, provider, key_id, heir["_id"], session
        )
        entries = [
            audit.Entry(
                at=now_ms(),
                actor=actor,
                action="binding.add",
                provider=provider,
                subject=new,
                after=proxy,
            )
            for proxy in proxies
        ]
        await audit.write(self._database, entries, session)


def _age(record: KeyRecord) -> tuple[int, str]:
    return record.created_at, record.id


async def find(
    database: Database, reader: Reader, provider: str, key_id: str, session: Session = None
) -> tuple[KeyRecord, Stored] | None:
    """A key and its document, or None."""
    name = collection_name(provider, "keys")
    document = await database.collection(name).find_one(named(key_id), session=session)
    record = document and reader.record(name, key_record, document)
    return (record, document) if record and document else None


def replacements(document: Stored) -> int:
    """How often a key was replaced, or trusted again; 0 for what is no number."""
    try:
        return number(document, "replacements")
    except WrongField:
        return 0


def state_update(
    document: Stored, record: KeyRecord, resealed: Mapping[str, str], *, is_new_life: bool = False
) -> UpdateOne:
    """Write the health of a key, unless somebody else did so meanwhile.

    Args:
        document: as it was found.
        record: as it is to be.
        resealed: a secret that is sealed on this occasion, by its field.
        is_new_life: an operator trusts it again: a promotion under way is about another death.
    """
    unchanged = as_found(document, "revision", "status", "generation", *resealed)
    revision = document.get("revision")
    changed = {
        **state_fields(record),
        **resealed,
        **({"replacements": replacements(document) + 1} if is_new_life else {}),
        # what is no number was written by somebody else
        "revision": revision + 1 if isinstance(revision, int | float) else 1,
    }
    return UpdateOne(unchanged, {"$set": changed})


async def insert(
    database: Database, provider: str, documents: Sequence[Stored], actor: str, session: Session
) -> list[str]:
    """Add keys unless their secret or id is there; gives the ids of those that were added."""
    name = collection_name(provider, "keys")
    collection = database.collection(name)
    fresh = sealed(database.vault, name, await without_known(collection, documents, session))
    done = [str(document["_id"]) for document in await insert_new(collection, fresh, session)]
    now = now_ms()
    entries = [
        audit.Entry(at=now, actor=actor, action="key.add", provider=provider, subject=key_id)
        for key_id in done
    ]
    await audit.write(database, entries, session)
    return done


async def delete(
    database: Database, provider: str, wanted: dict[str, Any], actor: str, session: Session
) -> bool:
    """Remove a key, and then its bindings; False if it was not there."""
    collection = database.collection(collection_name(provider, "keys"))
    gone = await collection.find_one_and_delete(wanted, projection={"_id": True}, session=session)
    if gone is None:
        return False
    entry = audit.Entry(
        at=now_ms(),
        actor=actor,
        action="key.remove",
        provider=provider,
        subject=str(gone["_id"]),
    )
    await audit.write(database, [entry], session)
    await inheritance.drop(database, provider, str(gone["_id"]), session)
    return True
