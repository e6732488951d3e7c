"""Egress proxies: one collection, shared by all providers.

What is found out about a proxy is written without a transaction: the document is changed only if it
is still as it was read, and an exit remembers its status before until the change is audited. So
whoever observes the same again finishes what was cut off.
"""

from collections.abc import Callable, Collection, Sequence

from keymux.core.egress import Observation, ProxyRecord
from keymux.stores.egress import after_observation, named_apart, trusted
from keymux.stores.mongo import audit
from keymux.stores.mongo.database import Database, Session, Stored
from keymux.stores.mongo.egress_documents import (
    PROXIES,
    exit_document,
    exit_documents,
    exits_of,
    proxy_document,
    proxy_record,
    seen_fields,
    status_word,
    taken_by,
)
from keymux.stores.mongo.fields import Document, named
from keymux.stores.mongo.keys import now_ms
from keymux.stores.mongo.reading import Reader, sealed
from keymux.stores.mongo.writing import as_found, insert_new
from keymux.stores.port import NoSuchRecord, StoreUnavailable

_TRIES = 50


class MongoProxies:
    """See `keymux.stores.port.Proxies`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def load(self) -> list[ProxyRecord]:
        """All of them, oldest first; those that cannot be used are told of and left out."""

        async def work() -> list[ProxyRecord]:
            documents = await self._database.collection(PROXIES).find().to_list()
            return named_apart(self._reader.records(PROXIES, proxy_record, documents))

        return await self._database.run(work)

    async def find_some(self, proxy_ids: Collection[str]) -> list[ProxyRecord]:
        """Those of some that are there and can be used, in any order."""
        wanted = set(proxy_ids)  # all are read, because a name is told apart from all others
        return [record for record in await self.load() if record.id in wanted]

    async def add(self, records: Sequence[ProxyRecord], actor: str) -> list[str]:
        """Insert those whose name is free and whose address is not known yet; gives their ids."""
        documents = [proxy_document(record, now_ms()) for record in records]

        async def work(session: Session) -> list[str]:
            fresh = await self._fresh(documents, session)
            ready = sealed(self._database.vault, PROXIES, fresh)
            done = await insert_new(self._database.collection(PROXIES), ready, session)
            entries = [
                _entry(actor, "proxy.add", str(one["_id"]), after=str(one["name"])) for one in done
            ]
            await audit.write(self._database, entries, session)
            return [str(one["_id"]) for one in done]

        return await self._database.transact(work)

    async def _fresh(self, documents: Sequence[Stored], session: Session) -> list[Stored]:
        taken: set[object] = set()
        async for one in self._database.collection(PROXIES).find(session=session):
            taken |= taken_by(one)
        fresh = []
        for document in documents:
            own = taken_by(document)
            if not own & taken:
                taken |= own
                fresh.append(document)
        return fresh

    async def set_active(self, proxy_id: str, *, active: bool, actor: str) -> None:
        """Let it be used, or not.

        Raises:
            NoSuchRecord: there is no such proxy.
        """

        def changes(document: Stored) -> Stored:
            return {"isActive": active, **(_trusted_again(document) if active else {})}

        action = "proxy.enable" if active else "proxy.disable"
        await self._change(proxy_id, changes, action, actor)

    async def set_password(self, proxy_id: str, password: str, actor: str) -> None:
        """Use another password.

        Raises:
            NoSuchRecord: there is no such proxy.
        """

        def changes(document: Stored) -> Stored:
            plain = {"_id": document["_id"], "password": password}
            (ready,) = sealed(self._database.vault, PROXIES, [plain])
            return {"password": ready["password"], **_trusted_again(document)}

        await self._change(proxy_id, changes, "proxy.password", actor)

    async def _change(
        self, proxy_id: str, changes: Callable[[Stored], Stored], action: str, actor: str
    ) -> None:
        async def work(session: Session) -> None:
            for _ in range(_TRIES):
                document = await self._find(proxy_id, session)
                if document is None:
                    raise NoSuchRecord(proxy_id)
                if await self._put(document, changes(document), session):
                    break
            else:
                raise self._crowd(proxy_id)
            await audit.write(self._database, [_entry(actor, action, proxy_id)], session)

        await self._database.transact(work)

    async def _find(self, proxy_id: str, session: Session = None) -> Stored | None:
        return await self._database.collection(PROXIES).find_one(named(proxy_id), session=session)

    async def _put(self, document: Stored, fields: Stored, session: Session = None) -> bool:
        """Change a proxy, unless somebody else did so meanwhile."""
        resealed = self._reader.resealed(PROXIES, document)
        revision = document.get("revision")
        changed = {
            **resealed,
            **fields,
            # what is no number was written by somebody else
            "revision": revision + 1 if isinstance(revision, int | float) else 1,
        }
        done = await self._database.collection(PROXIES).update_one(
            as_found(document, "revision", *resealed), {"$set": changed}, session=session
        )
        return done.matched_count == 1

    def _crowd(self, proxy_id: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self._database.where}: too many others change {proxy_id}")

    async def observe(self, proxy_id: str, seen: Observation, actor: str) -> None:
        """Note what was found out; nothing happens if the proxy is gone."""

        async def work() -> None:
            for _ in range(_TRIES):
                document = await self._find(proxy_id)
                if document is None:
                    return
                fields = self._observed(document, seen)
                if fields is None:
                    return
                if await self._put(document, fields):
                    await self._audit(proxy_id, fields["exits"], seen, actor)
                    return
            raise self._crowd(proxy_id)

        await self._database.run(work)

    def _observed(self, document: Stored, seen: Observation) -> Stored | None:
        """What is to be written into a document; None if it is no proxy."""
        unopened = {**document, "password": ""}  # which nobody needs here
        record = self._reader.record(PROXIES, proxy_record, unopened)
        if record is None:
            return None
        after, changes = after_observation(record, seen)
        listed = document.get("exits")
        exits = dict(listed) if isinstance(listed, dict) else {}
        for one in changes:
            exits[one.provider] = exit_document(one.after, one.before.status.value)
        return {**seen_fields(after), "exits": exits}

    async def _audit(self, proxy_id: str, exits: Document, seen: Observation, actor: str) -> None:
        """Audit how exits have changed, also if somebody else has changed them and died."""
        states = exits_of({"exits": exits})
        entries: dict[str, audit.Entry] = {}
        for provider in seen.exits.keys() & states.keys():
            state, before = states[provider], exits[provider].get("before")
            if isinstance(before, str) and before != state.status.value:
                name = f"exit:{proxy_id}:{provider}:{state.generation}"
                entries[name] = audit.Entry(
                    id=name,
                    at=seen.at,
                    actor=actor,
                    action="proxy.transition",
                    provider=provider,
                    subject=proxy_id,
                    before=before,
                    after=state.status.value,
                    reason=state.reason,
                )
        if not entries:
            return
        known = await audit.known(self._database, entries, None)
        fresh = [entry for name, entry in sorted(entries.items()) if name not in known]
        await audit.write(self._database, fresh, None)

    async def remove(self, proxy_id: str, actor: str) -> None:
        """Delete one, whatever is bound to it.

        Raises:
            NoSuchRecord: there is no such proxy.
        """

        async def work(session: Session) -> None:
            gone = await self._database.collection(PROXIES).find_one_and_delete(
                named(proxy_id), projection={"name": True}, session=session
            )
            if gone is None:
                raise NoSuchRecord(proxy_id)
            name = gone.get("name")
            entry = _entry(
                actor, "proxy.remove", proxy_id, before=name if isinstance(name, str) else ""
            )
            await audit.write(self._database, [entry], session)

        await self._database.transact(work)


def _trusted_again(document: Stored) -> Stored:
    """What changes when an operator trusts a proxy."""
    exits = trusted(exits_of(document))
    fields: Stored = {"exits": exit_documents(exits)}
    if exits:
        fields["status"] = status_word(exits)
    return fields


def _entry(
    actor: str, action: str, proxy_id: str, *, before: str = "", after: str = ""
) -> audit.Entry:
    return audit.Entry(
        at=now_ms(),
        actor=actor,
        action=action,
        provider="",
        subject=proxy_id,
        before=before,
        after=after,
    )
