"""A server that dies without a word loses nothing that it acknowledged."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from keymux.stores.mongo import MongoStore
from keymux.stores.port import Batch, StoreUnavailable, UsageQuery
from tests.contract.records import ACME, OPERATOR, cooling, exchange, key, state_of, transition
from tests.scenarios.rig import IS_LONG
from tests.stores.mongo.server import Server

pytestmark = pytest.mark.anyio

ROWS_AT_ONCE = 20
BETWEEN = 5
KILLS = 10 if IS_LONG else 4


@pytest.fixture(params=[(), ("--standalone",)], ids=["replica set", "standalone"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of one's own."""
    server = Server(tmp_path, *request.param)
    server.start()
    yield server
    server.kill()


class _Writer:
    """Writes batches until told to stop, each until it is acknowledged."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store
        self.acknowledged = 0
        self.is_done = False
        self._wanted = 0
        self._reached = asyncio.Event()

    async def run(self) -> None:
        while not self.is_done:
            first = self.acknowledged * ROWS_AT_ONCE
            rows = tuple(exchange(n) for n in range(first, first + ROWS_AT_ONCE))
            told = transition(f"t{self.acknowledged}", cooling(60, self.acknowledged))
            await self._write(Batch(rows, (told,)))
            self.acknowledged += 1
            if self.acknowledged >= self._wanted:
                self._reached.set()

    async def _write(self, batch: Batch) -> None:
        while True:
            with suppress(StoreUnavailable):
                await self._store.ledger.write(batch)
                return
            await asyncio.sleep(0.05)

    async def more(self) -> None:
        """Wait for some more batches."""
        self._wanted = self.acknowledged + BETWEEN
        self._reached.clear()
        await self._reached.wait()


async def _kill(server: Server, uri: str, times: int) -> tuple[_Writer, MongoStore]:
    store = MongoStore(uri, print, patience_s=2)
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    writer = _Writer(store)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        for _ in range(times):
            await writer.more()
            server.kill()
            await asyncio.to_thread(server.start)
        await writer.more()
        writer.is_done = True
    return writer, store


async def _check(writer: _Writer, store: MongoStore) -> None:
    written = writer.acknowledged * ROWS_AT_ONCE
    (used,) = await store.ledger.usage(UsageQuery(by=()))
    (record,) = await store.keys.load(ACME)
    rows = await store.audit.since(0, written)

    assert used.exchanges == written
    assert (record.requests_count, record.tokens_used) == (written, written * 150)
    assert await state_of(store) == cooling(60, writer.acknowledged - 1)
    assert [row.seq for row in rows] == list(range(1, writer.acknowledged + 2))
    await store.close()


async def test_nothing_acknowledged_is_lost(mortal: Server) -> None:
    """Killed again and again while it writes: every row is there once, and counted once."""
    writer, store = await _kill(mortal, f"{mortal.uri}/x", KILLS)
    await _check(writer, store)
