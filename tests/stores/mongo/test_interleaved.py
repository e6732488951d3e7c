"""What comes between two steps, and what the driver sends: watched, and meddled with."""

from typing import Any

import pytest
from pymongo import MongoClient

from keymux.stores.mongo import MongoStore
from keymux.stores.port import Batch
from tests.contract.records import ACME, OPERATOR, exchange, key, spare
from tests.stores.mongo.watching import Command, Watcher

pytestmark = pytest.mark.anyio

ROWS = (exchange(1), exchange(2))


async def _prepared(uri: str) -> MongoStore:
    store = MongoStore(uri, print)
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    await store.backups.add(ACME, [spare("b1")], OPERATOR)
    return store


async def test_rows_that_the_driver_inserted_twice(uri: str, watching: Watcher) -> None:
    """The first answer was lost, and the second says that they are there: they count, once."""
    store = await _prepared(uri)
    meddled = []

    def insert_before(command: Command) -> None:
        if command.get("insert") == "exchanges":
            with MongoClient[dict[str, Any]](uri) as client:
                client.get_default_database()["exchanges"].insert_many(command["documents"])
            meddled.append(len(command["documents"]))

    watching.act = insert_before
    await store.ledger.write(Batch(ROWS))
    watching.act = None
    await store.ledger.write(Batch(ROWS))
    counted = {one.id: one.requests_count for one in await store.keys.load(ACME)}
    await store.close()

    assert meddled == [len(ROWS)]
    assert counted == {"k1": len(ROWS), "k2": 0}


def _upserts(command: Command) -> list[Any]:
    """The filters of all upserts in a command."""
    if "findAndModify" in command:
        return [command["query"]] if command.get("upsert") else []
    return [one["q"] for one in command.get("updates", []) if one.get("upsert")]


async def test_no_upsert_asks_what_a_server_refuses(uri: str, watching: Watcher) -> None:
    """MongoDB refuses ``$expr`` in the filter of an upsert; the server of the tests does not."""
    filters: list[Any] = []
    watching.act = lambda command: filters.extend(_upserts(command))
    store = await _prepared(uri)
    held = [await store.claims.claim("probe", owner, 5.0) for owner in ("a", "b", "a")]
    await store.ledger.write(Batch(ROWS))
    await store.ledger.tidy()
    await store.backups.promote(ACME, "k1", at=1, actor="host:1")
    await store.close()

    assert held == [True, False, True]
    assert len(filters) > 3
    assert not [one for one in filters if "$expr" in str(one)]
