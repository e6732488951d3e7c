"""The ledger: settled exchanges, and the health that is written with them."""

from keymux.core.records import ExchangeRow, UsageLine
from keymux.stores.mongo import transitions
from keymux.stores.mongo.booking import EXCHANGES, Booking
from keymux.stores.mongo.database import Database
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.rows import exchange_row
from keymux.stores.mongo.usage import usage
from keymux.stores.port import Batch, UsageQuery


class MongoLedger:
    """See `keymux.stores.port.Ledger`."""

    def __init__(self, database: Database, reader: Reader, booking: Booking) -> None:
        self._database = database
        self._reader = reader
        self._booking = booking

    async def write(self, batch: Batch) -> None:
        """Write a batch; what is there already is left alone.

        Transitions come first and by themselves: other processes wait to hear of them.
        """
        if batch.transitions:
            await self._database.run(
                lambda: transitions.apply(self._database, self._reader, batch.transitions)
            )
        if batch.rows:
            await self._booking.book(batch.rows)

    async def tidy(self) -> None:
        """Add to the counters of keys what was booked, if it is this process's turn."""
        await self._booking.add_in_turn()

    async def find(self, exchange_id: str) -> ExchangeRow | None:
        """One exchange."""

        async def work() -> ExchangeRow | None:
            document = await self._database.collection(EXCHANGES).find_one({"_id": exchange_id})
            if document is None:
                return None
            return self._reader.record(EXCHANGES, exchange_row, document)

        return await self._database.run(work)

    async def latest(self, limit: int) -> list[ExchangeRow]:
        """The last ones, newest first."""

        async def work() -> list[ExchangeRow]:
            found = self._database.collection(EXCHANGES).find(sort=[("_id", -1)], limit=limit)
            return self._reader.records(EXCHANGES, exchange_row, await found.to_list())

        return await self._database.run(work)

    async def usage(self, query: UsageQuery) -> list[UsageLine]:
        """Usage added up."""
        return await self._database.run(lambda: usage(self._database.collection(EXCHANGES), query))
