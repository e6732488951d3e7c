"""Counts that were booked with their rows and are still to be added to the keys.

Rows and counts are inserted, and what is inserted is in nobody's way. The keys themselves are
changed by one process at a time, for all, about once a second: if each added its own counts, they
would abort each other's transactions, and more so with every process.
"""

import time
from contextlib import suppress

from keymux.ids import record_id
from keymux.stores.mongo import counters
from keymux.stores.mongo.claims import MongoClaims
from keymux.stores.mongo.counters import Count, Counts
from keymux.stores.mongo.database import Database, Session, Stored
from keymux.stores.mongo.fields import number
from keymux.stores.port import StoreUnavailable, StoreUnusable

KEY_COUNTS = "key_counts"
TURN_S = 1.0
_AT_ONCE = 100


class Pending:
    """See above.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._claims = MongoClaims(database)
        self._name = record_id("adder")
        self._next = 0.0

    async def put(self, counts: Counts, session: Session) -> None:
        """Keep counts, in the transaction of their rows."""
        if counts:
            document = {"_id": record_id("counts"), "counts": _listed(counts)}
            await self._database.collection(KEY_COUNTS).insert_one(document, session=session)

    async def add_in_turn(self) -> None:
        """Add to the keys what is pending, unless it is another process's turn, or fails now."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TURN_S
        with suppress(StoreUnavailable, StoreUnusable):
            if await self._claims.claim(KEY_COUNTS, self._name, 2 * TURN_S):
                await self.add()

    async def add_before_reading(self) -> None:
        """Add what is pending, so that the keys show it; if that fails, they do not."""
        with suppress(StoreUnavailable, StoreUnusable):
            await self.add()

    async def add(self) -> None:
        """Add to the keys what is pending.

        Raises:
            StoreUnavailable: the server cannot be reached or written now.
            StoreUnusable: it can never work like this.
        """
        while await self._database.transact(self._add_some):
            pass

    async def _add_some(self, session: Session) -> bool:
        """Add some; True if there may be more."""
        pending = self._database.collection(KEY_COUNTS)
        limit = 1 if session is None else _AT_ONCE
        found = await pending.find(limit=limit, session=session).to_list()
        if not found:
            return False
        counts: Counts = {}
        for document in found:
            _gather(counts, document)
        names = [document["_id"] for document in found]
        if session is None:  # the keys note what they have, as long as it is there
            await counters.add(self._database, counts, None, names[0])
            await pending.delete_many({"_id": {"$in": names}})
            await counters.unmark(self._database, counts, names[0])
        else:
            await counters.add(self._database, counts, session)
            await pending.delete_many({"_id": {"$in": names}}, session=session)
        return len(found) == limit


def _listed(counts: Counts) -> list[Stored]:
    return [
        {
            "provider": provider,
            "key": key,
            "requests": count.requests,
            "tokens": count.tokens,
            "lastUsedAt": count.last_used_at,
        }
        for provider, keys in counts.items()
        for key, count in keys.items()
    ]


def _gather(counts: Counts, document: Stored) -> None:
    for one in document["counts"]:
        count = counts.setdefault(one["provider"], {}).setdefault(one["key"], Count())
        count.requests += number(one, "requests")
        count.tokens += number(one, "tokens")
        count.last_used_at = max(count.last_used_at, number(one, "lastUsedAt"))
