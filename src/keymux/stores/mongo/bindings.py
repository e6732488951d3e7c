"""Bindings: a collection for each provider."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from keymux.core.egress import BindingRecord, Repaired
from keymux.core.secrets import hash_of
from keymux.stores.egress import Successor, clamped, heir
from keymux.stores.mongo import audit, inheritance
from keymux.stores.mongo.database import Database, Session, Stored, collection_name
from keymux.stores.mongo.documents import Id, backup_record
from keymux.stores.mongo.egress_documents import (
    PROXIES,
    binding_document,
    binding_records,
    key_field,
    key_of,
    proxy_of,
)
from keymux.stores.mongo.fields import WrongField, any_named, moment, name_of, named
from keymux.stores.mongo.keys import now_ms
from keymux.stores.mongo.promotion import USED
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.writing import IN_ONE_TRANSACTION, insert_new, portions
from keymux.stores.port import NoSuchRecord


class MongoBindings:
    """See `keymux.stores.port.Bindings`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def load(self, provider: str) -> list[BindingRecord]:
        """All of them, oldest first, as long as it can be read whose they are."""
        name = collection_name(provider, "bindings")

        async def work() -> list[BindingRecord]:
            documents = await self._database.collection(name).find().to_list()
            return binding_records(self._reader, provider, documents)

        return await self._database.run(work)

    async def of_keys(self, provider: str, key_ids: Collection[str]) -> list[BindingRecord]:
        """Those of some keys, oldest first."""
        name, wanted = collection_name(provider, "bindings"), set(key_ids)

        async def work() -> list[BindingRecord]:
            there = self._database.collection(name).find(any_named(wanted, key_field(provider)))
            return binding_records(self._reader, provider, await there.to_list())

        return await self._database.run(work)

    async def add(self, provider: str, records: Sequence[BindingRecord], actor: str) -> list[str]:
        """Insert those whose pair of proxy and key is not there yet; gives their ids."""
        now = now_ms()

        async def work(portion: Sequence[BindingRecord], session: Session) -> list[str]:
            documents = await self._fresh(provider, portion, now, session)
            collection = self._database.collection(collection_name(provider, "bindings"))
            done = await insert_new(collection, documents, session)
            entries = [
                replace(_entry(provider, one, actor, "binding.add"), after=proxy_of(one))
                for one in done
            ]
            await audit.write(self._database, entries, session)
            return [str(one["_id"]) for one in done]

        done: list[str] = []
        for portion in portions(records, IN_ONE_TRANSACTION):
            done += await self._database.transact(partial(work, portion))
        return done

    async def _fresh(
        self, provider: str, records: Sequence[BindingRecord], now: int, session: Session
    ) -> list[Stored]:
        """The documents of those that are not there; ids in them are spelled as they are there."""
        collection = self._database.collection(collection_name(provider, "bindings"))
        of_keys = any_named({one.key_id for one in records}, key_field(provider))
        there = await collection.find(of_keys, session=session).to_list()
        pairs = {(proxy_of(one), key_of(provider, one)) for one in there}
        ids = {one["_id"] for one in there}
        proxies = await self._ids(PROXIES, (one.proxy_id for one in records), session)
        pool = collection_name(provider, "keys")
        keys = await self._ids(pool, (one.key_id for one in records), session)
        documents = []
        for one in records:
            pair = (one.proxy_id, one.key_id)
            if pair not in pairs and one.id not in ids:
                pairs.add(pair)
                ids.add(one.id)
                spelled = {
                    "proxyId": proxies.get(one.proxy_id, one.proxy_id),
                    key_field(provider): keys.get(one.key_id, one.key_id),
                }
                documents.append({**binding_document(provider, one, now), **spelled})
        return documents

    async def _ids(self, collection: str, names: Iterable[str], session: Session) -> dict[str, Id]:
        """The ids that documents have, by their names."""
        there = self._database.collection(collection).find(
            any_named(set(names)), projection={"_id": True}, session=session
        )
        return {str(one["_id"]): one["_id"] async for one in there}

    async def set_priority(self, provider: str, binding_id: str, priority: int, actor: str) -> None:
        """Change a priority.

        Raises:
            NoSuchRecord: there is no such binding.
        """
        wanted = clamped(priority)

        async def work(session: Session) -> None:
            found = await self._set(provider, binding_id, {"priority": wanted}, session)
            before = binding_records(self._reader, provider, [found])
            entry = replace(
                _entry(provider, found, actor, "binding.priority"),
                before=str(before[0].priority) if before else "",
                after=str(wanted),
                reason=f"proxy {proxy_of(found)}",
            )
            await audit.write(self._database, [entry], session)

        await self._database.transact(work)

    async def set_active(self, provider: str, binding_id: str, *, active: bool, actor: str) -> None:
        """Let it be used, or not.

        Raises:
            NoSuchRecord: there is no such binding.
        """

        async def work(session: Session) -> None:
            found = await self._set(provider, binding_id, {"isActive": active}, session)
            action = "binding.enable" if active else "binding.disable"
            entry = _entry(provider, found, actor, action)
            await audit.write(
                self._database, [replace(entry, reason=f"proxy {proxy_of(found)}")], session
            )

        await self._database.transact(work)

    async def _set(
        self, provider: str, binding_id: str, fields: Stored, session: Session
    ) -> Stored:
        """Change a binding; gives how it was before."""
        found = await self._database.collection(
            collection_name(provider, "bindings")
        ).find_one_and_update(named(binding_id), {"$set": fields}, session=session)
        if found is None:
            raise NoSuchRecord(binding_id)
        return found

    async def remove(self, provider: str, binding_ids: Sequence[str], actor: str) -> None:
        """Delete some, those that are there."""
        collection = collection_name(provider, "bindings")

        async def work(portion: Sequence[str], session: Session) -> None:
            bindings = self._database.collection(collection)
            there = await bindings.find(any_named(portion), session=session).to_list()
            wanted = {"_id": {"$in": [one["_id"] for one in there]}}
            await bindings.delete_many(wanted, session=session)
            entries = [
                replace(_entry(provider, one, actor, "binding.remove"), before=proxy_of(one))
                for one in there
            ]
            await audit.write(self._database, entries, session)

        for portion in portions(list(dict.fromkeys(binding_ids)), IN_ONE_TRANSACTION):
            await self._database.transact(partial(work, portion))

    # -- repair --------------------------------------------------------------------------------
    async def repair(self, provider: str, actor: str) -> Repaired:
        """Move or delete the bindings whose key is gone."""
        every = await self.load(provider)
        gone = await self._database.run(lambda: self._gone(provider, every))
        successors = await self._database.run(lambda: self._successors(provider)) if gone else []
        repaired = deleted = 0
        for key_id in gone:
            moved, left = await self._database.transact(
                partial(self._settle, provider, key_id, heir(key_id, successors), actor)
            )
            repaired, deleted = repaired + moved, deleted + left
        proxies = await self._database.run(lambda: self._names(PROXIES))
        lonely = sum(one.proxy_id not in proxies for one in await self.load(provider))
        return Repaired(len(every), repaired, deleted, lonely)

    async def _gone(self, provider: str, bindings: Iterable[BindingRecord]) -> list[str]:
        there = await self._names(collection_name(provider, "keys"))
        return list(dict.fromkeys(one.key_id for one in bindings if one.key_id not in there))

    async def _names(self, collection: str) -> set[str]:
        there = self._database.collection(collection).find(projection={"_id": True})
        return {str(one["_id"]) async for one in there}

    async def _successors(self, provider: str) -> list[Successor]:
        """What the backup keys tell; which key one of them is now is told by the hash."""
        pool = self._database.collection(collection_name(provider, "keys"))
        hashed = pool.find({"keyHash": {"$type": "string"}}, projection={"keyHash": True})
        keys = {one["keyHash"]: str(one["_id"]) async for one in hashed}
        spares = collection_name(provider, "backup_keys")
        found: list[Successor] = []
        async for document in self._database.collection(spares).find(USED):
            try:
                used_for = name_of(document, "usedFor")
                at = moment(document, "usedAt") or 0
            except WrongField:
                continue
            if used_for:
                key_id = keys.get(self._hash(spares, document), "")
                found.append(Successor(str(document["_id"]), used_for, key_id, at))
        return found

    def _hash(self, spares: str, document: Stored) -> str:
        digest = document.get("keyHash")
        if isinstance(digest, str):
            return digest
        record = self._reader.record(spares, backup_record, document)
        return hash_of(record.secret) if record else ""

    async def _settle(
        self, provider: str, gone: str, new: str, actor: str, session: Session
    ) -> tuple[int, int]:
        """Move the bindings of a key that is gone, delete the rest; gives how many of each."""
        pool = collection_name(provider, "keys")
        keys = await self._ids(pool, [gone, new], session)
        if gone in keys:  # it has come meanwhile
            return 0, 0
        proxies = (
            await inheritance.hand_over(self._database, provider, gone, keys[new], session)
            if new in keys
            else []
        )
        dropped = await inheritance.drop(self._database, provider, gone, session)
        entry = audit.Entry(
            at=now_ms(), actor=actor, action="binding.repair", provider=provider, subject=gone
        )
        entries = [replace(entry, after=new)]
        if proxies:
            entries.append(replace(entry, subject=new, before=gone))
        await audit.write(self._database, entries, session)
        return len(proxies), dropped - len(proxies)


def _entry(provider: str, document: Stored, actor: str, action: str) -> audit.Entry:
    return audit.Entry(
        at=now_ms(),
        actor=actor,
        action=action,
        provider=provider,
        subject=key_of(provider, document),
    )
