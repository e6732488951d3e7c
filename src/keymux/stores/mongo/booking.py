"""Booking exchanges: rows are inserted once, and counted once.

With a transaction, rows and counts are inserted together; the counts are added to the keys later
(`keymux.stores.mongo.pending`). What is there already is looked up before; a row that appears
meanwhile is a duplicate, and all begins again.

A standalone server has no transactions, so there rows are inserted with a *mark*, the name of their
batch; the counters of a key are changed together with a note of the mark in the key; then the mark
is taken from the rows, and from the keys. Wherever that is cut off, the next attempt to write one
of the rows finds the mark and goes on: a key that has noted it was counted already. A mark of
another process is left to that process for as long as it can be at work.
"""

import asyncio
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from keymux.core.records import ExchangeRow
from keymux.ids import record_id
from keymux.stores.mongo import counters
from keymux.stores.mongo.counters import Counts
from keymux.stores.mongo.database import Database, Session
from keymux.stores.mongo.pending import Pending
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.rows import exchange_document, exchange_row
from keymux.stores.mongo.writing import ids_in, insert_new, portions
from keymux.stores.port import StoreUnavailable

EXCHANGES = "exchanges"
AT_WORK_S = 4.0
_LOOK_EVERY_S = 0.05


async def book(
    database: Database, pending: Pending, rows: Sequence[ExchangeRow], session: Session
) -> None:
    """Insert the rows that are not there, and their counts; within a transaction."""
    collection = database.collection(EXCHANGES)
    by_id = {row.id: row for row in rows}
    known = await ids_in(collection, list(by_id), None)
    fresh = [row for exchange_id, row in by_id.items() if exchange_id not in known]
    await pending.put(counters.counted(fresh), session)
    for portion in portions(fresh):
        await insert_new(collection, [exchange_document(row) for row in portion], session)


class StepByStep:
    """Books on a server without transactions.

    Args:
        database: where.
        reader: of rows that an earlier attempt has left.
        at_work_s: how long the steps may take; a foreign mark that is older was left behind.
    """

    def __init__(self, database: Database, reader: Reader, at_work_s: float = AT_WORK_S) -> None:
        self._database = database
        self._reader = reader
        self._at_work_s = at_work_s
        self._own: set[str] = set()
        self._one_at_a_time = asyncio.Lock()

    async def book(self, rows: Sequence[ExchangeRow]) -> None:
        """Insert the rows that are not there, and count all of them that nobody has counted."""
        async with self._one_at_a_time:
            mark = record_id("batch")
            self._own.add(mark)
            fresh = await self._insert(rows, mark)
            await self._finish(mark, counters.counted(fresh))
            await self._finish_earlier({row.id for row in rows} - {row.id for row in fresh})

    async def _insert(self, rows: Sequence[ExchangeRow], mark: str) -> list[ExchangeRow]:
        collection = self._database.collection(EXCHANGES)
        by_id = {row.id: row for row in rows}
        done: list[ExchangeRow] = []
        for portion in portions(list(by_id.values())):
            documents = [{**exchange_document(row), "uncounted": mark} for row in portion]
            done += [by_id[one["_id"]] for one in await insert_new(collection, documents, None)]
        return done

    async def _finish(self, mark: str, counts: Counts) -> None:
        """Count the rows of a mark, and take the mark away."""
        begun = time.monotonic()
        await counters.add(self._database, counts, None, mark)
        if time.monotonic() - begun > self._at_work_s:
            raise StoreUnavailable(f"{self._database.where}: the server takes too long to write")
        rows = self._database.collection(EXCHANGES)
        await rows.update_many({"uncounted": mark}, {"$unset": {"uncounted": True}})
        await counters.unmark(self._database, counts, mark)
        self._own.discard(mark)

    # -- what was left -------------------------------------------------------------------------
    async def _finish_earlier(self, ids: AbstractSet[str]) -> None:
        """Count rows that an earlier attempt inserted and did not count."""
        rows = self._database.collection(EXCHANGES)
        marks: set[str] = set()
        for portion in portions(sorted(ids)):
            marks |= set(await rows.distinct("uncounted", {"_id": {"$in": list(portion)}}))
        for mark in sorted(marks):
            if mark in self._own or await self._was_left(mark):
                documents = await rows.find({"uncounted": mark}).to_list()
                found = self._reader.records(EXCHANGES, exchange_row, documents)
                await self._finish(mark, counters.counted(found))

    async def _was_left(self, mark: str) -> bool:
        """Whether nobody takes a mark away for as long as anybody can be at work on it."""
        rows = self._database.collection(EXCHANGES)
        ends = time.monotonic() + 2 * self._at_work_s
        while time.monotonic() < ends:
            if await rows.find_one({"uncounted": mark}) is None:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        return True
