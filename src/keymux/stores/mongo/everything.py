"""All records of the shared store, to be brought to another store or from one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pymongo import UpdateOne

from keymux.core.egress import BindingRecord, ProxyRecord
from keymux.core.records import BackupKeyRecord, ClientKeyRecord, ExchangeRow, KeyRecord
from keymux.stores.mongo.booking import EXCHANGES, Booking
from keymux.stores.mongo.database import Database, Stored, collection_name
from keymux.stores.mongo.documents import (
    backup_document,
    backup_record,
    client_document,
    client_record,
    key_document,
    key_record,
    provider_fields,
    provider_state,
    state_fields,
)
from keymux.stores.mongo.egress_documents import (
    binding_document,
    binding_records,
    proxy_document,
    proxy_record,
)
from keymux.stores.mongo.fields import date
from keymux.stores.mongo.layout import META
from keymux.stores.mongo.reading import Reader, sealed
from keymux.stores.mongo.rows import audit_row, exchange_document, exchange_row
from keymux.stores.mongo.schema import SCHEMA_VERSION
from keymux.stores.mongo.transitions import PROVIDERS
from keymux.stores.mongo.writing import insert_new, portions
from keymux.stores.moving import AuditCopy, Copied, Kind, Mark, Part, StateCopy
from keymux.stores.port import StoreUnusable
from keymux.stores.sealing.port import OF_PROVIDERS, SHARED

_MARK = "migration"


class MongoEverything:
    """See `keymux.stores.moving.Target`."""

    def __init__(self, database: Database, reader: Reader, booking: Booking) -> None:
        self._database = database
        self._reader = reader
        self._booking = booking

    async def providers(self) -> list[str]:
        """Those that have records here.

        Raises:
            StoreUnusable: a newer keymux has written it.
        """

        async def work() -> list[str]:
            found = await self._database.collection(META).find_one({"_id": "schema"})
            if found and int(found["version"]) > SCHEMA_VERSION:
                raise StoreUnusable(f"{self._database.where}: a newer keymux has written it")
            listed = self._database.collection(PROVIDERS).find(projection={"_id": True})
            return sorted([str(one["_id"]) async for one in listed])

        await self._booking.add_before_reading()
        return await self._database.run(work)

    async def count(self, part: Part) -> int:
        """How many records there are, also those that cannot be read."""
        collection = _collection(part)
        return await self._database.run(
            lambda: self._database.collection(collection).count_documents({})
        )

    async def read(self, part: Part, after: str, limit: int) -> tuple[list[Copied], str]:
        """Some records after a place, and the place after them, empty at the end."""

        async def work() -> tuple[list[Copied], str]:
            if part.kind in _PAGED:
                return await self._page(part, after, limit)
            documents = await self._database.collection(_collection(part)).find().to_list()
            return self._records(part, documents), ""

        return await self._database.run(work)

    async def _page(self, part: Part, after: str, limit: int) -> tuple[list[Copied], str]:
        field = _PAGED[part.kind]
        begins = int(after or 0) if part.kind is Kind.AUDIT else after
        found = (
            await self._database.collection(_collection(part))
            .find({field: {"$gt": begins}}, sort=[(field, 1)], limit=limit)
            .to_list()
        )
        return self._records(part, found), str(found[-1][field]) if found else ""

    def _records(self, part: Part, documents: Sequence[Stored]) -> list[Copied]:
        if part.kind is Kind.BINDINGS:
            return [*self._each_pair_once(part.provider, documents)]
        return self._reader.records(_collection(part), _READ[part.kind], documents)

    def _each_pair_once(
        self, provider: str, documents: Sequence[Stored]
    ) -> Iterator[BindingRecord]:
        """Other stores take no pair twice."""
        first: dict[tuple[str, str], str] = {}
        for record in binding_records(self._reader, provider, documents):
            pair = (record.proxy_id, record.key_id)
            twin = first.setdefault(pair, record.id) if record.proxy_id else record.id
            if twin == record.id:
                yield record
            else:
                self._reader.tell(
                    f"{collection_name(provider, 'bindings')}: the document {record.id!r} is left "
                    f"out: {twin!r} binds the same key to the same proxy"
                )

    async def write(self, part: Part, records: Sequence[Copied]) -> None:
        """Write records; exchanges and lines of the audit that are there stay as they are."""

        async def work() -> None:
            collection = self._database.collection(_collection(part))
            documents = [_DOCUMENTS[type(record)](part, record) for record in records]
            if part.kind in _PAGED:
                await insert_new(collection, documents, None)
                return
            if part.kind is Kind.PROXIES:
                documents = _each_address_once(documents)
            if part.kind in OF_PROVIDERS or part.kind in SHARED:
                documents = sealed(self._database.vault, _collection(part), documents)
            for portion in portions(documents):
                await collection.bulk_write([_upsert(one) for one in portion], ordered=False)

        await self._database.run(work)

    async def mark(self) -> Mark | None:
        """Where the records come from, if they come from another store."""

        async def work() -> Mark | None:
            found = await self._database.collection(META).find_one({"_id": _MARK})
            return Mark(str(found["source"]), done=bool(found["done"])) if found else None

        return await self._database.run(work)

    async def set_mark(self, mark: Mark) -> None:
        """Say where they come from."""

        async def work() -> None:
            fields = {"source": mark.source, "done": mark.done}
            await self._database.collection(META).update_one(
                {"_id": _MARK}, {"$set": fields}, upsert=True
            )

        await self._database.run(work)


_PAGED = {Kind.AUDIT: "seq", Kind.EXCHANGES: "_id"}


def _collection(part: Part) -> str:
    if part.provider:
        return collection_name(part.provider, part.kind)
    return EXCHANGES if part.kind is Kind.EXCHANGES else str(part.kind)


def _each_address_once(documents: Sequence[Stored]) -> list[Stored]:
    """Proxies of which only the first bears the mark of its address: it must not be there twice."""
    marked: set[str] = set()
    found = []
    for one in documents:
        if one["addressHash"] in marked:
            found.append({**one, "addressHash": None})
        else:
            marked.add(one["addressHash"])
            found.append(one)
    return found


def _upsert(document: Stored) -> UpdateOne:
    fields = {name: value for name, value in document.items() if name != "_id"}
    return UpdateOne({"_id": document["_id"]}, {"$set": fields}, upsert=True)


# -- documents -------------------------------------------------------------------------------------
def _state_copy(collection: str, document: Mapping[str, Any]) -> StateCopy:
    return StateCopy(str(document["_id"]), provider_state(collection, document))


def _audit_copy(collection: str, document: Mapping[str, Any]) -> AuditCopy:
    return AuditCopy(str(document["_id"]), audit_row(collection, document))


def _key(part: Part, record: KeyRecord) -> Stored:
    return {
        **key_document(_collection(part), record.id, record, record.created_at),
        **state_fields(record),
        "tokensUsed": record.tokens_used,
        "requestsCount": record.requests_count,
        "lastUsedAt": date(record.last_used_at),
    }


def _proxy(part: Part, record: ProxyRecord) -> Stored:  # noqa: ARG001 -- all makers are called alike
    return proxy_document(record, record.created_at)


def _binding(part: Part, record: BindingRecord) -> Stored:
    return binding_document(part.provider, record, record.created_at)


def _backup(part: Part, record: BackupKeyRecord) -> Stored:
    return {
        **backup_document(_collection(part), record, record.created_at),
        "isUsed": record.is_used,
        "activated": record.activated,
        "usedFor": record.used_for or None,
        "usedAt": date(record.used_at),
    }


def _client(part: Part, record: ClientKeyRecord) -> Stored:  # noqa: ARG001 -- as above
    document = client_document(record, record.created_at)
    return {**document, "revokedAt": date(record.revoked_at)}


def _state(part: Part, record: StateCopy) -> Stored:  # noqa: ARG001 -- as above
    return {"_id": record.provider, **provider_fields(record.state, 0)}


def _line(part: Part, record: AuditCopy) -> Stored:  # noqa: ARG001 -- as above
    row = record.row
    return {
        "_id": record.id,
        "seq": row.seq,
        "at": date(row.at),
        "actor": row.actor,
        "action": row.action,
        "provider": row.provider,
        "subject": row.subject,
        "before": row.before,
        "after": row.after,
        "reason": row.reason,
    }


def _exchange(part: Part, record: ExchangeRow) -> Stored:  # noqa: ARG001 -- as above
    return exchange_document(record)


_READ: Mapping[Kind, Callable[[str, Mapping[str, Any]], Any]] = MappingProxyType(
    {
        Kind.PROXIES: proxy_record,
        Kind.KEYS: key_record,
        Kind.BACKUP_KEYS: backup_record,
        Kind.STATES: _state_copy,
        Kind.CLIENTS: client_record,
        Kind.AUDIT: _audit_copy,
        Kind.EXCHANGES: exchange_row,
    }
)
_DOCUMENTS: Mapping[type, Callable[..., Stored]] = MappingProxyType(
    {
        ProxyRecord: _proxy,
        BindingRecord: _binding,
        KeyRecord: _key,
        BackupKeyRecord: _backup,
        ClientKeyRecord: _client,
        StateCopy: _state,
        AuditCopy: _line,
        ExchangeRow: _exchange,
    }
)
