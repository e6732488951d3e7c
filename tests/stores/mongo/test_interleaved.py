"""What comes between two steps, and what the driver sends: watched, and meddled with."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from keymux.stores.mongo import MongoStore
from keymux.stores.port import Batch
from tests.contract.records import ACME, OPERATOR, exchange, key, spare

pytestmark = pytest.mark.anyio

Command = Mapping[str, Any]
ROWS = (exchange(1), exchange(2))


class _Watcher(monitoring.CommandListener):
    """Hears of each command before it is sent; it acts only while it is told how."""

    def __init__(self) -> None:
        self.act: Callable[[Command], None] | None = None

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """A command is about to be sent; what is done now is not heard of again."""
        act, self.act = self.act, None
        if act is not None:
            act(event.command)
            self.act = act

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to do."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to do."""


_WATCHER = _Watcher()
monitoring.register(_WATCHER)


@pytest.fixture
def watching() -> Iterator[_Watcher]:
    """The watcher, idle again afterwards."""
    yield _WATCHER
    _WATCHER.act = None


async def _prepared(uri: str) -> MongoStore:
    store = MongoStore(uri, print)
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    await store.backups.add(ACME, [spare("b1")], OPERATOR)
    return store


async def test_rows_that_the_driver_inserted_twice(uri: str, watching: _Watcher) -> None:
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


async def test_no_upsert_asks_what_a_server_refuses(uri: str, watching: _Watcher) -> None:
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
