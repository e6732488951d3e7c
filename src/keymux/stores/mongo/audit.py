"""The audit: who changed what, numbered without gaps.

The next number is one more than the highest that can be seen, and a unique index lets only one
writer have it. So a number is never seen before a lower one, and whoever reads on from the last
number misses nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from pymongo import DESCENDING
from pymongo.errors import BulkWriteError

from keymux.core.records import AuditRow
from keymux.ids import record_id
from keymux.stores.mongo.database import Collection, Database, Session
from keymux.stores.mongo.fields import date, number
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.rows import audit_row
from keymux.stores.mongo.troubles import is_duplicate
from keymux.stores.mongo.writing import ids_in

AUDIT = "audit"


class Entry(Struct, frozen=True):
    """What is to be written down.

    Attributes:
        id: unique; writing it twice does no harm.
    """

    at: int
    actor: str
    action: str
    provider: str
    subject: str
    before: str = ""
    after: str = ""
    reason: str = ""
    id: str = ""

    def document(self) -> dict[str, Any]:
        """As it is stored, but for its number."""
        return {
            "_id": self.id or record_id("aud"),
            "at": date(self.at),
            "actor": self.actor,
            "action": self.action,
            "provider": self.provider,
            "subject": self.subject,
            "before": self.before,
            "after": self.after,
            "reason": self.reason,
        }


async def write(database: Database, entries: Sequence[Entry], session: Session) -> None:
    """Add entries in their order; outside a transaction those that are there are passed over."""
    collection = database.collection(AUDIT)
    left = [entry.document() for entry in entries]
    while left:
        last = await _last_before(database, session)
        numbered = [{**one, "seq": last + place} for place, one in enumerate(left, 1)]
        try:
            await collection.insert_many(numbered, session=session)
        except BulkWriteError as error:
            if session is not None or not is_duplicate(error):
                raise
            left = _left(left, error)
        else:
            return


def _left(documents: Sequence[dict[str, Any]], error: BulkWriteError) -> list[dict[str, Any]]:
    """What is still to be written after the first that could not be."""
    failed = error.details["writeErrors"][0]
    is_known = "_id" in failed.get("keyPattern", {})
    return list(documents[failed["index"] + is_known :])


async def _last(collection: Collection, session: Session = None) -> int:
    numbered = {"seq": {"$type": "number"}}  # as in the index, which serves no other question
    found = await collection.find_one(numbered, sort=[("seq", DESCENDING)], session=session)
    return 0 if found is None else number(found, "seq")


async def _last_before(database: Database, session: Session) -> int:
    """The highest number, looked for where it was seen last."""
    collection, since = database.collection(AUDIT), database.audited
    newer = {"seq": {"$gte": since, "$type": "number"}}
    found = await collection.find_one(newer, sort=[("seq", DESCENDING)], session=session)
    database.audited = number(found, "seq") if found else await _last(collection, session)
    return database.audited


async def known(database: Database, ids: Iterable[str], session: Session) -> set[str]:
    """Which entries are there already."""
    return await ids_in(database.collection(AUDIT), list(ids), session)


class MongoAudit:
    """See `keymux.stores.port.Audit`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def last(self) -> int:
        """The highest sequence number, 0 for none."""
        return await self._database.run(lambda: _last(self._database.lasting(AUDIT)))

    async def since(self, seq: int, limit: int) -> list[AuditRow]:
        """What came after a sequence number, oldest first."""
        return await self._read({"seq": {"$gt": seq, "$type": "number"}}, 1, limit)

    async def latest(self, limit: int) -> list[AuditRow]:
        """The last ones, newest first."""
        return await self._read({"seq": {"$type": "number"}}, -1, limit)

    async def _read(self, wanted: dict[str, Any], order: int, limit: int) -> list[AuditRow]:
        async def work() -> list[AuditRow]:
            found = self._database.lasting(AUDIT).find(wanted, sort=[("seq", order)], limit=limit)
            return self._reader.records(AUDIT, audit_row, await found.to_list())

        return await self._database.run(work)
