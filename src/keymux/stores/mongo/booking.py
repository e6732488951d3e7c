"""Booking exchanges: a row is inserted once, and counted once.

There is no transaction. One that a killed process leaves open would keep its rows and keys from
everybody else until the server gives it up, which takes a minute. Instead rows come in *batches*:

1. The batch is announced: a document in `key_counts` with the ids of its rows.
2. The rows are inserted, each with the name of its batch. A row that is there already belongs to
   another batch, and stays as it is.
3. The batch gets its counts: those of its own rows, and of no others.
4. Somebody adds the counts to the keys, which remember the batch, and removes the document.

Wherever that is cut off, the batch can be found and finished: by the same process before it writes
again, by another one when nobody can be at work on it any more. Step 4 is one process's turn, for
all, about once a second: if each changed the keys itself, the more processes there are the more
often they would wait for each other.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import pymongo

from keymux.core.records import ExchangeRow
from keymux.ids import record_id
from keymux.stores.mongo import counters
from keymux.stores.mongo.claims import MongoClaims
from keymux.stores.mongo.counters import REMEMBERED, Counts
from keymux.stores.mongo.database import Collection, Database
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.rows import exchange_document, exchange_row
from keymux.stores.mongo.writing import insert_new, portions
from keymux.stores.port import StoreUnavailable, StoreUnusable

EXCHANGES = "exchanges"
KEY_COUNTS = "key_counts"
AT_WORK_S = 6.0
"""For so long the process that announced a batch may be at work on it."""
LEFT_AFTER_S = 2 * AT_WORK_S
"""Then another process finishes it."""
TURN_S = 1.0
_AT_ONCE = REMEMBERED // 3
"""Batches added in one go; far fewer than a key remembers, should all be added again."""


class Booking:
    """See above.

    Args:
        database: where.
        reader: of rows that a batch has left.
        left_after_s: see `LEFT_AFTER_S`.
    """

    def __init__(
        self, database: Database, reader: Reader, left_after_s: float = LEFT_AFTER_S
    ) -> None:
        self._database = database
        self._reader = reader
        self._left_after_s = left_after_s
        self._one_at_a_time = asyncio.Lock()
        self._claims = MongoClaims(database)
        self._name = record_id("adder")
        self._unfinished: list[str] = []

    # -- rows ----------------------------------------------------------------------------------
    async def book(self, rows: Sequence[ExchangeRow]) -> None:
        """Insert the rows that are not there, with their counts.

        Raises:
            StoreUnavailable: perhaps some of it was done; it may be repeated.
            StoreUnusable: it can never work like this.
        """
        async with self._one_at_a_time:
            await self._database.run(lambda: self._book(rows))

    async def _book(self, rows: Sequence[ExchangeRow]) -> None:
        await self._finish_own()
        batch, own = record_id("bat"), list({row.id: row for row in rows}.values())
        begun = time.monotonic()
        self._unfinished.append(batch)
        await self._announce(batch, [row.id for row in own])
        inserted = 0
        for portion in portions(own):
            self._check_time(begun)
            documents = [{**exchange_document(row), "batch": batch} for row in portion]
            with pymongo.timeout(AT_WORK_S):  # also for what the driver repeats by itself
                inserted += len(await insert_new(self._rows, documents, None))
        self._check_time(begun)
        if inserted == len(own):
            await self._give_counts(batch, counters.counted(own))
        else:  # some are of another batch, or ours after all: the driver may have asked twice
            await self._finish(batch)
        self._unfinished.remove(batch)

    def _check_time(self, begun: float) -> None:
        """Another process may finish the batch soon: nothing must be added to it then."""
        if time.monotonic() - begun > AT_WORK_S:
            raise StoreUnavailable(f"{self._database.where}: the server takes too long to write")

    async def _announce(self, batch: str, ids: Sequence[str]) -> None:
        """The time is the server's, whatever the hosts' clocks say."""
        await self._batches.update_one(
            {"_id": batch},
            [{"$set": {"rows": {"$literal": list(ids)}, "begunAt": "$$NOW"}}],
            upsert=True,
        )

    async def _give_counts(self, batch: str, counts: Counts) -> None:
        """Whoever comes first: the counts of a batch are never changed."""
        unfinished = {"_id": batch, "counts": {"$exists": False}}
        if counts:
            given = {"$set": {"counts": counters.documents_of(counts)}, "$unset": {"rows": True}}
            await self._batches.update_one(unfinished, given)
        else:
            await self._batches.delete_one(unfinished)

    async def _finish_own(self) -> None:
        """Finish batches that this process could not."""
        while self._unfinished:
            await self._finish(self._unfinished[0])
            del self._unfinished[0]

    async def _finish(self, batch: str) -> None:
        """Give a batch that was cut off the counts of its rows."""
        announced = await self._batches.find_one({"_id": batch})
        if announced is None or "counts" in announced:
            return
        if not isinstance(announced.get("rows"), list):
            self._reader.tell(f"{KEY_COUNTS}: {batch!r} is no batch of ours, and left alone")
            return
        rows: list[ExchangeRow] = []
        for portion in portions(announced["rows"]):
            wanted = {"_id": {"$in": list(portion)}, "batch": batch}
            documents = await self._rows.find(wanted).to_list()
            rows += self._reader.records(EXCHANGES, exchange_row, documents)
        await self._give_counts(batch, counters.counted(rows))

    # -- counts --------------------------------------------------------------------------------
    async def add_in_turn(self) -> None:
        """Add to the keys what is there, unless it is another's turn; if that fails, later."""
        with suppress(StoreUnavailable, StoreUnusable):
            if await self._claims.claim(KEY_COUNTS, self._name, 2 * TURN_S):
                await self._database.run(self._add_all)

    async def add_before_reading(self) -> None:
        """Add what is there, so that the keys show it; if that fails, they do not."""
        with suppress(StoreUnavailable, StoreUnusable):
            await self._database.run(self._add_all)

    async def _add_all(self) -> None:
        await self._finish_foreign()
        while True:
            begun = time.monotonic()
            complete = {"_id": {"$type": "string"}, "counts.provider": {"$type": "string"}}
            found = await self._batches.find(complete, sort=[("_id", 1)], limit=_AT_ONCE).to_list()
            if found:
                counts = {str(one["_id"]): counters.counts_of(one["counts"]) for one in found}
                if time.monotonic() - begun > TURN_S:  # others may have added them, and many more
                    raise StoreUnavailable(f"{self._database.where}: the server is too slow now")
                with pymongo.timeout(2 * TURN_S):
                    await counters.add(self._database, counts)
                await self._batches.delete_many({"_id": {"$in": list(counts)}})
            if len(found) < _AT_ONCE:
                return

    async def _finish_foreign(self) -> None:
        """Finish batches that a process announced and did not live to complete."""
        ends = {"$add": [{"$toLong": "$begunAt"}, round(self._left_after_s * 1000)]}
        is_over = {"$lte": [ends, {"$toLong": "$$NOW"}]}
        late = {"$cond": [{"$eq": [{"$type": "$begunAt"}, "date"]}, is_over, False]}
        left = {"counts": {"$exists": False}, "$expr": late}
        async for batch in self._batches.find(left, projection={"_id": True}):
            await self._finish(str(batch["_id"]))

    @property
    def _rows(self) -> Collection:
        return self._database.collection(EXCHANGES)

    @property
    def _batches(self) -> Collection:
        return self._database.collection(KEY_COUNTS)
